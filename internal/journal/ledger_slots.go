package journal

import (
	"time"
)

const (
	// slotRest is how long a slot is left alone whose message was published more than once: a copy that is still on
	// its way would overwrite what came after it.
	slotRest = 10 * time.Minute
	// fewSlots and recordsPerSlot say how many slots may be in use before records are moved together.
	fewSlots       = 8
	recordsPerSlot = 64
)

// slot is one key of the ledger, and the updates whose last record lies in it.
type slot struct {
	number int
	keys   map[key]struct{}
	busy   bool      // A message is on its way into it.
	rest   time.Time // When it may be used again; zero for at once.
	used   int       // Its place among the slots in use.
}

func (s *slot) enter(k key) { s.keys[k] = struct{}{} }

// slots hands out free slots. The zero value has none in use.
type slots struct {
	made    int
	used    []*slot
	free    []*slot
	resting []*slot // In the order of their rest's end.
}

// take gives a free slot for a message.
func (s *slots) take(now time.Time) *slot {
	for len(s.resting) > 0 && !s.resting[0].rest.After(now) {
		s.free = append(s.free, s.resting[0])
		s.resting = s.resting[1:]
	}
	var taken *slot
	if n := len(s.free); n > 0 {
		taken = s.free[n-1]
		s.free = s.free[:n-1]
	} else {
		taken = &slot{number: s.made, keys: map[key]struct{}{}}
		s.made++
	}
	taken.busy, taken.rest, taken.used = true, time.Time{}, len(s.used)
	s.used = append(s.used, taken)
	return taken
}

// done says that a message is not on its way any more, or, with again, that a copy of it may be.
func (s *slots) done(t *slot, again bool, now time.Time) {
	t.busy = false
	if again {
		t.rest = now.Add(slotRest)
	}
	s.freeIfEmpty(t)
}

// leave says that an update's last record is not the one in this slot any more.
func (s *slots) leave(t *slot, k key) {
	delete(t.keys, k)
	s.freeIfEmpty(t)
}

func (s *slots) freeIfEmpty(t *slot) {
	if t.busy || len(t.keys) > 0 {
		return
	}
	last := s.used[len(s.used)-1]
	s.used[t.used], last.used = last, t.used
	s.used = s.used[:len(s.used)-1]
	if t.rest.IsZero() {
		s.free = append(s.free, t)
	} else {
		s.resting = append(s.resting, t)
	}
}

// emptiest gives the slot with the fewest records if more are in use than records (so many in all) justify.
func (s *slots) emptiest(records int) *slot {
	if len(s.used) <= fewSlots+records/recordsPerSlot {
		return nil
	}
	var found *slot
	for _, t := range s.used {
		if !t.busy && (found == nil || len(t.keys) < len(found.keys)) {
			found = t
		}
	}
	return found
}
