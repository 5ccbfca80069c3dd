package journal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

const (
	resultIDPrefix = "result-"
	// settledBatch is how many results are asked for at a time: they come without bodies.
	settledBatch = 2000
	// clockSlack is how much earlier than the oldest waiting update the scan of the results begins: the two streams
	// may have leaders on different machines, and other ones before.
	clockSlack = 2 * time.Minute
	// maxNamed is how many subjects of waiting updates are named as filters, so that only their Vorgänge's results are
	// read. nats-server compares each message with each filter: of 200,000 results it took 0.4 s with 8 filters, 1.9 s with
	// 64 and 22 s with 512, and 0.9 s for all without any (2.15.2). With more of them all are read.
	maxNamed = 8
)

// settledSet is a set of updates that have a result, 8 bytes each. Its zero value is empty.
type settledSet struct {
	// parts are sorted, and added to only as wholes.
	parts [][]uint64
}

// hash makes 8 bytes of an identity. Two different times of one sequence, as in a stream that was re-created, never
// give the same; two different sequences do with the chance of two random numbers.
func (k key) hash() uint64 {
	h := k.seq + 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return (h ^ h>>31) + uint64(k.at) //nolint:gosec // G115: the bits are all that counts.
}

func (s *settledSet) has(k key) bool {
	h := k.hash()
	for _, part := range s.parts {
		if _, ok := slices.BinarySearch(part, h); ok {
			return true
		}
	}
	return false
}

// add adds the hashes of a scan, which it sorts.
func (s *settledSet) add(part []uint64) {
	if len(part) == 0 {
		return
	}
	slices.Sort(part)
	s.parts = append(s.parts, part)
}

// settledKey reads from a result's subject and headers which update it settled. Notices, and messages that are not
// ours, settle none.
func settledKey(msg jetstream.Msg) (key, bool) {
	rest, ok := strings.CutPrefix(msg.Subject(), resultSubjectPrefix)
	if !ok {
		return key{}, false
	}
	outcome, _, _ := strings.Cut(rest, ".")
	switch update.Outcome(outcome) {
	case update.Delivered, update.DeadLettered:
	case update.Discarded, update.Erased: // Of a waiting update that was taken back; those of a dead letter have another ID.
	case update.Replayed, update.DoubleBooked:
		return key{}, false
	default:
		return key{}, false
	}
	ids := msg.Headers()[jetstream.MsgIDHeader]
	if len(ids) != 1 {
		return key{}, false
	}
	return parseResultID(ids[0])
}

var resultSubjectPrefix = strings.TrimSuffix(topology.SubjectResults, ">")

// parseResultID takes an update's identity out of the Nats-Msg-Id of its result.
func parseResultID(id string) (key, bool) {
	rest, ok := strings.CutPrefix(id, resultIDPrefix)
	if !ok {
		return key{}, false
	}
	seq, at, ok := strings.Cut(rest, "-")
	if !ok {
		return key{}, false
	}
	var k key
	var err error
	if k.seq, err = strconv.ParseUint(seq, 10, 64); err != nil {
		return key{}, false
	}
	if k.at, err = strconv.ParseInt(at, 10, 64); err != nil {
		return key{}, false
	}
	return k, true
}

// resultsRange is where a scan of the results begins.
type resultsRange struct {
	fromTime time.Time
	fromSeq  uint64
	filters  []string // nil: all.
}

// resultFilters are the subjects of the results that updates with these subjects can have, and the one of the stream's
// last message: seeing that is how a reader knows that its replica does not lag. nil stands for all.
func resultFilters(subjects []string, end resultsEnd) []string {
	if len(subjects) == 0 || end.last == 0 {
		return nil
	}
	named := map[string]bool{end.lastSubject: true}
	for _, stored := range subjects {
		// As update.Envelope reads them: what is not valid in a subject stands there as journal writes it.
		vorgangsnummer, kind, _ := update.ParseSubject(topology.PublishedSubject(stored))
		named[topology.ResultSubject("*", vorgangsnummer, kind)] = true
	}
	for filter := range named {
		if filter != end.lastSubject && covers(filter, end.lastSubject) {
			delete(named, end.lastSubject) // The server refuses filters that overlap.
		}
	}
	return slices.Sorted(maps.Keys(named))
}

