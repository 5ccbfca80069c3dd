package deadletter

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"sync"
)

// discardWorkers is how many dead letters are discarded at once: over a network most of the time is waiting.
const discardWorkers = 8

// DiscardPlan is what is going to be discarded: what was there when it was made.
type DiscardPlan struct {
	Groups []Group
	Count  int

	seqs   []uint64
	filter Filter
}

// PlanDiscard plans to discard single dead letters or, without any, all that a filter selects now.
func (s *Store) PlanDiscard(ctx context.Context, seqs []uint64, f Filter) (*DiscardPlan, error) {
	plan := &DiscardPlan{seqs: slices.Compact(slices.Sorted(slices.Values(seqs))), filter: f}
	found := grouping{}
	if len(seqs) > 0 {
		for _, seq := range plan.seqs {
			msg, err := s.read(ctx, seq)
			if errors.Is(err, ErrNotFound) {
				continue // It is told when its turn comes.
			}
			if err != nil {
				return nil, err
			}
			found.add(summarize(msg.Subject, msg.Header, msg.Sequence, msg.Time, int64(len(msg.Data))))
			plan.Count++
		}
		plan.Groups = found.sorted()
		return plan, nil
	}
	last, err := s.LastSeq(ctx)
	if err != nil {
		return nil, err
	}
	if last == 0 {
		return plan, nil
	}
	if f.UpTo == 0 || f.UpTo > last {
		plan.filter.UpTo = last
	}
	for letter, err := range s.List(ctx, plan.filter) {
		if err != nil {
			return nil, err
		}
		found.add(letter)
		plan.Count++
	}
	plan.Groups = found.sorted()
	return plan, nil
}

// DiscardAll carries a plan out and reports each dead letter; report is never called twice at the same time. The error
// is what ended it early; the next plan goes on.
func (s *Store) DiscardAll(ctx context.Context, plan *DiscardPlan, opts DiscardOptions, report func(Discarded)) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var (
		workers sync.WaitGroup
		mu      sync.Mutex // Keeps report to one call at a time.
		queues  [discardWorkers]chan uint64
	)
	for i := range queues {
		queues[i] = make(chan uint64, 1)
		workers.Go(func() {
			for seq := range queues[i] {
				if ctx.Err() != nil {
					continue
				}
				done, err := s.Discard(ctx, seq, opts)
				if err != nil {
					stop(err)
					continue
				}
				mu.Lock()
				report(done)
				mu.Unlock()
			}
		})
	}
	err := s.planned(ctx, plan, queues[:])
	for i := range queues {
		close(queues[i])
	}
	workers.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause // What stopped it, not what came of that.
	}
	return err
}

// planned hands out what a plan selects.
func (s *Store) planned(ctx context.Context, plan *DiscardPlan, queues []chan uint64) error {
	seed := maphash.MakeSeed()
	hand := func(seq uint64) bool {
		select {
		case queues[maphash.Comparable(seed, seq)%uint64(len(queues))] <- seq:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for _, seq := range plan.seqs {
		if !hand(seq) {
			return nil
		}
	}
	if len(plan.seqs) > 0 || plan.Count == 0 {
		return nil
	}
	for letter, err := range s.List(ctx, plan.filter) {
		if err != nil {
			return err
		}
		if !hand(letter.Seq) {
			return nil
		}
	}
	return nil
}
