package simulator

import (
	"crypto/sha256"
	"slices"
	"sync"
	"time"
)

// Kinds of requests. The first two are the last token of the API's URL.
const (
	KindDocument = "dokument"
	KindComments = "kommentare"
	KindProbe    = "probe" // GET on the API's base URL.
	KindOther    = "other" // Anything else: a wrong path or method, a followed redirect.
)

// ledger remembers requests, bookings and token requests. One mutex guards it; it is held for well under a
// microsecond at a time, never while a request waits, so a total order of all events costs next to nothing.
type ledger struct {
	mu sync.Mutex
	// epoch counts resets: an entry of an earlier epoch is not recorded any more.
	epoch     uint64
	requests  chunked[entry]
	bookings  chunked[*entry]
	tokens    chunked[tokenEntry]
	vorgaenge map[string]*vorgang
	// traces counts the uses of each X-TraceId, repeated holds those used more than once.
	traces      map[string]struct{}
	repeated    map[string]int
	counts      Counts
	byStatus    map[int]int
	byKind      map[string]int
	tokenStatus map[int]int
	waiters     []*waiter
}

// vorgang is what the ledger knows about one Vorgang.
type vorgang struct {
	number   string
	bookings []*entry
	inFlight []*entry
}

// entry is one request, guarded by the ledger's mutex.
type entry struct {
	seq     int
	epoch   uint64
	kind    string
	method  string
	path    string // Only of KindOther; the others' follows from kind and Vorgang.
	vorgang *vorgang
	traceID string
	bodySHA [sha256.Size]byte
	size    int64
	body    []byte
	read    bool // The body was read to its end.

	received time.Time
	booked   time.Time
	finished time.Time
	// bookingSeq is the place in the order of all bookings, from 1.
	bookingSeq int
	status     int
	// gone is closed when the client has left; nil after the request.
	gone        <-chan struct{}
	repeated    bool
	overlapping bool
	clientGone  bool
}

// arrival is what is known of a request when it comes.
type arrival struct {
	kind           string
	method         string
	path           string
	vorgangsnummer string
	traceID        string
	gone           <-chan struct{}
}

func newLedger() *ledger {
	l := &ledger{}
	l.clearLocked()
	return l
}

func (l *ledger) clearLocked() {
	l.requests, l.bookings, l.tokens = chunked[entry]{}, chunked[*entry]{}, chunked[tokenEntry]{}
	l.vorgaenge = map[string]*vorgang{}
	l.traces, l.repeated = map[string]struct{}{}, map[string]int{}
	l.counts = Counts{}
	l.byStatus, l.byKind, l.tokenStatus = map[int]int{}, map[string]int{}, map[int]int{}
}

func (l *ledger) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch++
	l.clearLocked()
}

// arrive records a request at its beginning.
func (l *ledger) arrive(a arrival) *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.requests.add(entry{
		epoch: l.epoch, kind: a.kind, method: a.method, path: a.path, traceID: a.traceID,
		received: time.Now(), gone: a.gone,
	})
	l.counts.Requests++
	e.seq = l.counts.Requests
	l.byKind[a.kind]++
	e.repeated = l.traceLocked(a.traceID)
	if a.vorgangsnummer != "" {
		v := l.vorgaenge[a.vorgangsnummer]
		if v == nil {
			v = &vorgang{number: a.vorgangsnummer}
			l.vorgaenge[a.vorgangsnummer] = v
		}
		e.vorgang = v
		if a.traceID == "" {
			l.counts.MissingTraceIDs++
		}
		// Whoever has given up on a request may send the next one; the server cannot have noticed yet in rare cases.
		for _, other := range v.inFlight {
			if !isClosed(other.gone) {
				e.overlapping = true
			}
		}
		if e.overlapping {
			l.counts.Overlapping++
		}
		v.inFlight = append(v.inFlight, e)
	}
	l.wakeLocked()
	return e
}

