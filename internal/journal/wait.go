package journal

import (
	"context"
	"fmt"
	"iter"
	"time"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// duplicateWindow is how long before a publish its duplicate may have been published, with some slack.
const duplicateWindow = topology.DuplicateWindow + 5*time.Minute

// Position is a place in KEX_RESULTS, made by Position. The zero value is the stream's beginning.
type Position struct {
	seq uint64
	at  time.Time
}

// Position is the end of KEX_RESULTS now. Take it before publishing: whatever becomes of an update published
// afterwards is told behind it.
func (r *Results) Position(ctx context.Context) (Position, error) {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	stream, err := r.open(ctx)
	if err != nil {
		return Position{}, err
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return Position{}, Explain("reading the state of "+topology.StreamResults, r.js, err)
	}
	return Position{seq: info.State.LastSeq, at: info.TimeStamp}, nil
}

// Awaited is an update as its PubAck names it.
type Awaited struct {
	Seq uint64
	// Duplicate is the PubAck's: the update was published before, and it may have been settled before the position.
	Duplicate bool
}

// WaitFor gives the end of each update, also that an operator cancelled or erased it, in the order they are settled, and
// ends when all are. It begins at from, which was taken before they were published, so it may be called after all of them
// were: none is missed. An update that was acknowledged as a duplicate is also looked for in the duplicate window before
// from.
//
// Updates are told by their sequence, not by the publisher's ID: that one may come again after the duplicate window,
// and its older result is not the answer. The same sequence given twice is waited for once.
//
// An error ends it: ctx's cause, with how many are still open, or why the stream cannot be read.
func (r *Results) WaitFor(ctx context.Context, from Position, updates []Awaited) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		open, early := awaiting(updates)
		if len(open) == 0 {
			return
		}
		for event, err := range r.events(ctx, from.scan(early), ResultFilter{}) {
			if err != nil {
				yield(Event{}, fmt.Errorf("waiting for %d of %d updates: %w", len(open), len(updates), err))
				return
			}
			duplicate, waiting := open[event.Data.UpdateSeq]
			before := event.Seq <= from.seq && !duplicate
			if !waiting || before || aboutDeadLetter(event.Data) {
				continue
			}
			delete(open, event.Data.UpdateSeq)
			if !yield(event, nil) || len(open) == 0 {
				return
			}
		}
	}
}

// awaiting gives the sequences that are waited for, each with whether it is a duplicate's, and whether one is.
func awaiting(updates []Awaited) (open map[uint64]bool, early bool) {
	open = make(map[uint64]bool, len(updates))
	for _, u := range updates {
		open[u.Seq] = open[u.Seq] || u.Duplicate
		early = early || u.Duplicate
	}
	return open, early
}

// aboutDeadLetter reports that something became of an update after it had ended as a dead letter.
func aboutDeadLetter(e EventData) bool {
	return e.DeadLetterSeq != 0 && (e.Outcome == update.Discarded || e.Outcome == update.Erased)
}

// scan follows the ends from a position on, or from so early that a duplicate's is among them.
func (p Position) scan(early bool) Scan {
	scan := Scan{
		Stream:  topology.StreamResults,
		FromSeq: p.seq + 1,
		Follow:  true,
	}
	for _, outcome := range []update.Outcome{update.Delivered, update.DeadLettered, update.Discarded, update.Erased} {
		scan.Filters = append(scan.Filters, topology.ResultSubject(outcome, "*", "*"))
	}
	if early {
		scan.FromSeq, scan.FromTime = 0, p.at.Add(-duplicateWindow)
	}
	return scan
}
