package app

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"kexrelay/internal/journal"
)

// fleetOf is what one of several replicas sees: holders has a letter per partition, "." for a free one.
func fleetOf(me string, live string, holders string) journal.Fleet {
	f := journal.Fleet{Me: me}
	for _, process := range live {
		f.Live = append(f.Live, string(process))
	}
	for _, holder := range holders {
		if holder == '.' {
			f.Partitions = append(f.Partitions, journal.Held{})
			continue
		}
		f.Partitions = append(f.Partitions, journal.Held{Holder: string(holder)})
	}
	return f
}

func TestWhatAReplicaDoes(t *testing.T) {
	tests := map[string]struct {
		me, live, holders string
		take              []int
		handOver          int
	}{
		"the first takes all":                        {"a", "a", "....", []int{0, 1, 2, 3}, -1},
		"a second one gets its half, one by one":     {"a", "ab", "aaaa", nil, 3},
		"who is to get waits":                        {"b", "ab", "aaaa", nil, -1},
		"what is free comes first":                   {"a", "abc", "aaa.", nil, -1},
		"and is taken by whose turn it is":           {"b", "abc", "aaa.", []int{3}, -1},
		"not by the next":                            {"c", "abc", "aaa.", nil, -1},
		"the last turn":                              {"c", "abc", "aab.", []int{3}, -1},
		"even is left alone":                         {"a", "abc", "aabc", nil, -1},
		"the one more stays where it is":             {"c", "abc", "abcc", nil, -1},
		"one too many":                               {"c", "abcd", "abcc", nil, 3},
		"both who have too many hand over":           {"b", "abc", "aaabbb", nil, 5},
		"more replicas than partitions":              {"c", "abc", "ab", nil, -1},
		"a standby takes what a dead one left":       {"c", "abc", "a.", nil, -1},
		"whose turn it is then":                      {"b", "abc", "a.", []int{1}, -1},
		"a dead one's are shared":                    {"b", "bc", "..bc", []int{0}, -1},
		"the other half of them":                     {"c", "bc", "..bc", []int{1}, -1},
		"a holder that is not registered is left":    {"b", "bc", "xxxx", nil, -1},
		"what it leaves free is shared all the same": {"b", "bc", "xx..", []int{2}, -1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := decide(fleetOf(test.me, test.live, test.holders))
			if !slices.Equal(d.take, test.take) || d.handOver != test.handOver {
				t.Errorf("takes %v, hands over %d, want %v and %d", d.take, d.handOver, test.take, test.handOver)
			}
		})
	}
}

// What this process lost without releasing it nobody else can take yet: it takes it back, its share or not.
func TestALeaseThatWasLostByExpiryIsTakenBack(t *testing.T) {
	f := fleetOf("a", "ab", ".b")
	f.Partitions[0].Own = true
	if d := decide(f); !slices.Equal(d.take, []int{0}) || d.handOver != -1 {
		t.Errorf("got %+v", d)
	}
}

func TestAnybodyTakesWhatNobodyTakes(t *testing.T) {
	f := fleetOf("a", "ab", "a.")
	f.Partitions[1].FreeFor = anybody - 1
	if d := decide(f); len(d.take) > 0 {
		t.Errorf("taken too soon: %+v", d)
	}
	f.Partitions[1].FreeFor = anybody
	if d := decide(f); !slices.Equal(d.take, []int{1}) {
		t.Errorf("got %+v", d)
	}
}

// world is replicas that act by decide, each in its time.
type world struct {
	live    []string
	holders []string // "" is free
	moves   int
}

func (w *world) fleet(me string) journal.Fleet {
	f := journal.Fleet{Me: me, Live: w.live}
	for _, holder := range w.holders {
		f.Partitions = append(f.Partitions, journal.Held{Holder: holder})
	}
	return f
}

