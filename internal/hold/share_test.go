package hold

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
)

func TestWhatOneReplicaRaisesHoldsAllWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := fleet(t)
		early := enter(t, b.Gate)
		a.Raise(fault.Throttling, 5*time.Second, "429", true)
		if !a.Held(fault.Throttling) {
			t.Fatal("the raise does not act at once where it was made")
		}
		start := time.Now()
		for !b.Held(fault.Throttling) {
			<-b.Changed()
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("the other one holds after %v", took)
		}
		if early.MayStart() {
			t.Error("a pass from before the hold may still start")
		}
		early.Leave(Signal{Kind: Works})
		if !b.Held(fault.Throttling) {
			t.Error("an answer from before the hold ended it")
		}
		if h := b.Holds()[0]; h.Replica != "a" || h.Detail != "429" {
			t.Errorf("hold %+v does not say who raised it and why", h)
		}
		if probe := b.probe(t); time.Since(start) < 5*time.Second-2*latency {
			t.Errorf("probed %v after the 429", time.Since(start))
		} else {
			probe.Leave(Signal{Kind: Works})
		}
		news()
		if !a.lets(t) || !b.lets(t) {
			t.Error("still held after a probe's success")
		}
	})
}

// Whoever probes, there is one at a time, and the pace is one process's.
func TestOneProbeAtATimeInTheFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, b := fleet(t)
		c := s.join(t, "c")
		news()
		start := time.Now()
		a.Raise(fault.Outage, 0, "503", true)
		var mu sync.Mutex
		out, most, total := 0, 0, 0
		by := map[string]int{}
		var probers sync.WaitGroup
		for _, r := range []*replica{a, b, c} {
			for range 3 {
				probers.Go(func() {
					for time.Since(start) < 30*time.Second {
						probe := r.probe(t)
						if !probe.Probe() {
							probe.Leave(Signal{})
							return
						}
						mu.Lock()
						out, total = out+1, total+1
						most = max(most, out)
						by[r.name]++
						mu.Unlock()
						time.Sleep(50 * time.Millisecond)
						mu.Lock()
						out--
						mu.Unlock()
						kind := Failed
						if time.Since(start) >= 30*time.Second {
							kind = Works
						}
						probe.Leave(Signal{Kind: kind})
						news()
					}
				})
			}
		}
		probers.Wait()
		if most != 1 {
			t.Errorf("%d probes at once", most)
		}
		if total < 5 || total > 16 {
			t.Errorf("%d probes of the fleet in 30s, want as many as one process makes", total)
		}
		t.Logf("probes in 30s: %v", by)
	})
}

// A success ends the hold only as the prober knew it when its request began, whether or not it heard of the change
// before the answer came.
func TestProlongedHoldIsNotEndedByAProbeFromBefore(t *testing.T) {
	for name, deaf := range map[string]bool{"heard of": false, "not heard of": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, a, b := fleet(t)
				a.Raise(fault.Throttling, time.Second, "429", true)
				news()
				probe := a.probe(t)
				s.at(func() { s.deaf = deaf })
				late := time.Now()
				b.Raise(fault.Throttling, time.Minute, "429 again", true)
				news()
				probe.Leave(Signal{Kind: Works})
				s.at(func() { s.deaf = false })
				news()
				if !a.Held(fault.Throttling) || !b.Held(fault.Throttling) || s.record(fault.Throttling).Revision == 0 {
					t.Fatal("the longer hold was ended by an older success")
				}
				a.probe(t).Leave(Signal{Kind: Works})
				if got := time.Since(late); got < time.Minute {
					t.Errorf("probed %v after the longer wait was asked for", got)
				}
				news()
				if a.Held(fault.Throttling) || b.Held(fault.Throttling) {
					t.Error("held after the success")
				}
			})
		})
	}
}

func TestNoProbeWhenTheHoldIsProlongedWhileItIsClaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, _ := fleet(t)
		a.Raise(fault.Throttling, time.Second, "429", true)
		news()
		pass := enter(t, a.Gate)
		time.AfterFunc(latency/2, func() { a.Raise(fault.Throttling, time.Minute, "429 again", true) })
		if pass.Claim(t.Context()) {
			t.Error("claimed for a hold that asks for a minute more")
		}
		pass.Leave(Signal{})
	})
}

func TestTheLongerWaitWinsWhenTwoRaiseAtOnce(t *testing.T) {
	for name, waits := range map[string][2]time.Duration{
		"first":  {time.Minute, time.Second},
		"second": {time.Second, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, a, b := fleet(t)
				start := time.Now()
				a.Raise(fault.Throttling, waits[0], "429", true)
				b.Raise(fault.Throttling, waits[1], "429", false)
				news()
				for _, r := range []*replica{a, b} {
					h := r.Holds()[0]
					if wait := h.NextProbe.Sub(start); wait < time.Minute || wait > time.Minute+news2 {
						t.Errorf("%s probes after %v, want a minute", r.name, wait)
					}
					if h.Booking {
						t.Errorf("probes of %s may book", r.name)
					}
				}
				if n := s.record(fault.Throttling).Raises; n != 2 {
					t.Errorf("%d raises written down, want 2", n)
				}
			})
		})
	}
}

