package integration

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"kexrelay/internal/journal"
	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// evidence is what outside witnesses say about a run: the publisher's acks, the streams, the API's ledger, and who did
// what to the system. The checks need nothing else.
type evidence struct {
	updates map[string]*sentUpdate // by trace ID
	results []journal.Event
	// letters are the update sequences of the dead letters by their own.
	letters  map[uint64]uint64
	requests []simulator.Request
	handlers map[string]handler // by the request's trace ID
	// repeated are the trace IDs that more than one request had.
	repeated map[string]int
	troubles []trouble
	// pending is what is left in the stream and its consumers.
	pending []string
	// single says that one nats-server is all there is.
	single bool

	// What follows is derived by index.
	settled map[string][]journal.Event             // settlements by the update's trace ID
	notices map[string][]journal.Event             // double_booked events likewise
	sent    map[string]map[int][]simulator.Request // requests by the update's trace ID and the number of the attempt
}

// evidence hears the witnesses with a connection that has not been through the chaos.
func (c *chaos) evidence() *evidence {
	c.t.Helper()
	c.nc.Close()
	c.connect()
	if len(c.servers) > 1 {
		eventually(c.t, time.Minute, "the cluster is whole", func() bool { return whole(c.t.Context(), c.js, len(c.servers)) })
	}
	e := &evidence{
		results: c.results(), letters: c.letters(), requests: c.api.Requests(),
		repeated: c.api.RepeatedTraceIDs(), single: len(c.servers) == 1,
	}
	// The last acks may be on their way.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if e.pending = c.left(c.t.Context()); len(e.pending) == 0 || time.Now().After(end) {
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e.updates, e.handlers = c.updates, c.handlers
	for _, t := range c.troubles {
		e.troubles = append(e.troubles, *t)
	}
	e.index()
	return e
}

// letters are the update sequences of all dead letters by their own.
func (s *system) letters() map[uint64]uint64 {
	s.t.Helper()
	letters := make(map[uint64]uint64)
	for _, m := range s.read(topology.StreamDeadLetters) {
		meta, err := m.Metadata()
		if err != nil {
			s.t.Fatal(err)
		}
		seq, err := strconv.ParseUint(m.Headers().Get(topology.HeaderUpdateSeq), 10, 64)
		if err != nil {
			s.t.Errorf("dead letter %d names no update: %v", meta.Sequence.Stream, err)
		}
		letters[meta.Sequence.Stream] = seq
	}
	return letters
}

// left is what the streams and consumers still hold.
func (c *chaos) left(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := c.js.Stream(ctx, topology.StreamUpdates)
	if err != nil {
		return []string{err.Error()}
	}
	var left []string
	if n := s.CachedInfo().State.Msgs; n != 0 {
		left = append(left, fmt.Sprintf("%s holds %d updates", topology.StreamUpdates, n))
	}
	consumers := s.ListConsumers(ctx)
	for info := range consumers.Info() {
		if info.NumPending != 0 || info.NumAckPending != 0 {
			left = append(left, fmt.Sprintf("%s: %d to be delivered, %d to be acknowledged", info.Name, info.NumPending, info.NumAckPending))
		}
	}
	if err := consumers.Err(); err != nil {
		left = append(left, err.Error())
	}
	return left
}

// index sorts what the witnesses say by update.
func (e *evidence) index() {
	e.settled, e.notices = make(map[string][]journal.Event), make(map[string][]journal.Event)
	e.sent = make(map[string]map[int][]simulator.Request)
	for _, event := range e.results {
		switch event.Data.Outcome {
		case update.Delivered, update.DeadLettered:
			e.settled[event.Data.TraceID] = append(e.settled[event.Data.TraceID], event)
		case update.DoubleBooked:
			e.notices[event.Data.TraceID] = append(e.notices[event.Data.TraceID], event)
		case update.Replayed, update.Discarded, update.Erased: // There is no operator here.
		}
	}
	for _, r := range e.requests {
		if r.Kind != simulator.KindComments && r.Kind != simulator.KindDocument {
			continue
		}
		trace, n := attemptOf(r.TraceID)
		if e.sent[trace] == nil {
			e.sent[trace] = make(map[int][]simulator.Request)
		}
		e.sent[trace][n] = append(e.sent[trace][n], r)
	}
}

// attemptOf takes a request's trace ID apart: the update's, and the number of the attempt.
func attemptOf(requestTrace string) (trace string, n int) {
	trace, number, ok := strings.Cut(requestTrace, "-")
	if !ok {
		return trace, 1
	}
	n, err := strconv.Atoi(number)
	if err != nil {
		return requestTrace, 1
	}
	return trace, n
}

// traces are the trace IDs of all updates in the order they were made.
func (e *evidence) traces() []string {
	all := make([]string, 0, len(e.updates))
	for trace := range e.updates {
		all = append(all, trace)
	}
	sort.Strings(all)
	return all
}

// storedAgain reports that an update lies in the stream more than once: its publisher lost a PubAck, and the server
// no longer knew the ID when it was published again. Each copy is an update of its own.
func (e *evidence) storedAgain(trace string) bool {
	return len(e.settled[trace]) > 1 && e.updates[trace].tries > 1
}

// bookings are the requests for an update that were booked, in the order of booking.
func (e *evidence) bookings(trace string) []simulator.Request {
	var booked []simulator.Request
	for _, attempt := range e.sent[trace] {
		for _, r := range attempt {
			if r.Booked {
				booked = append(booked, r)
			}
		}
	}
	slices.SortFunc(booked, func(a, b simulator.Request) int { return a.BookedAt.Compare(b.BookedAt) })
	return booked
}

// flagged reports that a result of the update says that it may have been booked otherwise than it seems.
func (e *evidence) flagged(trace string) bool {
	return slices.ContainsFunc(e.settled[trace], func(event journal.Event) bool { return isFlagged(&event) })
}

// told reports that a double_booked event names the update.
func (e *evidence) told(trace string) bool { return len(e.notices[trace]) > 0 }

// troubled reports whether any trouble that fits overlaps a time.
func (e *evidence) troubled(from, to time.Time, fits func(trouble) bool) bool {
	return slices.ContainsFunc(e.troubles, func(t trouble) bool {
		return t.from.Before(to) && (t.to.IsZero() || t.to.After(from)) && fits(t)
	})
}

// ordered gives the requests to the API in the order of arrival.
func ordered(requests []simulator.Request) []simulator.Request {
	return slices.SortedFunc(slices.Values(requests), func(a, b simulator.Request) int { return cmp.Compare(a.Seq, b.Seq) })
}