// act lets one replica do what it decided when it looked, which may be some time ago: what somebody else has taken
// meanwhile it cannot take, as with a compare-and-set.
func (w *world) act(me string, d decision) (acted bool) {
	for _, number := range d.take {
		if w.holders[number] == "" {
			w.holders[number] = me
			w.moves++
			acted = true
		}
	}
	if d.handOver >= 0 && w.holders[d.handOver] == me {
		w.holders[d.handOver] = ""
		acted = true
	}
	return acted
}

func (w *world) settle(t *rapid.T, late bool) {
	for range 1000 {
		decided := make(map[string]decision)
		for _, me := range w.live {
			decided[me] = decide(w.fleet(me))
		}
		acted := false
		for _, me := range rapid.Permutation(w.live).Draw(t, "order") {
			if late && rapid.Bool().Draw(t, "late") {
				acted = w.act(me, decided[me]) || acted // By what it saw before the others acted.
			} else {
				acted = w.act(me, decide(w.fleet(me))) || acted
			}
		}
		if !acted {
			return
		}
	}
	t.Fatalf("no end: %v", w.holders)
}

func (w *world) check(t *rapid.T) {
	has := make(map[string]int)
	for number, holder := range w.holders {
		if !slices.Contains(w.live, holder) {
			t.Fatalf("partition %d is held by %q of %v", number, holder, w.live)
		}
		has[holder]++
	}
	low, high := len(w.holders), 0
	for _, process := range w.live {
		low, high = min(low, has[process]), max(high, has[process])
	}
	if high-low > 1 {
		t.Fatalf("not even: %v", has)
	}
}

func names(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("p%02d", i)
	}
	return all
}

// From any state everybody's decisions end in an even one, with every partition held and each moved a bounded number of
// times; one that joins or leaves moves no more than its share.
func TestDecisionsConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 64).Draw(t, "partitions")
		w := &world{live: names(rapid.IntRange(1, 9).Draw(t, "replicas")), holders: make([]string, n)}
		for i := range w.holders {
			w.holders[i] = rapid.SampledFrom(append(slices.Clone(w.live), "")).Draw(t, "holder")
		}
		w.settle(t, true)
		w.check(t)
		if w.moves > 2*n {
			t.Fatalf("%d moves of %d partitions", w.moves, n)
		}

		w.moves = 0
		w.live = append(w.live, "zz")
		w.settle(t, false)
		w.check(t)
		if most := (n + len(w.live) - 1) / len(w.live); w.moves > most {
			t.Fatalf("%d moves when one joined %d others, want at most %d", w.moves, len(w.live)-1, most)
		}

		w.moves = 0
		gone := rapid.SampledFrom(w.live).Draw(t, "gone")
		w.live = slices.DeleteFunc(slices.Clone(w.live), func(p string) bool { return p == gone })
		left := 0
		for i, holder := range w.holders {
			if holder == gone {
				w.holders[i], left = "", left+1
			}
		}
		if len(w.live) == 0 {
			return
		}
		w.settle(t, false)
		w.check(t)
		if w.moves != left {
			t.Fatalf("%d moves when one left that held %d", w.moves, left)
		}
	})
}

// leaving reports whether the partition is being handed over.
func (part *partition) leaving() bool {
	part.mu.Lock()
	defer part.mu.Unlock()
	return part.state == handingOver
}

// testSharing is a sharing of partitions that nobody serves.
func testSharing(n int) *sharing {
	var parts []*partition
	for number := range n {
		parts = append(parts, newPartition(number))
	}
	return newSharing(nil, parts, slog.New(slog.DiscardHandler))
}

// wanted are the partitions that were told to take their lease; they fail to.
func wanted(s *sharing) []int {
	var all []int
	for _, part := range s.partitions {
		select {
		case <-part.wanted:
			all = append(all, part.number)
			part.rest(false, 0)
		default:
		}
	}
	return all
}