const news2 = 20 * latency

func TestUnknownOutcomesLetNobodyBook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := fleet(t)
		a.Raise(fault.Outage, time.Second, "504", false)
		news()
		ping := b.probe(t)
		if ping.Booking() {
			t.Fatal("a probe of another replica may book")
		}
		ping.Answered(true)
		news()
		if !a.probe(t).Booking() {
			t.Error("no probe may book although the API answered")
		}
	})
}

func TestAStandbyKnowsTheHoldsAndWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, b := fleet(t)
		b.idle.Store(true)
		a.Raise(fault.Throttling, time.Hour, "429", true)
		news()
		if !b.Held(fault.Throttling) {
			t.Fatal("the standby does not know")
		}
		before := s.writes
		b.Raise(fault.Outage, time.Hour, "late answer", true)
		news()
		if s.writes != before || b.Held(fault.Outage) {
			t.Errorf("%d writes of a standby; held for its own opinion: %v", s.writes-before, b.Held(fault.Outage))
		}
	})
}

func TestARaiseIsWrittenWhenTheStoreIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, b := fleet(t)
		s.at(func() { s.away = true })
		a.Raise(fault.Outage, time.Minute, "503", true)
		time.Sleep(10 * time.Second)
		if !a.Held(fault.Outage) || b.Held(fault.Outage) {
			t.Fatal("the raise must act at home alone while the store is away")
		}
		s.at(func() { s.away = false })
		time.Sleep(time.Second)
		if !b.Held(fault.Outage) {
			t.Error("not written within a second after the store was back")
		}
	})
}

// A claim that cannot be made delays the probe and lets it go on when the store is back.
func TestNoProbeWithoutAClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, _ := fleet(t)
		a.Raise(fault.Outage, time.Second, "503", true)
		news()
		s.at(func() { s.away = true })
		tries := 0
		for start := time.Now(); time.Since(start) < time.Minute; {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			pass, err := a.Enter(ctx)
			cancel()
			if err != nil {
				break
			}
			if pass.Claim(t.Context()) {
				t.Fatal("claimed without the store")
			}
			pass.Leave(Signal{})
			tries++
		}
		if tries == 0 || tries > 20 {
			t.Errorf("%d claims tried in a minute without the store, want the policy's pace", tries)
		}
		s.at(func() { s.away = false })
		a.probe(t).Leave(Signal{Kind: Works})
		news()
		if a.Held(fault.Outage) {
			t.Error("held after the success")
		}
	})
}

// The record decides: its removal by whoever ends the hold, also if the watcher was deaf or the bucket is a new one.
func TestTheNetFindsWhatTheWatcherLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, b := fleet(t)
		s.at(func() { s.deaf = true })
		a.Raise(fault.Outage, time.Hour, "503", true)
		news()
		a.Raise(fault.Outage, 2*time.Hour, "503", true)
		time.Sleep(lookEvery + time.Second)
		if !b.Held(fault.Outage) {
			t.Error("a hold that the watcher did not tell is not known")
		}
		s.at(func() { // A new bucket counts from 1 again.
			s.revision = 0
			s.putLocked(Record{Reason: fault.Outage, Since: time.Now(), WaitMillis: 60_000, Detail: "new", Raises: 1})
		})
		time.Sleep(lookEvery + time.Second)
		if d := b.Holds()[0].Detail; d != "new" {
			t.Errorf("the record of the new bucket is not believed: %q", d)
		}
		s.at(func() { s.removeLocked(fault.Outage) })
		time.Sleep(lookEvery + time.Second)
		if a.Held(fault.Outage) || b.Held(fault.Outage) {
			t.Error("held although the record is gone")
		}
	})
}

func TestProbeOfAFreshVorgangNeedsTheClaimToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := fleet(t)
		a.Raise(fault.Outage, time.Hour, "503", true)
		news()
		b.ProbeNow(fault.Outage)
		probe := b.probe(t)
		news()
		a.ProbeNow(fault.Outage)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := a.Enter(ctx); err == nil {
			t.Fatal("a second probe at once")
		}
		probe.Leave(Signal{Kind: Works})
		news()
		if a.Held(fault.Outage) {
			t.Error("held after the success")
		}
	})
}

// News that come late, as they do behind one's own writes, neither begin a hold anew nor change one back.
func TestOldNewsAreNoNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, _ := fleet(t)
		a.Raise(fault.Outage, time.Second, "first", true)
		news()
		old := s.record(fault.Outage)
		a.Raise(fault.Outage, time.Minute, "second", true)
		news()
		a.happened(&Change{Record: old})
		if d := a.Holds()[0].Detail; d != "second" {
			t.Errorf("the hold is %q again", d)
		}
		a.happened(&Change{Record: Record{Reason: fault.Outage, Revision: old.Revision}, Gone: true})
		if !a.Held(fault.Outage) {
			t.Fatal("ended by an older removal")
		}
		a.probe(t).Leave(Signal{Kind: Works})
		news()
		a.happened(&Change{Record: old})
		if a.Held(fault.Outage) {
			t.Error("held again by what was before the end")
		}
	})
}
