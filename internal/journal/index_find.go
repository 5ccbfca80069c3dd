package journal

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// Found is what a look at the results gave.
type Found struct {
	// Events are those of the IDs, oldest first.
	Events []Event
	// Results is how many there are, Since when the oldest of them was written (zero if there is none), Read how many
	// of them no index covered, so that they were read one by one.
	Results uint64
	Since   time.Time
	Read    uint64
}

// Find gives every event whose trace ID or update ID is one of ids. Most results are looked up in the index; what it
// does not cover is read, at some 100,000 per second: onRead, if not nil, is called before that with how many.
func (x *Index) Find(ctx context.Context, ids []string, onRead func(results uint64)) (Found, error) {
	state, err := x.state(ctx)
	if err != nil {
		return Found{}, err
	}
	out := Found{Results: state.messages, Since: state.firstAt}
	if state.messages == 0 {
		return out, nil
	}
	seqs, covered, err := x.lookUp(ctx, ids, state)
	if err != nil {
		return Found{}, err
	}
	for _, gap := range gaps(covered, state.first, state.last) {
		out.Read += gap.to - gap.from + 1
	}
	if onRead != nil && out.Read > 0 {
		onRead(out.Read)
	}
	for _, gap := range gaps(covered, state.first, state.last) {
		if seqs, err = x.readGap(ctx, ids, gap, seqs); err != nil {
			return Found{}, err
		}
	}
	slices.Sort(seqs)
	for _, seq := range seqs {
		event, err := x.results.At(ctx, seq)
		if errors.Is(err, ErrNoEvent) {
			continue // It expired, was erased, or is not one of ours.
		}
		if err != nil {
			return Found{}, err
		}
		if slices.Contains(ids, event.Data.TraceID) || slices.Contains(ids, event.Data.UpdateID) {
			out.Events = append(out.Events, event)
		}
	}
	return out, nil
}

// lookUp asks the index. Blocks that are not of this stream, or not any more, cover nothing.
func (x *Index) lookUp(ctx context.Context, ids []string, state resultsState) (seqs []uint64, covered []span, err error) {
	wanted := make([]uint32, len(ids))
	for i, id := range ids {
		wanted[i] = idHash(id)
	}
	var newest *indexed
	scan := Scan{Stream: controlStream, Filters: []string{controlSubject(indexPrefix + "*")}, Batch: indexBatch}
	for msg, err := range scan.Messages(ctx, x.control.js) {
		if err != nil {
			return nil, nil, err
		}
		block, ok := decodeIndexed(msg.Subject(), msg.Data())
		if !ok || block.created != state.created.UnixNano() {
			continue
		}
		seqs = block.find(wanted, seqs)
		covered = append(covered, span{block.first(), block.end()})
		if newest == nil || block.number > newest.number {
			newest = block
		}
	}
	if newest == nil {
		return nil, nil, nil
	}
	// A stream that was restored from a backup went on differently from some sequence on: the newest block shows it.
	good, err := x.good(ctx, newest, state)
	if err != nil || !good {
		return nil, nil, err
	}
	return seqs, covered, nil
}

// readGap appends the sequences of the IDs in a part of the results that no index covers.
func (x *Index) readGap(ctx context.Context, ids []string, gap span, seqs []uint64) ([]uint64, error) {
	scan := Scan{Stream: topology.StreamResults, FromSeq: gap.from, ToSeq: gap.to, Batch: settledBatch, HeadersOnly: true}
	for msg, err := range scan.Messages(ctx, x.control.js) {
		if err != nil {
			return nil, err
		}
		header := msg.Headers()
		if !slices.Contains(ids, header.Get(update.HeaderTraceID)) && !slices.Contains(ids, header.Get(topology.HeaderUpdateID)) {
			continue
		}
		meta, err := msg.Metadata()
		if err != nil {
			return nil, err
		}
		seqs = append(seqs, meta.Sequence.Stream)
	}
	return seqs, nil
}

// span is a range of sequences, both ends included.
type span struct{ from, to uint64 }

// gaps gives what of a range no span covers. Spans do not overlap.
func gaps(covered []span, from, to uint64) []span {
	slices.SortFunc(covered, func(a, b span) int {
		if a.from < b.from {
			return -1
		}
		return 1
	})
	var open []span
	for _, c := range covered {
		if c.to < from {
			continue
		}
		if c.from > from {
			open = append(open, span{from, min(c.from-1, to)})
		}
		from = c.to + 1
	}
	if from <= to {
		open = append(open, span{from, to})
	}
	return open
}

// RequestIDs gives what an ID may stand for: itself, and if it looks like the trace ID of one request, the update's
// that it was made of: <traceId>-<n>, <traceId>-r<k>, <traceId>-r<k>-<n>.
func RequestIDs(id string) []string {
	ids := []string{id}
	base, ok := cutNumber(id, "-")
	if ok {
		ids = append(ids, base)
	} else {
		base = id
	}
	if base, ok = cutNumber(base, "-r"); ok {
		ids = append(ids, base)
	}
	return ids
}

// cutNumber cuts a separator and a number without leading zero off the end.
func cutNumber(s, separator string) (string, bool) {
	i := strings.LastIndex(s, separator)
	if i <= 0 || !number(s[i+len(separator):]) {
		return s, false
	}
	return s[:i], true
}
