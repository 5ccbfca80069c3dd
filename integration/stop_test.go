package integration

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// SIGTERM under load: what is being sent is settled inside the grace period, nothing is booked twice, and the next
// start goes on at once.
func TestStopUnderLoadSettlesWhatIsBeingSent(t *testing.T) {
	t.Parallel()
	const updates = 2400
	s := newSystem(t, simulator.Script{Latency: simulator.Fixed(300 * time.Millisecond)})
	for i := range updates {
		s.publish(fmt.Sprintf("kex.vorgang.%d.kommentare", 1+i%200), fmt.Sprintf(`["stop %d"]`, i), nil)
	}
	stops := 0
	for s.count(topology.StreamUpdates) > 0 {
		s.serve("KEXRELAY_LOG_LEVEL=info")
		booked := s.api.Counts().Booked
		begin := time.Now()
		eventually(t, 20*time.Second, "the relay sends", func() bool {
			return s.api.Counts().Booked >= booked+300 || s.count(topology.StreamUpdates) == 0
		})
		t.Logf("start %d: %d booked within %v", stops+1, s.api.Counts().Booked-booked, time.Since(begin))
		begin = time.Now()
		if code := s.relay.terminate(t, 10*time.Second); code != 0 {
			t.Fatalf("exit code %d after SIGTERM\n%s", code, tail(s.relay.output.String(), 20))
		}
		stops++
		t.Logf("stop %d took %v", stops, time.Since(begin))
		if left, booked := s.count(topology.StreamUpdates), s.api.Counts().Booked; left+booked != updates {
			t.Fatalf("after stop %d %d updates wait and %d are booked, want %d together", stops, left, booked, updates)
		}
	}
	if stops < 4 {
		t.Errorf("only %d stops under load", stops)
	}
	if n := s.checkLedger(nil); n != updates {
		t.Errorf("%d booked, want %d", n, updates)
	}
	if n := s.count(topology.StreamResults); n != updates {
		t.Errorf("%d results, want %d", n, updates)
	}
}

// A dead letter whose cause is fixed is delivered once, also when it is replayed twice at the same time.
func TestReplayOfAFixedDeadLetterIsDeliveredOnce(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{
		Vorgaenge: []simulator.VorgangRule{{Match: []string{"410410"}, Always: &simulator.Answer{Status: 410}}},
	})
	s.serve()
	const replays = 5
	for i := range replays {
		s.publish("kex.vorgang.410410.kommentare", fmt.Sprintf(`["replay %d"]`, i), map[string]string{
			"Nats-Msg-Id": fmt.Sprintf("replay-%d", i), "X-TraceId": fmt.Sprintf("trace-%d", i),
		})
	}
	s.drained(20 * time.Second)
	if n := s.count(topology.StreamDeadLetters); n != replays {
		t.Fatalf("%d dead letters", n)
	}
	if err := s.api.SetScript(simulator.Script{}); err != nil {
		t.Fatal(err)
	}
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			if out, errs, code := runProgram(t, s.natsEnv(), nil, programs.kexrelay, "deadletters", "replay", "--all", "--yes"); code != 0 {
				t.Errorf("replay: exit code %d\n%s%s", code, out, errs)
			}
		})
	}
	both.Wait()
	s.drained(20 * time.Second)
	if n := s.count(topology.StreamDeadLetters); n != 0 {
		t.Errorf("%d dead letters are left", n)
	}
	bookings := s.api.Bookings("410410")
	if len(bookings) != replays {
		t.Fatalf("%d bookings, want %d", len(bookings), replays)
	}
	for i, b := range bookings {
		if string(b.Body) != fmt.Sprintf(`["replay %d"]`, i) || b.TraceID != fmt.Sprintf("trace-%d-r1", i) {
			t.Errorf("booking %d: %s with trace ID %s", i, b.Body, b.TraceID)
		}
	}
	outcomes := make(map[update.Outcome]int)
	for _, e := range s.results() {
		outcomes[e.Data.Outcome]++
		if e.Data.Outcome == update.Delivered && (e.Data.ReplayOf == 0 || e.Data.TraceID == "") {
			t.Errorf("result of a replay %+v", e.Data)
		}
	}
	if outcomes[update.DeadLettered] != replays || outcomes[update.Replayed] != replays || outcomes[update.Delivered] != replays {
		t.Errorf("results by outcome %v, want %d of each", outcomes, replays)
	}
}

// A stop is clean also before NATS was ever reached.
func TestStopWhileNATSIsAway(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{})
	s.nats.kill()
	s.serve()
	eventually(t, 10*time.Second, "/readyz says that NATS is away", func() bool {
		_, reason := s.ready()
		return reason == "no_nats"
	})
	if code := s.relay.terminate(t, 10*time.Second); code != 0 {
		t.Errorf("exit code %d after SIGTERM\n%s", code, tail(s.relay.output.String(), 5))
	}
}
