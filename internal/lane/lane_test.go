package lane

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func take(t *testing.T, l *Lanes[int], newest bool) *Turn[int] {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	turn, err := l.Next(ctx, newest)
	if err != nil {
		t.Fatalf("Next: %v", err)
	}
	return turn
}

func TestOneTurnOfAKeyAtATimeInOrder(t *testing.T) {
	l := New[int](nil)
	l.Add("a", 1)
	l.Add("a", 2)
	l.Add("b", 3)
	first, second := take(t, l, false), take(t, l, false)
	if first.Item != 1 || second.Item != 3 {
		t.Fatalf("took %d and %d, want 1 (of a) and 3 (of b, as a is busy)", first.Item, second.Item)
	}
	if s := l.Stats(); s.Ready != 0 || s.Running != 2 || s.Items != 3 || s.Lanes != 2 {
		t.Fatalf("stats %+v with both lanes taken", s)
	}
	first.Done()
	if next := take(t, l, false); next.Item != 2 {
		t.Fatalf("after 1 came %d, want 2", next.Item)
	}
}

func TestRetryKeepsTheLaneWaitingAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New[int](nil)
		l.Add("a", 1)
		l.Add("a", 2)
		l.Add("b", 3)
		start := time.Now()
		take(t, l, false).Retry(3 * time.Second)
		if turn := take(t, l, false); turn.Item != 3 {
			t.Fatalf("got %d while a waits, want 3", turn.Item)
		} else {
			turn.Done()
		}
		if s := l.Stats(); s.Waiting != 1 {
			t.Fatalf("waiting %d, want 1", s.Waiting)
		}
		turn := take(t, l, false)
		if turn.Item != 1 || time.Since(start) != 3*time.Second {
			t.Fatalf("got %d after %v, want 1 again after exactly 3s", turn.Item, time.Since(start))
		}
	})
}

func TestReturnGoesBehindTheOthersAndReturnFirstDoesNot(t *testing.T) {
	l := New[int](nil)
	l.Add("a", 1)
	l.Add("b", 2)
	take(t, l, false).ReturnFirst()
	turn := take(t, l, false)
	if turn.Item != 1 {
		t.Fatalf("after ReturnFirst came %d, want 1", turn.Item)
	}
	turn.Return()
	if turn := take(t, l, false); turn.Item != 2 {
		t.Fatalf("after Return came %d, want 2", turn.Item)
	}
}

func TestNewestTakesTheLaneThatBecameReadyLast(t *testing.T) {
	l := New[int](nil)
	for i := range 5 {
		l.Add(strconv.Itoa(i), i)
	}
	if turn := take(t, l, true); turn.Item != 4 {
		t.Fatalf("newest is %d, want 4", turn.Item)
	}
	if turn := take(t, l, false); turn.Item != 0 {
		t.Fatalf("oldest is %d, want 0", turn.Item)
	}
}

func TestNextEndsWithItsContextAndLosesNothing(t *testing.T) {
	l := New[int](nil)
	var wg sync.WaitGroup
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan *Turn[int], 1)
		wg.Go(func() {
			if turn, err := l.Next(ctx, false); err == nil {
				got <- turn
			}
			close(got)
		})
		wg.Go(cancel)
		l.Add("a", 1)
		turn, ok := <-got
		if !ok { // cancelled first: the item must still be there
			turn = take(t, l, false)
		}
		turn.Done()
		cancel()
	}
	wg.Wait()
	if s := l.Stats(); s.Items != 0 || s.Lanes != 0 || s.Running != 0 {
		t.Fatalf("left over: %+v", s)
	}
}

func TestStopCancelsRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ready := 0
		l := New[int](func(n int) { ready = n })
		l.Add("a", 1)
		take(t, l, false).Retry(time.Second)
		l.Stop()
		time.Sleep(2 * time.Second)
		if ready != 0 || l.Stats().Ready != 0 {
			t.Fatal("a lane became ready after Stop")
		}
	})
}

// Whatever the workers do with their turns, each key's items are finished in the order they were added.
func TestOrderPerKeyHoldsForAnyScheduleOfTurns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := New[int](nil)
		added, finished := map[string][]int{}, map[string][]int{}
		taken := map[*Turn[int]]string{}
		busy := map[string]bool{}
		n := 0
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				key := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key")
				n++
				added[key] = append(added[key], n)
				l.Add(key, n)
			},
			"take": func(t *rapid.T) {
				if l.Stats().Ready == 0 {
					return
				}
				turn, err := l.Next(context.Background(), rapid.Bool().Draw(t, "newest"))
				if err != nil {
					t.Fatal(err)
				}
				if busy[turn.lane.key] {
					t.Fatalf("two turns of %s at once", turn.lane.key)
				}
				busy[turn.lane.key] = true
				taken[turn] = turn.lane.key
			},
			"end": func(t *rapid.T) {
				for turn, key := range taken {
					delete(taken, turn)
					busy[key] = false
					switch rapid.IntRange(0, 2).Draw(t, "how") {
					case 0:
						finished[key] = append(finished[key], turn.Item)
						turn.Done()
					case 1:
						turn.Return()
					default:
						turn.ReturnFirst()
					}
					return
				}
			},
			"": func(t *rapid.T) {
				for key, got := range finished {
					for i := range got {
						if got[i] != added[key][i] {
							t.Fatalf("key %s finished %v, added %v", key, got, added[key])
						}
					}
				}
			},
		})
	})
}

func BenchmarkTurns(b *testing.B) {
	l := New[int](nil)
	keys := make([]string, 500)
	for i := range keys {
		keys[i] = strconv.Itoa(i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		l.Add(keys[i%len(keys)], i)
		turn, err := l.Next(b.Context(), false)
		if err != nil {
			b.Fatal(err)
		}
		turn.Done()
	}
}

func TestAHeldLaneWaitsForResumeAndNoOther(t *testing.T) {
	l := New[int](nil)
	l.Add("a", 1)
	l.Add("b", 2)
	l.Add("a", 3)
	take(t, l, false).Hold()
	take(t, l, false).Done()
	if s := l.Stats(); s.Held != 1 || s.Ready != 0 || s.Running != 0 || s.Lanes != 1 {
		t.Errorf("stats %+v, want one lane held", s)
	}
	l.Resume()
	l.Resume()
	turn := take(t, l, false)
	if s := l.Stats(); turn.Item != 1 || s.Held != 0 || s.Ready != 0 {
		t.Errorf("took %d, want 1 again, once: %+v", turn.Item, s)
	}
}