// traceLocked counts a trace ID and reports whether it was used before.
func (l *ledger) traceLocked(traceID string) bool {
	if traceID == "" {
		return false
	}
	if _, used := l.traces[traceID]; !used {
		l.traces[traceID] = struct{}{}
		return false
	}
	l.counts.RepeatedTraceIDs++
	l.repeated[traceID] = max(l.repeated[traceID], 1) + 1
	return true
}

// bodyRead records a body that came in as a whole. body is kept, nil if it need not be.
func (l *ledger) bodyRead(e *entry, digest [sha256.Size]byte, size int64, body []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.bodySHA, e.size, e.body, e.read = digest, size, body, true
}

// book records that the update of a request was booked now. It comes before the answer.
func (l *ledger) book(e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.epoch != l.epoch {
		return
	}
	e.booked = time.Now()
	l.bookings.add(e)
	e.vorgang.bookings = append(e.vorgang.bookings, e)
	l.counts.Booked++
	e.bookingSeq = l.counts.Booked
	l.wakeLocked()
}

// answered records the end that a request is about to meet: a status, or 0 for a cut connection. It comes before
// the client can know, so that the Vorgang's next request cannot seem to overlap this one.
func (l *ledger) answered(e *entry, status int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.status = status
	e.endLocked()
}

// endLocked takes a request out of its Vorgang's requests in flight, once.
func (e *entry) endLocked() {
	e.clientGone = e.clientGone || isClosed(e.gone)
	e.gone = nil
	if v := e.vorgang; v != nil {
		v.inFlight = slices.DeleteFunc(v.inFlight, func(other *entry) bool { return other == e })
	}
}

// leave records the end of a request.
func (l *ledger) leave(e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.finished = time.Now()
	e.endLocked()
	if e.epoch != l.epoch {
		return
	}
	l.counts.Finished++
	l.byStatus[e.status]++
	if e.status == 0 {
		l.counts.Cut++
	}
	l.wakeLocked()
}

// tokenEntry is one token request.
type tokenEntry struct {
	TokenRequest
	epoch uint64
}

// tokenArrive records a token request at its beginning.
func (l *ledger) tokenArrive(traceID string) *tokenEntry {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.TokenRequests++
	e := l.tokens.add(tokenEntry{
		TokenRequest: TokenRequest{
			Seq: l.counts.TokenRequests, TraceID: traceID, RepeatedTraceID: l.traceLocked(traceID), ReceivedAt: time.Now(),
		},
		epoch: l.epoch,
	})
	l.wakeLocked()
	return e
}

// tokenUpdate changes a token request's record.
func (l *ledger) tokenUpdate(e *tokenEntry, change func(*TokenRequest)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&e.TokenRequest)
}

// tokenLeave records the end of a token request.
func (l *ledger) tokenLeave(e *tokenEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.AnsweredAt = time.Now()
	if e.epoch != l.epoch {
		return
	}
	l.counts.TokenRequestsFinished++
	l.tokenStatus[e.Status]++
	if e.Issued {
		l.counts.TokensIssued++
	}
	l.wakeLocked()
}

// isClosed reports whether a channel is closed; a nil channel is not.
func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// chunkSize keeps a growing list from being copied as a whole, and pointers into it good.
const chunkSize = 1024

// chunked is a list that only grows.
type chunked[T any] struct{ chunks [][]T }

// add appends a value and returns where it lies from now on.
func (c *chunked[T]) add(value T) *T {
	last := len(c.chunks) - 1
	if last < 0 || len(c.chunks[last]) == chunkSize {
		c.chunks = append(c.chunks, make([]T, 0, chunkSize))
		last++
	}
	c.chunks[last] = append(c.chunks[last], value)
	return &c.chunks[last][len(c.chunks[last])-1]
}

// chunk is the i-th part of the list as it is now, or nil behind the last one.
func (c *chunked[T]) chunk(i int) []T {
	if i >= len(c.chunks) {
		return nil
	}
	return c.chunks[i]
}
