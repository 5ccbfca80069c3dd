package hold

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
)

// load keeps workers busy with requests that take as long as latency says for so many at once, and gives the most there
// were in the last part.
func load(t *testing.T, g *Gate, workers int, runs time.Duration, latency func(atOnce int) time.Duration) (most int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runs)
	defer cancel()
	var mu sync.Mutex
	now := 0
	late := time.Now().Add(runs * 3 / 4)
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for {
				pass, err := g.Enter(ctx)
				if err != nil {
					return
				}
				if !pass.Place(ctx, [2]<-chan struct{}{}) {
					pass.Leave(Signal{})
					return
				}
				mu.Lock()
				now++
				if time.Now().After(late) {
					most = max(most, now)
				}
				took := latency(now)
				mu.Unlock()
				time.Sleep(took)
				mu.Lock()
				now--
				mu.Unlock()
				pass.Leave(Signal{Kind: Works, Took: took})
			}
		})
	}
	all.Wait()
	return most
}

// An API whose answers take the same time at any load gets as many requests at once as configured, and never more.
func TestTheLimitGrowsToWhatIsConfigured(t *testing.T) {
	for _, limit := range []int{1, 7, 64} {
		synctest.Test(t, func(t *testing.T) {
			g := newTestGate(limit)
			if most := load(t, g, 100, 10*time.Second, func(int) time.Duration { return 200 * time.Millisecond }); most != limit {
				t.Errorf("%d at once, want %d", most, limit)
			}
		})
	}
}

// An API that works on eight at a time only answers later if more come: sending goes back to what it works on, and stays
// near it.
func TestTheLimitGoesBackWhenTheAPIGetsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGate(64)
		most := load(t, g, 64, 2*time.Minute, func(atOnce int) time.Duration {
			return 200 * time.Millisecond * time.Duration(max(atOnce, 8)) / 8
		})
		if most < 8 || most > 24 {
			t.Errorf("%d at once, want about 8 to 16", most)
		}
	})
}

// After a time of slow answers the limit is what is configured again.
func TestTheLimitComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGate(32)
		even := func(int) time.Duration { return 100 * time.Millisecond }
		load(t, g, 32, 10*time.Second, even)
		if most := load(t, g, 32, 20*time.Second, func(int) time.Duration { return 2 * time.Second }); most >= 32 {
			t.Errorf("%d at once while answers take twenty times as long", most)
		}
		if most := load(t, g, 32, time.Minute, even); most != 32 {
			t.Errorf("%d at once a minute later, want 32", most)
		}
	})
}

// However slow the answers are, a part of the configured requests is made: the API may be slow for other reasons.
func TestSlownessAloneNeverStopsSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGate(64)
		grow := 100 * time.Millisecond
		most := load(t, g, 64, 2*time.Minute, func(int) time.Duration {
			grow += time.Millisecond
			return grow
		})
		if most < 64/leastPart {
			t.Errorf("%d at once, want at least %d", most, 64/leastPart)
		}
	})
}

// After a throttle the first request goes alone.
func TestTheLimitBeginsAtOneAfterAThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGate(64)
		load(t, g, 64, 5*time.Second, func(int) time.Duration { return 50 * time.Millisecond })
		g.Raise(fault.Throttling, time.Second, "slow down", true)
		time.Sleep(2 * time.Second)
		probe, err := g.Enter(t.Context())
		if err != nil || !probe.Probe() {
			t.Fatalf("no probe: %v", err)
		}
		probe.Leave(Signal{Kind: Works})
		// The probe's own answer made room for a second one.
		for range 2 {
			if _, err := g.Enter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.Enter(ctx); err == nil {
			t.Error("a third one may pass at once")
		}
	})
}

// Whoever waits for a place gets the next one, also if somebody in front of him gives up in that moment.
func TestNoPlaceIsLostWhenAWaiterGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGate(1)
		pass, err := g.Enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		impatient, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if p, err := g.Enter(impatient); err == nil {
				p.Leave(Signal{})
			}
		})
		synctest.Wait()
		all.Go(func() {
			p, err := g.Enter(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			p.Leave(Signal{})
		})
		synctest.Wait()
		pass.Leave(Signal{})
		cancel()
		all.Wait()
	})
}

func newTestGate(limit int) *Gate {
	return New(Config{Limit: limit, Initial: time.Second, MaxInterval: time.Minute, Logger: slog.New(slog.DiscardHandler)})
}
