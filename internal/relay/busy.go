package relay

import (
	"context"
	"sync"
)

// busy counts, by tenure, what the workers have in hand, so that one partition can be handed over while the others go
// on.
type busy struct {
	mu sync.Mutex
	// working counts workers that have an update in hand, unsent those of them that may still write to the ledger
	// without having sent anything. Entries that are 0 are removed.
	working, unsent map[Tenure]int
	// ending are the tenures of which no attempt begins any more.
	ending map[Tenure]struct{}
	// zero tells that a count has become 0, ended that there is one more in ending.
	zero, ended broadcast
}

func newBusy() *busy {
	return &busy{working: map[Tenure]int{}, unsent: map[Tenure]int{}, ending: map[Tenure]struct{}{}}
}

// add changes the counts and tells who waits for one of them to be 0.
func (b *busy) add(t Tenure, working, unsent int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	working0, unsent0 := addTo(b.working, t, working), addTo(b.unsent, t, unsent)
	if working0 || unsent0 {
		b.zero.send()
	}
}

// addTo reports whether the count has become 0.
func addTo(counts map[Tenure]int, t Tenure, n int) bool {
	if n == 0 {
		return false
	}
	if counts[t] += n; counts[t] != 0 {
		return false
	}
	delete(counts, t)
	return true
}

// end lets no attempt of a tenure begin any more. What was ended before and is lost by now is forgotten.
func (b *busy) end(t Tenure) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for old := range b.ending {
		if lost(old) {
			delete(b.ending, old)
		}
	}
	b.ending[t] = struct{}{}
	b.ended.send()
}

func (b *busy) hasEnded(t Tenure) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ended := b.ending[t]
	return ended
}

// wait waits until a count of a tenure is 0, or until ctx ends.
func (b *busy) wait(ctx context.Context, counts map[Tenure]int, t Tenure) {
	for {
		b.mu.Lock()
		zero := b.zero.wait()
		n := counts[t]
		b.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-zero:
		case <-ctx.Done():
			return
		}
	}
}

// Quiet lets no attempt of a tenure begin any more, and waits until no worker is between taking one of its updates and
// sending it, or until ctx ends. What remains is being sent or settled; whatever was only prepared has been taken back in
// the ledger. A lease should be handed over after it: a successor then has to wait for nothing but real requests.
func (r *Relay) Quiet(ctx context.Context, t Tenure) {
	r.busy.end(t)
	r.busy.wait(ctx, r.busy.unsent, t)
}

// Settled waits until no worker has an update of a tenure in hand, or until ctx ends. It is for a tenure that is over:
// what was being sent then has been answered, settled and acked.
func (r *Relay) Settled(ctx context.Context, t Tenure) { r.busy.wait(ctx, r.busy.working, t) }
