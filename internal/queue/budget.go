package queue

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// smallBody is how large, in bytes, an update may be that waits for nobody: with as many of those as there are workers
// it is no memory worth waiting for, and nobody's comment waits behind somebody's scan.
const smallBody = 16 << 10

// Budget bounds the content that a process holds in memory: bodies in its queues, whether they wait or are in use,
// bodies that are being read again, and what Take is asked for.
//
// What is in use takes its bytes from a fair semaphore before it is read. So it is never more than the limit, but for a
// single update larger than that, which passes alone, and for updates up to 16 KiB, two per worker. Nobody who has taken
// bytes waits for more, so there is always somebody who goes on. What waits is given what is left of the limit: it is
// dropped, to be read again in its turn, when what is in use needs the room, and fetching stops while there is none.
type Budget struct {
	limit int64
	using *semaphore.Weighted
	bytes atomic.Int64 // All that is held: in use, being read, waiting.
	// hungry tells that a queue does not fetch because of what others hold.
	hungry atomic.Bool

	mu     sync.Mutex
	queues []*Queue
	n      atomic.Int64 // How many those are.
}

// NewBudget makes a budget of limit bytes; 0 means DefaultMaxBytes.
func NewBudget(limit int64) *Budget {
	if limit <= 0 {
		limit = DefaultMaxBytes
	}
	return &Budget{limit: limit, using: semaphore.NewWeighted(limit)}
}

// Bytes is how many bytes are held now.
func (b *Budget) Bytes() int64 { return b.bytes.Load() }

// Take takes n bytes for something beside bodies, waiting for those who asked before until they are there: bodies that
// wait make room. Nobody may call it who has taken some already, or whose delivery is in use. release gives them back; it
// may be called more than once. The error is ctx's.
func (b *Budget) Take(ctx context.Context, n int64) (release func(), err error) {
	weight := min(n, b.limit)
	if err := b.acquire(ctx, weight); err != nil {
		return nil, err
	}
	b.bytes.Add(n)
	b.shed()
	return sync.OnceFunc(func() {
		b.using.Release(weight)
		b.freed(n)
	}), nil
}

// weight is what an update of size bytes takes while it is in use, or being read.
func (b *Budget) weight(size, bytes int64) int64 {
	if size <= smallBody {
		return 0
	}
	return min(bytes, b.limit)
}

// acquire takes a weight, in turn. Nothing is taken at once: the semaphore would make it wait for others too.
func (b *Budget) acquire(ctx context.Context, weight int64) error {
	if weight == 0 {
		return nil
	}
	return b.using.Acquire(ctx, weight)
}

// tryAcquire takes a weight if nobody has to wait for it.
func (b *Budget) tryAcquire(weight int64) bool { return weight == 0 || b.using.TryAcquire(weight) }

// freed notes that n bytes are not held any more.
func (b *Budget) freed(n int64) {
	b.bytes.Add(-n)
	if b.hungry.Load() && b.hungry.Swap(false) {
		for _, q := range b.members() {
			q.Wake()
		}
	}
}

// shed drops what waits until all fits, first what is needed last. Who calls it must hold no queue's mutex.
func (b *Budget) shed() {
	if b.bytes.Load() <= b.limit {
		return
	}
	queues := b.members()
	for _, next := range []func(*Queue) *Delivery{
		func(q *Queue) *Delivery { return q.parked.first },
		func(q *Queue) *Delivery { return q.waiting.last },
		func(q *Queue) *Delivery { return q.ready.last },
	} {
		for _, q := range queues {
			q.shed(next)
		}
	}
}

// shed drops one after the other until the budget's bytes fit.
func (q *Queue) shed(next func(*Queue) *Delivery) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for d := next(q); d != nil && q.budget.bytes.Load() > q.budget.limit; d = next(q) {
		q.dropLocked(d)
	}
}

// share is what each queue may hold.
func (b *Budget) share() int64 { return b.limit / max(b.n.Load(), 1) }

// headroom is what is left free of each share for what a request for updates brings, chunk at most.
func (b *Budget) headroom(chunk int64) int64 { return min(chunk, b.share()/2) }

// room reports whether a queue that holds some bytes may ask for chunk more.
func (b *Budget) room(bytes, chunk int64) bool {
	if bytes >= b.share()-b.headroom(chunk) {
		return false
	}
	most := b.limit - b.n.Load()*b.headroom(chunk)
	if b.bytes.Load() < most {
		return true
	}
	b.hungry.Store(true)
	return b.bytes.Load() < most // Looking again: what is freed from here on is heard of.
}

// over reports whether a queue that holds some bytes, or all together, are beyond what a request of chunk bytes made
// when there was room can have brought.
func (b *Budget) over(bytes, chunk int64) bool {
	beyond := chunk - b.headroom(chunk)
	return bytes > b.share()+beyond || b.bytes.Load() > b.limit+b.n.Load()*beyond
}

func (b *Budget) members() []*Queue {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.queues)
}

// join gives a queue its share. What the others hold beyond theirs leaves as it is settled.
func (b *Budget) join(q *Queue) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queues = append(b.queues, q)
	b.n.Store(int64(len(b.queues)))
}

// leave divides a queue's share among the others.
func (b *Budget) leave(q *Queue) {
	b.mu.Lock()
	b.queues = slices.DeleteFunc(b.queues, func(other *Queue) bool { return other == q })
	b.n.Store(int64(len(b.queues)))
	b.mu.Unlock()
	for _, other := range b.members() {
		other.Wake()
	}
}
