package hold

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
)

// A prober that died with its claim is taken over after the time a probe can take, not before.
func TestADeadProberIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, b := fleet(t)
		a.Raise(fault.Outage, time.Second, "503", true)
		news()
		a.probe(t)
		claimed := time.Now()
		a.stop() // Without another word about the probe: it has not left.
		probe := b.probe(t)
		if got := time.Since(claimed); got < takeover || got > takeover+time.Second {
			t.Errorf("taken over after %v, want %v", got, takeover)
		}
		if n := s.record(fault.Outage).Probe; n != 2 {
			t.Errorf("probe number %d, want 2", n)
		}
		probe.Leave(Signal{Kind: Works})
		news()
		if b.Held(fault.Outage) {
			t.Error("held after the success")
		}
	})
}

// A process that stops tells how its probe ended, so that nobody waits for it.
func TestTheEndOfAProbeIsToldAlsoAtAStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := fleet(t)
		a.Raise(fault.Outage, time.Second, "503", true)
		news()
		probe := a.probe(t)
		probe.Leave(Signal{})
		a.stop()
		start := time.Now()
		b.probe(t)
		if got := time.Since(start); got > time.Second {
			t.Errorf("probed after %v, want at once", got)
		}
	})
}

// Probes go on with the pace of the fleet when another process takes over, or all are started anew.
func TestThePaceSurvivesRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		r := s.join(t, "first")
		news()
		start := time.Now()
		r.Raise(fault.Outage, 0, "503", true)
		probes := 0
		for time.Since(start) < 5*time.Minute {
			r.probe(t).Leave(Signal{Kind: Failed})
			probes++
			news()
			r.stop()
			r = s.join(t, "next")
			for !r.Held(fault.Outage) {
				<-r.Changed()
			}
		}
		if probes > 20 {
			t.Errorf("%d probes in 5 minutes with a restart after each, want the policy's pace", probes)
		}
		r.stop()
	})
}

func TestAHoldIsInheritedWithWhatIsLeftOfItsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		a := s.join(t, "a")
		news()
		start := time.Now()
		a.Raise(fault.Throttling, time.Minute, "429", true)
		news()
		a.stop()
		time.Sleep(40 * time.Second)
		b := s.join(t, "b")
		if err := b.fleet.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.probe(t)
		if got := time.Since(start); got < time.Minute || got > time.Minute+time.Second {
			t.Errorf("probed %v after the 429, want 1m", got)
		}
		b.stop()
	})
}

// The fleet tries a rejected secret five times a minute, also when all find out at the same moment, and when they are
// restarted all the time.
func TestRejectedSecretIsTriedAtMostFiveTimesAMinuteByTheFleet(t *testing.T) {
	for name, restart := range map[string]bool{"steady": false, "restarted": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore()
				var tries []time.Time
				var fleet []*replica
				for _, n := range []string{"a", "b", "c"} {
					fleet = append(fleet, s.join(t, n))
				}
				news()
				for _, r := range fleet {
					tries = append(tries, time.Now())
					for range 8 { // Each worker tells what the one call showed.
						r.Raise(fault.Unauthorized, 0, "invalid_client", true)
					}
				}
				news()
				for start := time.Now(); time.Since(start) < 3*time.Minute; {
					for i, r := range fleet {
						ctx, cancel := context.WithTimeout(t.Context(), time.Second)
						pass, err := r.Enter(ctx)
						cancel()
						if err == nil {
							if pass.Claim(t.Context()) {
								tries = append(tries, time.Now())
								r.Raise(fault.Unauthorized, 0, "invalid_client", true)
							}
							pass.Leave(Signal{Kind: Unauthorized})
						}
						if restart {
							news()
							r.stop()
							fleet[i] = s.join(t, r.name)
							news()
						}
					}
				}
				for i := range tries {
					if i >= 5 && tries[i].Sub(tries[i-5]) < 59*time.Second {
						t.Errorf("tries %d to %d within %v", i-5, i, tries[i].Sub(tries[i-5]))
					}
				}
				if len(tries) < 10 {
					t.Errorf("only %d tries in 3 minutes", len(tries))
				}
				for _, r := range fleet {
					r.stop()
				}
			})
		})
	}
}