// covers reports whether a filter with one * for the outcome matches a result's subject.
func covers(filter, subject string) bool {
	tail := strings.TrimPrefix(filter, resultSubjectPrefix+"*")
	return strings.HasPrefix(subject, resultSubjectPrefix) && strings.HasSuffix(subject, tail) &&
		!strings.Contains(strings.TrimSuffix(strings.TrimPrefix(subject, resultSubjectPrefix), tail), ".")
}

// resultsReader reads who is settled from KEX_RESULTS.
type resultsReader struct {
	js jetstream.JetStream
	// askEnd asks the stream's leader where it ends.
	askEnd func(ctx context.Context) (resultsEnd, error)
}

func newResultsReader(js jetstream.JetStream) resultsReader {
	return resultsReader{js: js, askEnd: func(ctx context.Context) (resultsEnd, error) { return readResultsEnd(ctx, js) }}
}

// settled gives which updates, of sequences up to bound, have results in a range up to end, as hashes. It ends only
// when it has seen the last of them: a replica that lags is waited for.
func (r resultsReader) settled(ctx context.Context, in resultsRange, end resultsEnd, bound uint64) ([]uint64, error) {
	var hashes []uint64
	for until := time.Now().Add(lagPatience); end.last != 0 && in.fromSeq <= end.last && !end.lastAt.Before(in.fromTime); {
		var err error
		if hashes, err = in.read(ctx, r.js, end.last, bound, hashes); err != nil {
			return nil, err
		}
		if in.fromSeq > end.last {
			break
		}
		asking, done := context.WithTimeout(ctx, electionTimeout)
		now, err := topology.Ask(asking, r.askEnd)
		done()
		if err != nil {
			return nil, err
		}
		if now.last < end.last { // It went meanwhile.
			end.last, end.lastAt = now.last, now.lastAt
			in.filters = nil // The one that is last now need not be among them.
		}
		if time.Now().After(until) {
			return nil, fmt.Errorf("reading %s up to %d: %w", topology.StreamResults, end.last, errLagging)
		}
		pause(ctx, lagPause)
	}
	return hashes, nil
}

// read appends what the range has up to a sequence, as far as the replica that answers has it, and moves the range's
// beginning behind it.
func (in *resultsRange) read(ctx context.Context, js jetstream.JetStream, to, bound uint64, hashes []uint64) ([]uint64, error) {
	scan := Scan{
		Stream: topology.StreamResults, Filters: in.filters, FromSeq: in.fromSeq, FromTime: in.fromTime, ToSeq: to,
		Batch: settledBatch, HeadersOnly: true, Patience: electionTimeout,
	}
	err := scan.each(ctx, js, func(msg jetstream.Msg, meta *jetstream.MsgMetadata) bool {
		if hashes == nil { // Grown by appending, a million would leave as much again behind.
			hashes = make([]uint64, 0, min(meta.NumPending+1, bound))
		}
		if k, ok := settledKey(msg); ok && k.seq <= bound {
			hashes = append(hashes, k.hash())
		}
		in.fromSeq, in.fromTime = meta.Sequence.Stream+1, time.Time{}
		return true
	})
	return hashes, err
}

// resultsEnd is where KEX_RESULTS ends.
type resultsEnd struct {
	// last is the last message there is, 0 for none, and lastAt when it was stored.
	last   uint64
	lastAt time.Time
	// lastSubject is its subject.
	lastSubject string
	// next is the sequence that the next message will have.
	next uint64
	// now is the clock of the stream's leader.
	now time.Time
}

// readResultsEnd asks the stream's leader.
func readResultsEnd(ctx context.Context, js jetstream.JetStream) (resultsEnd, error) {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	doing := "reading the end of " + topology.StreamResults
	stream, err := js.Stream(ctx, topology.StreamResults)
	if err != nil {
		return resultsEnd{}, Explain(doing, js, err)
	}
	info := stream.CachedInfo()
	end := resultsEnd{next: info.State.LastSeq + 1, now: info.TimeStamp}
	last, err := stream.GetLastMsgForSubject(ctx, topology.SubjectResults)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return end, nil
	case err != nil:
		return resultsEnd{}, Explain(doing, js, err)
	}
	end.last, end.lastAt, end.lastSubject, end.next = last.Sequence, last.Time, last.Subject, max(end.next, last.Sequence+1)
	return end, nil
}
