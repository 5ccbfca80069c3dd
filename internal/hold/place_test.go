package hold

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
)

// nothing else ends a wait.
var nothing [2]<-chan struct{}

// answering makes a gate that knows how long answers take, with its limit at most.
func answering(t *testing.T, limit int, took time.Duration) *Gate {
	t.Helper()
	g := newTestGate(limit)
	load(t, g, limit, max(time.Second, 20*took), func(int) time.Duration { return took })
	return g
}

// enterAll enters until nobody may any more.
func enterAll(t *testing.T, g *Gate) []*Pass {
	t.Helper()
	var passes []*Pass
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		pass, err := g.Enter(ctx)
		cancel()
		if err != nil {
			return passes
		}
		passes = append(passes, pass)
	}
}

// As many requests are prepared ahead as get a place within aheadTime: many for an API that answers at once, few for a
// slow one, none while nobody knows.
func TestRequestsArePreparedAheadAsTheAPIsAnswersAllow(t *testing.T) {
	for _, test := range []struct {
		took time.Duration
		want int
	}{
		{time.Millisecond, 32}, {aheadTime, 32}, {4 * aheadTime, 20}, {200 * time.Millisecond, 16},
	} {
		synctest.Test(t, func(t *testing.T) {
			if got := len(enterAll(t, answering(t, 16, test.took))); got != test.want {
				t.Errorf("answers after %v: %d passes, want %d", test.took, got, test.want)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		if got := len(enterAll(t, newTestGate(firstLimit))); got != firstLimit {
			t.Errorf("%d passes before the first answer, want %d", got, firstLimit)
		}
	})
}

// However many are prepared, no more have a place than the limit says, and those that wait get theirs in order.
func TestPlacesAreNeverMoreThanTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := answering(t, 2, time.Millisecond)
		passes := enterAll(t, g)
		if len(passes) != 4 {
			t.Fatalf("%d passes, want 4", len(passes))
		}
		placed := make(chan int, len(passes))
		for i, pass := range passes {
			go func() {
				if pass.Place(t.Context(), nothing) {
					placed <- i
				}
			}()
			synctest.Wait()
		}
		for i := range passes {
			if len(placed) != 2 {
				t.Fatalf("%d have a place, want 2", len(placed))
			}
			if got := <-placed; got != i {
				t.Errorf("pass %d has a place before pass %d", got, i)
			}
			passes[i].Leave(Signal{})
			synctest.Wait()
			if i >= 2 {
				break
			}
		}
	})
}

// A second request of the same pass, after a token was renewed, takes no second place.
func TestAPassHasOnePlace(t *testing.T) {
	g := newTestGate(1)
	pass, err := g.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if !pass.Place(t.Context(), nothing) {
			t.Fatal("no place")
		}
	}
	pass.Leave(Signal{})
	if g.places.taken != 0 {
		t.Errorf("%d places are taken, want 0", g.places.taken)
	}
}

// Whoever waits for a place gives up when sending is held, at the stop, and when the partition is handed over; the
// place goes to somebody else.
func TestTheWaitForAPlaceEnds(t *testing.T) {
	for name, end := range map[string]func(g *Gate, cancel context.CancelFunc, others [2]chan struct{}){
		"hold":  func(g *Gate, _ context.CancelFunc, _ [2]chan struct{}) { g.Raise(fault.Outage, 0, "down", true) },
		"stop":  func(_ *Gate, cancel context.CancelFunc, _ [2]chan struct{}) { cancel() },
		"lost":  func(_ *Gate, _ context.CancelFunc, others [2]chan struct{}) { close(others[0]) },
		"ended": func(_ *Gate, _ context.CancelFunc, others [2]chan struct{}) { close(others[1]) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := answering(t, 1, time.Millisecond)
				passes := enterAll(t, g)
				if len(passes) != 2 || !passes[0].Place(t.Context(), nothing) {
					t.Fatalf("%d passes, want 2, and a place", len(passes))
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				others := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
				got := make(chan bool, 1)
				go func() { got <- passes[1].Place(ctx, [2]<-chan struct{}{others[0], others[1]}) }()
				synctest.Wait()
				if len(got) != 0 {
					t.Fatal("it did not wait")
				}
				end(g, cancel, others)
				if <-got {
					t.Error("it got a place")
				}
				for _, pass := range passes {
					pass.Leave(Signal{})
				}
				if g.places.taken != 0 || len(g.places.waiting) != 0 {
					t.Errorf("%d places taken and %d waited for in the end", g.places.taken, len(g.places.waiting))
				}
			})
		})
	}
}

// A place that is granted to somebody who gives up in that moment goes to the next.
func TestAPlaceIsNotLostWithWhoGivesUp(t *testing.T) {
	var p places
	p.take(1)
	first, second := p.take(1), p.take(1)
	p.taken--
	p.grant(1)
	if !p.giveUp(first) {
		t.Fatal("the first was not granted the place")
	}
	p.taken--
	p.grant(1)
	select {
	case <-second:
	default:
		t.Error("the second did not get it")
	}
	if third := p.take(1); p.giveUp(third) || p.taken != 1 {
		t.Errorf("%d places are taken, want 1", p.taken)
	}
}
