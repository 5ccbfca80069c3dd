package deadletter

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

const (
	// replayWorkers is how many Vorgänge are worked on at once. A replay is a handful of calls one after the other:
	// over a network most of its time is waiting.
	replayWorkers = 8
	// sweepFactor is how many old claims are looked at for each dead letter replayed: more than one, so that they
	// become fewer over time.
	sweepFactor = 2
	// publishMargin is how long after a claim its message is surely published or never. It is above all that a replay
	// waits and repeats, and above the duplicate window, for which the server still knows the message's ID.
	publishMargin = topology.DuplicateWindow + time.Hour
)

// Selection says which dead letters to replay.
type Selection struct {
	// Seqs are sequences in KEX_DEADLETTERS.
	Seqs []uint64
	// All takes all that Filter selects and that are there when Replay is called, instead of Seqs.
	All    bool
	Filter Filter
}

// ReplayOptions says how.
type ReplayOptions struct {
	// Unsure publishes also where nobody can know whether it was published before (see ErrUnsure).
	Unsure bool
	// Report, if not nil, hears of each dead letter when it is done with; it is never called twice at the same time.
	Report func(Item)
}

// Result says what became of one dead letter.
type Result string

// The results.
const (
	// Replayed means that this call published the update again.
	Replayed Result = "replayed"
	// Duplicate means that it had been published already, by somebody else or before an interruption; this call did
	// what was left to do.
	Duplicate Result = "duplicate"
	// Skipped means that there was nothing to do or that it can do no good; Err says why. The dead letter, if there
	// is one, stays.
	Skipped Result = "skipped"
	// Failed means that it went wrong for this one; Err says why and what to do. The dead letter stays.
	Failed Result = "failed"
)

// Item is what became of one dead letter.
type Item struct {
	Seq            uint64      `json:"seq"`
	Result         Result      `json:"result"`
	UpdateID       string      `json:"updateId,omitempty"`
	Vorgangsnummer string      `json:"vorgangsnummer,omitempty"`
	Kind           update.Kind `json:"kind,omitempty"`
	TraceID        string      `json:"traceId,omitempty"`
	// UpdateSeq is the new message's sequence in KEX_UPDATES, for Replayed and Duplicate.
	UpdateSeq uint64 `json:"updateSeq,omitempty"`
	// Err is why, for Skipped and Failed. Skipped with ErrNotFound: it was already replayed or removed.
	Err error `json:"-"`
}

// Totals counts items by their result.
type Totals struct {
	Replayed  int `json:"replayed"`
	Duplicate int `json:"duplicate"`
	Skipped   int `json:"skipped"`
	Failed    int `json:"failed"`
}

func (t *Totals) add(r Result) {
	switch r {
	case Replayed:
		t.Replayed++
	case Duplicate:
		t.Duplicate++
	case Skipped:
		t.Skipped++
	case Failed:
		t.Failed++
	}
}

// Replay sends dead letters back to where their updates were published, each at the end of the stream, in the order
// of the dead letters as far as one Vorgang is concerned. A dead letter is removed only after the server confirmed
// the new message, the mark on its claim and the replayed event.
//
// It may be called by several at the same time and again after any interruption: nothing is published twice. What
// became of each dead letter is reported one by one. The error is what stopped the run before its end (NATS
// refuses or does not answer, ctx ended); dead letters not reported then were left as they are or will be
// continued by the next call.
func (s *Store) Replay(ctx context.Context, sel Selection, opts ReplayOptions) (Totals, error) {
	run := &replayRun{store: s, opts: opts}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	run.stop = cancel
	if sel.All {
		run.all(ctx, sel.Filter)
	} else {
		run.each(ctx, sel.Seqs)
	}
	totals, err := run.finish(ctx)
	if err == nil && totals.Replayed+totals.Duplicate > 0 {
		// Tidying up is for the next one if it does not work out for this one.
		_, _ = s.sweepClaims(ctx, sweepFactor*(totals.Replayed+totals.Duplicate), time.Now().Add(-journal.SweepAge), publishMargin)
	}
	return totals, err
}

// replayRun is one call of Replay.
type replayRun struct {
	store *Store
	opts  ReplayOptions
	stop  context.CancelCauseFunc

	mu     sync.Mutex // Also keeps Report to one call at a time.
	totals Totals
	err    error
}

// each replays chosen dead letters one after the other.
func (r *replayRun) each(ctx context.Context, seqs []uint64) {
	for _, seq := range slices.Compact(slices.Sorted(slices.Values(seqs))) {
		if ctx.Err() != nil {
			return
		}
		r.one(ctx, seq)
	}
}

// all replays what a filter selects, several Vorgänge at once. The list ends with what is there now: an update that
// comes back as a new dead letter is not replayed again and again.
func (r *replayRun) all(ctx context.Context, filter Filter) {
	var workers sync.WaitGroup
	defer workers.Wait()
	var queues [replayWorkers]chan uint64
	for i := range queues {
		queues[i] = make(chan uint64, 1)
		defer close(queues[i])
		workers.Go(func() {
			for seq := range queues[i] {
				if ctx.Err() == nil {
					r.one(ctx, seq)
				}
			}
		})
	}
	seed := maphash.MakeSeed()
	for summary, err := range r.store.List(ctx, filter) {
		if err != nil {
			r.fail(err)
			return
		}
		select {
		case queues[maphash.String(seed, summary.Vorgangsnummer)%replayWorkers] <- summary.Seq:
		case <-ctx.Done():
			return
		}
	}
}

// one replays one dead letter and reports it, or ends the run.
func (r *replayRun) one(ctx context.Context, seq uint64) {
	item, err := r.store.replay(ctx, seq, r.opts)
	if err != nil {
		r.fail(err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.totals.add(item.Result)
	if r.opts.Report != nil {
		r.opts.Report(item)
	}
}

// fail keeps the first error, which is the cause of the others, and ends the run.
func (r *replayRun) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
		r.stop(err)
	}
}

func (r *replayRun) finish(ctx context.Context) (Totals, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil && ctx.Err() != nil {
		r.err = fmt.Errorf("replaying: %w", context.Cause(ctx))
	}
	return r.totals, r.err
}

// sweepClaims removes old claims of which neither the dead letter nor the new message is there any more.
//
// A claim whose publish was never confirmed names no message: whoever made it may have died before or after the
// publish. Its message is not there if every update there is was stored later than the claim by the margin.
func (s *Store) sweepClaims(ctx context.Context, limit int, before time.Time, margin time.Duration) (int, error) {
	return s.claims.Sweep(ctx, before, limit, func(ctx context.Context, claim journal.Claim) (bool, error) {
		letter, err := s.read(ctx, claim.DeadLetterSeq)
		if err == nil && letter.Time.Equal(claim.DeadLetterAt) {
			return false, nil
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return false, err
		}
		if !claim.Published() {
			return s.updatesBeginAfter(ctx, claim.WrittenAt().Add(margin))
		}
		waiting, err := s.waiting(ctx, claim)
		return !waiting, err
	})
}
