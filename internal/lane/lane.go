// Package lane is ordered work per key: one turn of a key at a time, in the order the items were added, while
// different keys never wait for each other.
//
// In an update's way it stands between the queue, which adds what it fetched, and relay's workers, which take
// turns. A key is a Vorgang. A lane whose head waits for a retry occupies no worker. The package bounds nothing by
// itself: whoever adds (the queue's intake) bounds how many items there are.
package lane

import (
	"context"
	"sync"
	"time"
)

// Lanes holds the lanes of all keys. Use New; all methods are safe for concurrent use.
type Lanes[T any] struct {
	mu    sync.Mutex
	lanes map[string]*lane[T]
	// ready is the list of lanes whose head may be taken: oldest first.
	ready ring[T]
	// idle are the callers of Next that found nothing, in the order they came.
	idle    []*waiter[T]
	items   int
	parked  int
	running int
	// held are the lanes whose heads wait for Resume.
	held    []*lane[T]
	onReady func(ready int)
}

// lane is the items of one key. It exists only while it has items.
type lane[T any] struct {
	key        string
	items      []T
	next, prev *lane[T] // in ready
	timer      *time.Timer
	due        time.Time // When the timer fires.
	taken      bool      // A Turn works on the head.
}

// waiter is one blocked Next.
type waiter[T any] struct {
	handed chan *lane[T] // buffered: the giver never blocks
}

// New makes empty lanes. onReady, if not nil, is called after each change of the number of lanes that could be
// taken at once; it must not block and must not call back into the lanes.
func New[T any](onReady func(ready int)) *Lanes[T] {
	if onReady == nil {
		onReady = func(int) {}
	}
	return &Lanes[T]{lanes: make(map[string]*lane[T]), onReady: onReady}
}

// Turn is the right to work on the head of one lane. Exactly one of Done, Retry, Hold and Return ends it; until then the
// lane's other items wait.
type Turn[T any] struct {
	lanes *Lanes[T]
	lane  *lane[T]
	// Item is the lane's head.
	Item T
}

// Add puts an item at the end of its key's lane and returns at once.
func (l *Lanes[T]) Add(key string, item T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.items++
	if present, ok := l.lanes[key]; ok {
		present.items = append(present.items, item)
		return
	}
	fresh := &lane[T]{key: key, items: []T{item}}
	l.lanes[key] = fresh
	l.readyLocked(fresh, false)
}

// Next waits until a lane's head may be worked on and takes it: the lane that has been ready longest, or with
// newest the one that became ready last. It gives ctx's cause when ctx ends first.
func (l *Lanes[T]) Next(ctx context.Context, newest bool) (*Turn[T], error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	l.mu.Lock()
	if head := l.ready.pop(newest); head != nil {
		defer l.mu.Unlock()
		l.onReady(l.ready.len)
		return l.takeLocked(head), nil
	}
	w := &waiter[T]{handed: make(chan *lane[T], 1)}
	l.idle = append(l.idle, w)
	l.mu.Unlock()

	select {
	case head := <-w.handed:
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.takeLocked(head), nil
	case <-ctx.Done():
		l.giveUp(w)
		return nil, context.Cause(ctx)
	}
}

// giveUp takes w off the waiting list; a lane that was handed to it in the same moment goes back to the front.
func (l *Lanes[T]) giveUp(w *waiter[T]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, other := range l.idle {
		if other == w {
			l.idle = append(l.idle[:i], l.idle[i+1:]...)
			return
		}
	}
	l.readyLocked(<-w.handed, true)
}

// readyLocked offers a lane to a waiting worker or lines it up.
func (l *Lanes[T]) readyLocked(head *lane[T], front bool) {
	if len(l.idle) > 0 {
		w := l.idle[0]
		l.idle = l.idle[1:]
		w.handed <- head
		return
	}
	l.ready.push(head, front)
	l.onReady(l.ready.len)
}

func (l *Lanes[T]) takeLocked(head *lane[T]) *Turn[T] {
	l.running++
	head.taken = true
	return &Turn[T]{lanes: l, lane: head, Item: head.items[0]}
}

// Done ends the turn of an item that is finished: the lane's next item may be taken.
func (t *Turn[T]) Done() {
	l := t.lanes
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	t.lane.taken = false
	l.items--
	var none T
	t.lane.items[0] = none // the array behind the slice must not keep the finished item
	t.lane.items = t.lane.items[1:]
	if len(t.lane.items) == 0 {
		delete(l.lanes, t.lane.key)
		return
	}
	l.readyLocked(t.lane, false)
}

// Retry ends the turn of an item that is to be tried again after the delay. The lane waits, without a worker.
func (t *Turn[T]) Retry(after time.Duration) {
	l := t.lanes
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	t.lane.taken = false
	l.parked++
	t.lane.due = time.Now().Add(after)
	t.lane.timer = time.AfterFunc(after, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.parked--
		t.lane.timer = nil
		l.readyLocked(t.lane, false)
	})
}

// Hold ends the turn of an item that must not be worked on for now: the lane waits, without a worker, until Resume.
func (t *Turn[T]) Hold() {
	l := t.lanes
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	t.lane.taken = false
	l.held = append(l.held, t.lane)
}

// Resume makes all lanes ready that wait for it, in the order they were held.
func (l *Lanes[T]) Resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.held
	l.held = nil
	for _, waiting := range held {
		l.readyLocked(waiting, false)
	}
}

// Return ends the turn as if it had never been taken, but at the end of the line: another lane comes first.
func (t *Turn[T]) Return() { t.giveBack(false) }

// ReturnFirst ends the turn as if it had never been taken: the lane keeps its place at the front.
func (t *Turn[T]) ReturnFirst() { t.giveBack(true) }

func (t *Turn[T]) giveBack(front bool) {
	l := t.lanes
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	t.lane.taken = false
	l.readyLocked(t.lane, front)
}

// Stats counts what the lanes hold at one moment.
type Stats struct {
	// Items counts all items, those being worked on included.
	Items int
	// Lanes counts the keys that have items.
	Lanes int
	// Ready counts lanes that could be taken at once, Waiting those in a retry's delay, Running those taken.
	// Held those that wait for Resume.
	Ready, Waiting, Running, Held int
}

// Stats counts what the lanes hold now.
func (l *Lanes[T]) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{Items: l.items, Lanes: len(l.lanes), Ready: l.ready.len, Waiting: l.parked, Running: l.running, Held: len(l.held)}
}

// Stop cancels the retries' timers, so that nothing runs after the workers have ended. What is still held stays
// where it came from.
func (l *Lanes[T]) Stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, held := range l.lanes {
		if held.timer != nil && held.timer.Stop() {
			held.timer = nil
			l.parked--
		}
	}
}

// ring is a doubly linked list of lanes: taking from both ends and no allocation per change.
type ring[T any] struct {
	first, last *lane[T]
	len         int
}

func (r *ring[T]) push(x *lane[T], front bool) {
	r.len++
	switch {
	case r.first == nil:
		r.first, r.last = x, x
	case front:
		x.next, r.first.prev = r.first, x
		r.first = x
	default:
		x.prev, r.last.next = r.last, x
		r.last = x
	}
}

func (r *ring[T]) pop(last bool) *lane[T] {
	x := r.first
	if last {
		x = r.last
	}
	if x == nil {
		return nil
	}
	r.len--
	if x.prev != nil {
		x.prev.next = x.next
	} else {
		r.first = x.next
	}
	if x.next != nil {
		x.next.prev = x.prev
	} else {
		r.last = x.prev
	}
	x.next, x.prev = nil, nil
	return x
}
