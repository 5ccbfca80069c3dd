package hold

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"kexrelay/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newGate() *Gate {
	return New(Config{
		Limit: 8, Initial: 500 * time.Millisecond, MaxInterval: time.Minute,
		Logger: slog.New(slog.DiscardHandler),
	})
}

func enter(t *testing.T, g *Gate) *Pass {
	t.Helper()
	pass, err := g.Enter(t.Context())
	if err != nil {
		t.Fatalf("Enter: %v", err)
	}
	return pass
}

func TestThrottleLetsNothingPassBeforeTheTimeAskedForThenRampsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		start := time.Now()
		g.Raise(fault.Throttling, 5*time.Second, "429", true)
		probe := enter(t, g)
		if got := time.Since(start); got != 5*time.Second || !probe.Probe() || !probe.Booking() {
			t.Fatalf("first pass after %v (probe %v), want a probe after exactly 5s", got, probe.Probe())
		}
		probe.Leave(Signal{Kind: Works})
		if holds := g.Holds(); len(holds) != 0 {
			t.Fatalf("still held after a probe's success: %+v", holds)
		}
		// One answer made room for two; the third has to wait for the next answer.
		first, _ := enter(t, g), enter(t, g)
		blocked, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := g.Enter(blocked); err == nil {
			t.Fatal("three at once right after a throttle, want two")
		}
		first.Leave(Signal{Kind: Works})
		enter(t, g)
		enter(t, g)
	})
}

func TestOneProbeAtATimePacedByTheRetryPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		start := time.Now()
		g.Raise(fault.Outage, 0, "503", true)
		probes := 0
		for time.Since(start) < 30*time.Second {
			probe := enter(t, g)
			second, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if _, err := g.Enter(second); err == nil {
				t.Fatal("a second probe while one is out")
			}
			cancel()
			probe.Leave(Signal{Kind: Failed})
			probes++
		}
		if probes < 5 || probes > 16 {
			t.Fatalf("%d probes in 30s, want a handful", probes)
		}
		if got := g.Holds()[0].Probes; got != probes {
			t.Fatalf("hold counts %d failed probes, want %d", got, probes)
		}
	})
}

func TestProbeThatLearnedNothingIsFollowedByAnotherAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.Raise(fault.Outage, time.Second, "503", true)
		enter(t, g).Leave(Signal{Kind: Nothing})
		start := time.Now()
		probe := enter(t, g)
		if !probe.Probe() || time.Since(start) != 0 {
			t.Fatalf("next probe after %v, want at once", time.Since(start))
		}
	})
}

func TestAnswerToARequestFromBeforeTheHoldDoesNotEndIt(t *testing.T) {
	g := newGate()
	early := enter(t, g)
	g.Raise(fault.Outage, time.Hour, "503", true)
	if early.MayStart() {
		t.Error("a pass from before the hold may still start")
	}
	early.Leave(Signal{Kind: Works})
	if !g.Held(fault.Outage) {
		t.Error("an answer from before the hold ended it")
	}
}

func TestLongerThrottleDuringAProbeIsNotEndedByIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.Raise(fault.Throttling, time.Second, "429", true)
		probe := enter(t, g)
		g.Raise(fault.Throttling, time.Minute, "429", true)
		start := time.Now()
		probe.Leave(Signal{Kind: Works})
		enter(t, g)
		if got := time.Since(start); got != time.Minute {
			t.Fatalf("passed %v after the longer wait was asked for, want 1m", got)
		}
	})
}

