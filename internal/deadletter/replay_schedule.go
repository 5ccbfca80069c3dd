package deadletter

import "container/heap"

// planned is a dead letter of a plan. There may be a million of them.
type planned struct {
	seq      uint64
	storedAt int64  // Nanoseconds since 1970.
	vorgang  uint32 // Index, as group is.
	group    uint32
}

// trial is what is known about a group.
type trial uint8

const (
	untested trial = iota
	onTrial        // Its canary is on its way.
	passed         // The rest may go.
	refused        // The rest stays.
)

// schedule says which dead letter is sent next: the first of each Vorgang before its second, and of each group one, the
// canary, before all others. A Vorgang whose next one waits for a canary waits with it: its later ones would overtake.
// What stays with a refused group, or cannot be sent, holds up nobody.
//
// It has no clock and calls nobody. One goroutine uses it.
type schedule struct {
	letters []planned
	lanes   []lane // By Vorgang.
	groups  []groupTrial
	ready   laneHeap
	// unsent are those that may still be given out; out are given out and not back.
	unsent, out int
}

// lane is what is left of a Vorgang, as indexes of letters.
type lane []int

type groupTrial struct {
	trial trial
	// waiting are the lanes whose next letter is of this group, while it is being tested.
	waiting []uint32
	// unsent are those of its letters that were not given out.
	unsent int
}

// newSchedule takes letters in the order of their sequences.
func newSchedule(letters []planned, vorgaenge, groups int, canaries bool) *schedule {
	s := &schedule{letters: letters, lanes: make([]lane, vorgaenge), groups: make([]groupTrial, groups), unsent: len(letters)}
	s.ready.s = s
	for i, letter := range letters {
		s.lanes[letter.vorgang] = append(s.lanes[letter.vorgang], i)
		s.groups[letter.group].unsent++
	}
	for g := range s.groups {
		if !canaries {
			s.groups[g].trial = passed
		}
	}
	for v := range s.lanes {
		s.place(uint32(v))
	}
	return s
}

// next gives the letter to send next, if there is one that may be sent now. A canary is its group's first one; nothing
// else of the group is given until judge or retest. Every letter given comes back by sent or back.
func (s *schedule) next() (i int, canary, ok bool) {
	for len(s.ready.lanes) > 0 {
		v, _ := heap.Pop(&s.ready).(uint32)
		i := s.lanes[v][0]
		group := &s.groups[s.letters[i].group]
		if group.trial == onTrial || group.trial == refused {
			s.place(v)
			continue
		}
		canary := group.trial == untested
		if canary {
			group.trial = onTrial
		}
		s.unsent--
		group.unsent--
		s.out++
		return i, canary, true
	}
	return 0, false, false
}

// sent lets the Vorgang of a letter that was given go on.
func (s *schedule) sent(i int) {
	s.out--
	v := s.letters[i].vorgang
	s.lanes[v] = s.lanes[v][1:]
	s.place(v)
}

// back takes back a letter that was given and not sent: it is its Vorgang's next one again.
func (s *schedule) back(i int) {
	s.out--
	s.unsent++
	s.groups[s.letters[i].group].unsent++
	s.place(s.letters[i].vorgang)
}

// judge says how the canary of a group fared: the rest may go, or stays.
func (s *schedule) judge(group uint32, well bool) {
	if well {
		s.change(group, passed)
	} else {
		s.change(group, refused)
	}
}

// retest says that the canary proved nothing: the next one given of the group is its canary.
func (s *schedule) retest(group uint32) { s.change(group, untested) }

func (s *schedule) change(group uint32, to trial) {
	g := &s.groups[group]
	g.trial = to
	waiting := g.waiting
	g.waiting = nil
	for _, v := range waiting {
		s.place(v)
	}
}

// place puts a lane where its next letter belongs.
func (s *schedule) place(v uint32) {
	for len(s.lanes[v]) > 0 {
		group := &s.groups[s.letters[s.lanes[v][0]].group]
		switch group.trial {
		case refused:
			s.lanes[v] = s.lanes[v][1:] // It stays; group.unsent still counts it.
			s.unsent--
			continue
		case onTrial:
			group.waiting = append(group.waiting, v)
		case untested, passed:
			heap.Push(&s.ready, v)
		}
		return
	}
}

// laneHeap has the lanes whose next letter may be sent, the oldest letter first.
type laneHeap struct {
	s     *schedule
	lanes []uint32
}

// Len, Less, Swap, Push and Pop are [heap.Interface].
func (h *laneHeap) Len() int { return len(h.lanes) }

// Less compares the lanes' next letters.
func (h *laneHeap) Less(a, b int) bool { return h.s.lanes[h.lanes[a]][0] < h.s.lanes[h.lanes[b]][0] }

// Swap is part of [heap.Interface].
func (h *laneHeap) Swap(a, b int) { h.lanes[a], h.lanes[b] = h.lanes[b], h.lanes[a] }

// Push is part of [heap.Interface].
func (h *laneHeap) Push(v any) {
	lane, _ := v.(uint32)
	h.lanes = append(h.lanes, lane)
}

// Pop is part of [heap.Interface].
func (h *laneHeap) Pop() any {
	last := len(h.lanes) - 1
	v := h.lanes[last]
	h.lanes = h.lanes[:last]
	return v
}
