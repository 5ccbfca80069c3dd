package deadletter

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Whatever the canaries say and in whatever order workers are done: each letter is given at most once at a time, a
// Vorgang's in their order and one after the other, nothing of a group before its canary ended well, and in the end
// exactly those of refused groups are left.
func TestAScheduleKeepsEachVorgangsOrderAndWaitsForCanaries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const vorgaenge, groups = 4, 3
		var letters []planned
		for seq := range rapid.IntRange(0, 40).Draw(t, "letters") {
			letters = append(letters, planned{
				seq: uint64(seq + 1), vorgang: rapid.Uint32Range(0, vorgaenge-1).Draw(t, "vorgang"),
				group: rapid.Uint32Range(0, groups-1).Draw(t, "group"),
			})
		}
		well := rapid.SliceOfN(rapid.Bool(), groups, groups).Draw(t, "well")
		s := newSchedule(letters, vorgaenge, groups, true)
		out := map[int]bool{}            // Given and not back, by letter: whether as canary.
		waiting := map[uint32]struct{}{} // Groups whose canary was sent and has not ended.
		last := map[uint32]uint64{}      // By Vorgang.
		judged := map[uint32]bool{}
		sent := map[uint64]bool{}
		// Of what can be done something is drawn, so that each step does something.
		give := func() bool {
			i, canary, ok := s.next()
			if !ok {
				return false
			}
			letter := letters[i]
			for other := range out {
				if letters[other].vorgang == letter.vorgang {
					t.Fatalf("two of Vorgang %d at once", letter.vorgang)
				}
			}
			_, testing := waiting[letter.group]
			for other, trial := range out {
				testing = testing || trial && letters[other].group == letter.group
			}
			if canary == judged[letter.group] || testing {
				t.Fatalf("letter %d: canary %v, its group is judged %v, on trial %v", letter.seq, canary, judged[letter.group], testing)
			}
			if judged[letter.group] && !well[letter.group] {
				t.Fatalf("letter %d of a refused group", letter.seq)
			}
			out[i] = canary
			return true
		}
		unsent := 0 // How often one came back.
		takeBack := func() bool {
			if len(out) == 0 {
				return false
			}
			i := rapid.SampledFrom(slices.Sorted(maps.Keys(out))).Draw(t, "who comes back")
			letter, canary := letters[i], out[i]
			delete(out, i)
			if unsent < 2*len(letters) && rapid.Bool().Draw(t, "comes back unsent") {
				unsent++
				s.back(i)
				if canary {
					s.retest(letter.group)
				}
				return true
			}
			if letter.seq <= last[letter.vorgang] || sent[letter.seq] {
				t.Fatalf("letter %d after %d", letter.seq, last[letter.vorgang])
			}
			last[letter.vorgang], sent[letter.seq] = letter.seq, true
			s.sent(i)
			if canary {
				waiting[letter.group] = struct{}{}
			}
			return true
		}
		judge := func() bool {
			if len(waiting) == 0 {
				return false
			}
			group := rapid.SampledFrom(slices.Sorted(maps.Keys(waiting))).Draw(t, "whose canary has ended")
			delete(waiting, group)
			judged[group] = true
			s.judge(group, well[group])
			return true
		}
		can := []func() bool{give, takeBack, judge}
		for s.unsent > 0 || len(out) > 0 || len(waiting) > 0 {
			first, before := rapid.IntRange(0, len(can)-1).Draw(t, "step"), s.unsent
			if !can[first]() && !can[(first+1)%len(can)]() && !can[(first+2)%len(can)]() && s.unsent == before { // Looking for the next one, it leaves the refused.
				t.Fatalf("no end: %d unsent, and nothing can be done", s.unsent)
			}
		}
		left := 0
		for _, letter := range letters {
			if !sent[letter.seq] {
				left++
				if well[letter.group] {
					t.Fatalf("letter %d of a good group was not sent", letter.seq)
				}
			}
		}
		for _, group := range s.groups {
			left -= group.unsent
		}
		if left != 0 || s.out != 0 {
			t.Fatalf("%d more are left than are counted, %d out", left, s.out)
		}
	})
}

func TestWithoutCanariesTheOldestIsAlwaysNext(t *testing.T) {
	letters := []planned{{seq: 1}, {seq: 2, vorgang: 1, group: 1}, {seq: 3}, {seq: 4, vorgang: 2}}
	s := newSchedule(letters, 3, 2, false)
	for _, want := range []int{0, 1, 3} { // The third waits for the first.
		i, canary, ok := s.next()
		if i != want || canary || !ok {
			t.Errorf("next %d, %v, %v; want %d", i, canary, ok, want)
		}
	}
	if _, _, ok := s.next(); ok {
		t.Error("two of one Vorgang at once")
	}
	s.sent(0)
	if i, _, ok := s.next(); i != 2 || !ok {
		t.Errorf("then %d, %v", i, ok)
	}
}
