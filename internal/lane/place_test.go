package lane

import (
	"testing"
	"testing/synctest"
	"time"
)

func is(n int) func(int) bool { return func(item int) bool { return item == n } }

func TestAPlaceSaysWhereAnItemStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New[int](nil)
		for _, item := range []int{1, 2, 3} {
			l.Add("a", item)
		}
		want := func(item int, place Place, found bool) {
			t.Helper()
			if _, got, ok := l.Find("a", is(item)); got != place || ok != found {
				t.Errorf("item %d: %+v (%v), want %+v (%v)", item, got, ok, place, found)
			}
		}
		want(1, Place{}, true)
		want(3, Place{Ahead: 2}, true)
		want(4, Place{}, false)
		if _, _, found := l.Find("b", is(1)); found {
			t.Error("found in a lane that is not there")
		}
		turn := take(t, l, false)
		want(1, Place{Taken: true}, true)
		want(2, Place{Ahead: 1}, true) // The head is taken, not this one.
		turn.Retry(time.Minute)
		want(1, Place{Due: time.Now().Add(time.Minute)}, true)
		time.Sleep(time.Minute)
		synctest.Wait()
		want(1, Place{}, true)
		turn = take(t, l, false)
		turn.Hold()
		want(1, Place{Held: true}, true)
		l.Resume()
		take(t, l, false).Done()
		want(2, Place{}, true)
	})
}

func TestALaneThatWaitsCanBeHurried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New[int](nil)
		l.Add("a", 1)
		l.Add("a", 2)
		take(t, l, false).Retry(time.Hour)
		l.Hurry("a", is(2)) // Not the head.
		l.Hurry("b", is(1))
		if s := l.Stats(); s.Waiting != 1 || s.Ready != 0 {
			t.Fatalf("%+v, want it waiting", s)
		}
		l.Hurry("a", is(1))
		if s := l.Stats(); s.Waiting != 0 || s.Ready != 1 {
			t.Fatalf("%+v, want it ready", s)
		}
		turn := take(t, l, false)
		turn.Hold()
		l.Hurry("a", is(1))
		if s := l.Stats(); s.Held != 0 || s.Ready != 1 {
			t.Fatalf("%+v, want it ready", s)
		}
		l.Hurry("a", is(1)) // Twice is once.
		if s := l.Stats(); s.Ready != 1 {
			t.Fatalf("%+v, want it ready once", s)
		}
		turn = take(t, l, false)
		l.Hurry("a", is(1)) // It is being worked on.
		if s := l.Stats(); s.Ready != 0 || s.Running != 1 {
			t.Fatalf("%+v, want it running", s)
		}
		turn.Done()
		take(t, l, false).Done()
		time.Sleep(2 * time.Hour) // The timer that was stopped does nothing.
		if s := l.Stats(); s != (Stats{}) {
			t.Errorf("%+v, want nothing left", s)
		}
	})
}