// Which answer ends which hold: an answer outside the hold's class, where "outside" for a refusal hold means an
// answer that needed the right itself.
func TestAnswersEndTheHoldsTheyAreOutsideOf(t *testing.T) {
	want := map[SignalKind][]fault.Reason{
		Nothing:      nil,
		Works:        {fault.Unauthorized, fault.Forbidden, fault.Throttling, fault.Outage},
		Refused:      {fault.Unauthorized, fault.Throttling, fault.Outage},
		Throttled:    {fault.Unauthorized, fault.Outage},
		Failed:       {fault.Unauthorized, fault.Throttling},
		Unauthorized: {fault.Throttling, fault.Outage},
	}
	for kind, ended := range want {
		for _, reason := range fault.HoldReasons() {
			synctest.Test(t, func(t *testing.T) {
				g := newGate()
				g.Raise(reason, time.Second, "", true)
				if reason == fault.Storage { // no probe ends it
					ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
					defer cancel()
					if _, err := g.Enter(ctx); err == nil {
						t.Error("a request passed while storage is held")
					}
					return
				}
				probe := enter(t, g)
				probe.Leave(Signal{Kind: kind})
				expect := false
				for _, e := range ended {
					expect = expect || e == reason
				}
				if reason == fault.Operator {
					expect = true // its deadline came, whatever the answer
				}
				if got := !g.Held(reason); got != expect {
					t.Errorf("signal %d ended %s: %v, want %v", kind, reason, got, expect)
				}
			})
		}
	}
}

func TestOperatorHoldWithoutDeadlineEndsOnlyByClear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.Raise(fault.Operator, 0, "maintenance", true)
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		if _, err := g.Enter(ctx); err == nil {
			t.Fatal("passed a pause")
		}
		g.Clear(fault.Operator)
		if enter(t, g).Probe() {
			t.Fatal("a probe with nothing held")
		}
	})
}

func TestRejectedSecretIsTriedAtMostFiveTimesAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.Raise(fault.Unauthorized, 0, "invalid_client", true)
		start, tries := time.Now(), 0
		for {
			probe := enter(t, g)
			if time.Since(start) > time.Minute {
				break
			}
			tries++
			probe.Leave(Signal{Kind: Unauthorized})
		}
		if tries == 0 || tries > 5 {
			t.Fatalf("%d tries in the first minute, want 1 to 5", tries)
		}
	})
}

func TestProbesBookNothingUntilTheApiAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.Raise(fault.Outage, time.Second, "504", false)
		probe := enter(t, g)
		if probe.Booking() {
			t.Fatal("the first probe after unknown outcomes may book")
		}
		probe.Answered(false)
		probe = enter(t, g)
		if probe.Booking() {
			t.Fatal("probe may book although the API has not answered yet")
		}
		start := time.Now()
		probe.Answered(true)
		probe = enter(t, g)
		if !probe.Booking() || time.Since(start) != 0 {
			t.Fatalf("booking %v after %v, want a real probe at once", probe.Booking(), time.Since(start))
		}
		probe.Leave(Signal{Kind: Works})
		if g.Held(fault.Outage) {
			t.Fatal("held after success")
		}
	})
}

func TestHeldForCountsTimeUnderAnyHoldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.Raise(fault.Outage, time.Hour, "", true)
		time.Sleep(3 * time.Second)
		g.Raise(fault.Storage, 0, "", true)
		time.Sleep(2 * time.Second)
		g.Clear(fault.Outage)
		time.Sleep(time.Second)
		g.Clear(fault.Storage)
		time.Sleep(time.Minute)
		if got := g.HeldFor(); got != 6*time.Second {
			t.Fatalf("held for %v, want 6s", got)
		}
	})
}

func TestEnterEndsWithItsContext(t *testing.T) {
	g := newGate()
	g.Raise(fault.Storage, 0, "", true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.Enter(ctx); err == nil {
		t.Fatal("entered with an ended context")
	}
	g.Clear(fault.Storage)
	if _, err := g.Enter(ctx); err == nil {
		t.Fatal("entered an open gate with an ended context")
	}
	for range 8 {
		enter(t, g) // no pass was leaked
	}
}

// A pause without a deadline has no next probe: the log does not name the year 1.
func TestTheLogNamesANextProbeOnlyIfThereIsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, reason := range []fault.Reason{fault.Operator, fault.Unauthorized} {
			probed := reason != fault.Operator
			var log bytes.Buffer
			g := New(Config{Limit: 1, Initial: time.Second, MaxInterval: time.Minute, Logger: slog.New(slog.NewJSONHandler(&log, nil))})
			g.Raise(reason, 0, "why", true)
			if got := log.String(); !strings.Contains(got, "sending is held") || strings.Contains(got, `"next_probe"`) != probed || strings.Contains(got, "0001-") {
				t.Errorf("%s: %s", reason, got)
			}
		}
	})
}
