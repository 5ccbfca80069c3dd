package lane

import (
	"slices"
	"time"
)

// Place is where an item stood at one moment.
type Place struct {
	// Ahead counts the items of the same key before it.
	Ahead int
	// Taken says that its turn is on. It is the head then.
	Taken bool
	// Due is when the lane is tried again, zero unless it waits for that.
	Due time.Time
	// Held says that the lane waits for Resume.
	Held bool
}

// Find looks for an item in the lane of its key. It goes through the lane item by item: it is for questions that people
// ask.
//
//nolint:ireturn // Whatever the items are.
func (l *Lanes[T]) Find(key string, match func(T) bool) (item T, place Place, found bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	here := l.lanes[key]
	if here == nil {
		return item, place, false
	}
	at := slices.IndexFunc(here.items, match)
	if at < 0 {
		return item, place, false
	}
	place = Place{Ahead: at, Taken: here.taken && at == 0, Held: slices.Contains(l.held, here)}
	if here.timer != nil {
		place.Due = here.due
	}
	return here.items[at], place, true
}

// Hurry lets a lane be taken at once that waits for a retry's delay or for Resume, if its head is the one that is meant.
func (l *Lanes[T]) Hurry(key string, match func(T) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	here := l.lanes[key]
	if here == nil || !match(here.items[0]) {
		return
	}
	if here.timer != nil && here.timer.Stop() {
		here.timer = nil
		l.parked--
		l.readyLocked(here, false)
	}
	if at := slices.Index(l.held, here); at >= 0 {
		l.held = slices.Delete(l.held, at, at+1)
		l.readyLocked(here, false)
	}
}