// A replica that lives but takes nothing must not leave its share to nobody, and must not be offered one partition after
// the other.
func TestAReplicaThatTakesNothingIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := testSharing(4)
		f := fleetOf("b", "abx", "aab.") // x holds nothing: it is its turn.
		f.Partitions[3].FreeFor = grace - 1
		s.step(time.Now(), f)
		if got := wanted(s); len(got) > 0 {
			t.Errorf("%v taken in the turn of x", got)
		}
		f.Partitions[3].FreeFor = grace
		s.step(time.Now(), f)
		if got := wanted(s); !slices.Equal(got, []int{3}) {
			t.Errorf("%v taken, want what x did not take", got)
		}
		end := func() {}
		for _, number := range []int{2, 3} {
			s.partitions[number].serve(end)
		}
		even := fleetOf("b", "abx", "aabb")
		s.step(time.Now(), even)
		if s.partitions[2].leaving() || s.partitions[3].leaving() {
			t.Error("handed over again to one that takes nothing")
		}
		time.Sleep(passedFor)
		s.step(time.Now(), even)
		if !s.partitions[3].leaving() {
			t.Error("nothing offered to x any more")
		}
		f.Partitions[3].FreeFor = grace
		s.step(time.Now(), f)
		time.Sleep(passedFor)
		s.step(time.Now(), even)
		if time.Until(s.passed["x"].until) != passedFor {
			t.Errorf("passed over for %v more, want twice as long as before", time.Until(s.passed["x"].until))
		}
		s.step(time.Now(), fleetOf("b", "abx", "aabx"))
		if len(s.passed) > 0 {
			t.Errorf("still passed over although it holds one: %v", slices.Collect(maps.Keys(s.passed)))
		}
	})
}

// What was taken beyond one's share, because nobody else did, is kept for a while: nothing flaps.
func TestWhatNobodyElseTookIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := testSharing(3)
		f := fleetOf("a", "abc", "ab.") // It is the turn of c, and b is not in its way.
		f.Partitions[2].FreeFor = anybody
		s.blamed[2] = true // So c is not passed over: the others are, by somebody else.
		s.step(time.Now(), f)
		if got := wanted(s); !slices.Equal(got, []int{2}) {
			t.Fatalf("%v taken", got)
		}
		end := func() {}
		s.partitions[0].serve(end)
		s.partitions[2].serve(end)
		mine := fleetOf("a", "abc", "aba")
		time.Sleep(keepFor - 1)
		s.step(time.Now(), mine)
		if s.partitions[2].leaving() {
			t.Error("handed over at once")
		}
		time.Sleep(time.Nanosecond)
		s.step(time.Now(), mine)
		if !s.partitions[2].leaving() {
			t.Error("kept for good")
		}
	})
}

func TestOnePartitionAtATimeIsHandedOver(t *testing.T) {
	s := testSharing(4)
	for _, part := range s.partitions {
		part.serve(func() {})
	}
	f := fleetOf("a", "ab", "aaaa")
	for range 3 {
		s.step(time.Now(), f)
	}
	n := 0
	for _, part := range s.partitions {
		if part.leaving() {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d partitions are being handed over", n)
	}
}

// A partition that cannot be served here is left to others for longer than they wait for us. Without any others nothing
// comes of that.
func TestAPartitionInTroubleIsLeftToOthers(t *testing.T) {
	for alone, waits := range map[bool][]time.Duration{
		false: {takeOverPause, anybody + takeOverPause, anybody + takeOverPause},
		true:  {takeOverPause, takeOverPause, takeOverPause},
	} {
		synctest.Test(t, func(t *testing.T) {
			part := newPartition(0)
			take := func() bool {
				if !part.want(time.Now(), alone) {
					return false
				}
				<-part.wanted
				return true
			}
			for _, wait := range waits {
				if !take() {
					t.Fatal("not taken")
				}
				part.rest(true, takeOverPause)
				time.Sleep(wait - 1)
				if take() {
					t.Fatalf("alone %v: taken before %v", alone, wait)
				}
				time.Sleep(time.Nanosecond)
			}
			if !take() {
				t.Fatalf("alone %v: not taken", alone)
			}
			part.rest(false, 0)
			if !take() {
				t.Error("not taken at once after all went well")
			}
		})
	}
}
