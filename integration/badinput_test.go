package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jsm.go"

	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

const relayConsumer = "relay-0"

// slow is an API that takes long enough for something to happen meanwhile.
func slow(d time.Duration) simulator.Script {
	return simulator.Script{Latency: &simulator.Latency{Fixed: d}}
}

// comments publishes n updates over so many Vorgänge, each with a body of its own.
func (s *system) comments(what string, n, vorgaenge int) {
	s.t.Helper()
	for i := range n {
		s.publish(fmt.Sprintf("kex.vorgang.%d.kommentare", 700000+i%vorgaenge), fmt.Sprintf(`["%s %d"]`, what, i), nil)
	}
}

// wantBooked checks that exactly n different updates were booked, none twice, and each has one delivered result
// without a flag.
func (s *system) wantBooked(n int) {
	s.t.Helper()
	if booked := s.checkLedger(nil); booked != n {
		s.t.Errorf("%d updates booked, want %d", booked, n)
	}
	delivered := 0
	for _, e := range s.results() {
		if e.Data.Outcome == update.Delivered {
			delivered++
		}
		if e.Data.PossibleDuplicate || e.Data.Outcome == update.DoubleBooked {
			s.t.Errorf("result %+v", e.Data)
		}
	}
	if delivered != n {
		s.t.Errorf("%d results delivered, want %d", delivered, n)
	}
}

// logged counts the relay's lines with a text.
func (s *system) logged(text string) int { return strings.Count(s.relay.output.String(), text) }

// awaitLogged waits for a line with a text: what a process prints is read a moment after what its port says.
func (s *system) awaitLogged(text string) {
	s.t.Helper()
	eventually(s.t, 10*time.Second, fmt.Sprintf("a line says %q", text), func() bool { return s.logged(text) > 0 })
}

// awaitServer waits until nats-server answers. A client may think itself connected for a moment after it was killed.
func (s *system) awaitServer() {
	s.t.Helper()
	eventually(s.t, 20*time.Second, "the server is there again", func() bool { return s.nc.FlushTimeout(time.Second) == nil })
}

// setup runs kexrelay setup.
func (s *system) setup(args ...string) {
	s.t.Helper()
	if out, errs, code := runProgram(s.t, s.natsEnv(), nil, programs.kexrelay, append([]string{"setup"}, args...)...); code != 0 {
		s.t.Fatalf("setup: exit code %d\n%s%s", code, out, errs)
	}
}

// awaitReady waits for what /readyz says.
func (s *system) awaitReady(code int, reason string) {
	s.t.Helper()
	eventually(s.t, 40*time.Second, fmt.Sprintf("/readyz says %d %s", code, reason), func() bool {
		c, r := s.ready()
		return c == code && r == reason
	})
}

// A consumer or a stream that somebody deletes is named, and waited for: what setup makes anew is served by the same
// process, although the sequences of a new stream repeat those of settled updates.
func TestAConsumerOrStreamThatIsDeletedIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := newSystem(t, slow(50*time.Millisecond))
	s.serve()
	s.comments("first", 10, 5)
	eventually(t, 10*time.Second, "some are booked", func() bool { return s.api.Counts().Booked > 2 })
	if err := s.js.DeleteConsumer(t.Context(), topology.StreamUpdates, relayConsumer); err != nil {
		t.Fatal(err)
	}
	s.awaitReady(http.StatusServiceUnavailable, "wrong_topology")
	s.awaitLogged("not as they must be any more") // And what to do:
	s.awaitLogged("kexrelay setup")
	s.comments("second", 5, 5)
	s.setup()
	s.drained(20 * time.Second)
	s.awaitReady(http.StatusOK, "ok")
	s.wantBooked(15)

	if err := s.js.DeleteStream(t.Context(), topology.StreamUpdates); err != nil {
		t.Fatal(err)
	}
	s.setup() // Perhaps before anybody has noticed.
	s.comments("third", 20, 5)
	s.drained(30 * time.Second)
	s.wantBooked(35)
}

// What somebody changes about the consumer is named by /readyz and a line, and harms nothing meanwhile.
func TestAConsumerThatIsChangedByHandIsNamed(t *testing.T) {
	t.Parallel()
	s := newSystem(t, slow(20*time.Millisecond))
	s.serve()
	s.awaitReady(http.StatusOK, "ok")
	consumer, err := s.js.Consumer(t.Context(), topology.StreamUpdates, relayConsumer)
	if err != nil {
		t.Fatal(err)
	}
	config := consumer.CachedInfo().Config
	config.AckWait, config.MaxDeliver = time.Second, 2
	config.FilterSubject = "kex.update.0.700001.>"
	if _, err := s.js.UpdateConsumer(t.Context(), topology.StreamUpdates, config); err != nil {
		t.Fatal(err)
	}
	s.comments("changed", 50, 5)
	s.awaitReady(http.StatusServiceUnavailable, "wrong_topology")
	for _, field := range []string{"ack_wait", "max_deliver", "filter_subjects"} {
		if _, body := s.get("/readyz"); !strings.Contains(body, field) {
			t.Errorf("%s is not named: %s", field, body)
		}
		s.awaitLogged(field)
	}
	s.setup()
	s.drained(40 * time.Second)
	s.awaitReady(http.StatusOK, "ok")
	s.wantBooked(50)
}

// Unpinning and resetting the consumer while updates are in flight repeats and loses nothing.
func TestUnpinningAndResettingByHandHarmsNothing(t *testing.T) {
	t.Parallel()
	s := newSystem(t, slow(20*time.Millisecond))
	s.serve()
	stream, err := s.js.Stream(t.Context(), topology.StreamUpdates)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 12 {
		s.comments(fmt.Sprint("round ", round), 25, 7)
		switch round % 4 {
		case 0:
			err = stream.UnpinConsumer(t.Context(), relayConsumer, topology.PriorityGroup)
		case 1:
			_, err = s.js.ResetConsumer(t.Context(), topology.StreamUpdates, relayConsumer)
		case 2:
			_, err = s.js.ResetConsumerToSequence(t.Context(), topology.StreamUpdates, relayConsumer, 1)
		case 3: // As if everything so far were settled.
			_, err = s.js.ResetConsumerToSequence(t.Context(), topology.StreamUpdates, relayConsumer, uint64(25*round+25))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s.drained(60 * time.Second)
	s.wantBooked(300)
}

// Updates that an operator purges while they are held are told by one line with their number, not by one each.
func TestPurgedUpdatesAreToldByOneLine(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{})
	if err := s.api.StartOutage(simulator.Outage{}); err != nil {
		t.Fatal(err)
	}
	s.serve("KEXRELAY_RETRY_MAX_INTERVAL=1s")
	s.comments("purged", 400, 2)
	s.awaitReady(http.StatusOK, "outage")
	eventually(t, 10*time.Second, "all are held", func() bool {
		_, metrics := s.get("/metrics")
		return strings.Contains(metrics, "kexrelay_held_updates 400")
	})
	stream, err := s.js.Stream(t.Context(), topology.StreamUpdates)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.api.EndOutage()
	eventually(t, 30*time.Second, "none is held", func() bool {
		_, metrics := s.get("/metrics")
		return strings.Contains(metrics, "kexrelay_held_updates 0")
	})
	s.awaitLogged("removed from the stream")
	if n := s.logged("removed from the stream"); n > 3 {
		t.Errorf("%d lines about it", n)
	}
	s.comments("after it", 5, 5)
	s.drained(20 * time.Second)
	s.checkLedger(nil)
}

// A backup that is restored under a running relay brings settled updates again, with their sequences and times:
// their results say so, and none is booked twice.
func TestARestoredBackupBooksNothingTwice(t *testing.T) {
	t.Parallel()
	// The backup has its consumer too, with what was delivered when it was taken: that comes again after its ack wait.
	const patience = 90 * time.Second
	s := newSystem(t, simulator.Script{})
	if err := s.api.StartOutage(simulator.Outage{}); err != nil {
		t.Fatal(err)
	}
	s.serve("KEXRELAY_RETRY_MAX_INTERVAL=500ms")
	s.comments("saved", 40, 8)
	s.awaitReady(http.StatusOK, "outage")
	manager, err := jsm.New(s.nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := manager.LoadStream(topology.StreamUpdates)
	if err != nil {
		t.Fatal(err)
	}
	backup := t.TempDir()
	if _, err := stream.SnapshotToDirectory(t.Context(), backup, jsm.SnapshotConsumers()); err != nil {
		t.Fatal(err)
	}
	s.api.EndOutage()
	s.drained(30 * time.Second)
	restore := func() {
		t.Helper()
		if err := s.js.DeleteStream(t.Context(), topology.StreamUpdates); err != nil {
			t.Fatal(err)
		}
		if _, _, err := manager.RestoreSnapshotFromDirectory(t.Context(), topology.StreamUpdates, backup); err != nil {
			t.Fatal(err)
		}
	}
	restore() // The very process has settled them.
	s.drained(patience)
	s.wantBooked(40)

	s.relay.terminate(t, 40*time.Second)
	s.serve() // It found an empty stream, and nothing in it to look up.
	s.awaitReady(http.StatusOK, "ok")
	restore()
	s.drained(patience)
	s.comments("new", 60, 8)
	s.drained(30 * time.Second)
	s.wantBooked(100)
}

// The same Nats-Msg-Id is stored once within the window. After it there are two updates with one ID, and each has its
// own result. What is published straight to the stored subject is nobody's, unless an operator lets it in.
func TestRepeatedIDsAndStoredSubjects(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{})
	s.serve()
	s.awaitReady(http.StatusOK, "ok")
	id := map[string]string{"Nats-Msg-Id": "the-same"}
	if s.publish("kex.vorgang.1.kommentare", `["first"]`, id).Duplicate {
		t.Error("the first is a duplicate")
	}
	if !s.publish("kex.vorgang.2.kommentare", `["never stored"]`, id).Duplicate {
		t.Error("the second is no duplicate")
	}
	stream, err := s.js.Stream(t.Context(), topology.StreamUpdates)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.nc.Request("kex.update.0.1.kommentare", []byte(`["x"]`), 5*time.Second); err == nil {
		t.Error("the stored subject is taken")
	}
	config := stream.CachedInfo().Config
	config.Subjects = append(config.Subjects, "kex.update.>")
	windows := []time.Duration{100 * time.Millisecond, 200 * time.Millisecond}
	eventually(t, 10*time.Second, "the window is over", func() bool {
		// The server forgets IDs by a timer that an update sets off before the new window is in force (nats-server
		// 2.15.2, stream.go): now and then it still reads the window of two hours and sleeps as long. Each further
		// change wakes it again.
		config.Duplicates = windows[0]
		windows[0], windows[1] = windows[1], windows[0]
		if _, err := s.js.UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		ack := s.publish("kex.vorgang.1.kommentare", `["after the window"]`, id)
		return !ack.Duplicate
	})
	s.publish("kex.update.0.3.kommentare", `["straight"]`, nil)
	s.publish("kex.update.7.4.kommentare", `["with a wrong partition"]`, nil)
	s.publish("kex.update.x.5.kommentare", `["with none"]`, nil)
	s.publish("kex.update.0", `["without anything"]`, nil)
	s.drained(20 * time.Second)
	s.wantBooked(5)
	same := map[uint64]bool{}
	for _, e := range s.results() {
		if e.Data.UpdateID == "the-same" {
			same[e.Data.UpdateSeq] = true
		}
	}
	if len(same) != 2 {
		t.Errorf("results of %d updates with the same ID, want 2", len(same))
	}
	if n := s.count(topology.StreamDeadLetters); n != 1 {
		t.Errorf("%d dead letters, want the one without a Vorgang", n)
	}
}

// Foreign messages in the streams and buckets stop neither the relay nor a command, before and while it runs.
func TestForeignMessagesStopNobody(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{
		Vorgaenge: []simulator.VorgangRule{{Match: []string{"410"}, Always: &simulator.Answer{Status: 410}}},
	})
	garbage := func() {
		t.Helper()
		for _, subject := range []string{
			"kex.result.delivered.1.kommentare", "kex.result.x", "kex.deadletter.gone.1.kommentare", "kex.deadletter.x.y",
			"$KV.KEX_LEDGER.garbage", "$KV.KEX_LEDGER.0.1.zz.0", "$KV.KEX_LEDGER.0.x.y.z",
			"$KV.KEX_CONTROL.garbage", "$KV.KEX_CONTROL.lease.0", "$KV.KEX_CONTROL.lease.x", "$KV.KEX_CONTROL.hold.outage",
			"$KV.KEX_CONTROL.hold.x", "$KV.KEX_CONTROL.hold.operator", "$KV.KEX_CONTROL.claim.1-2", "$KV.KEX_CONTROL.claim.x",
		} {
			s.publish(subject, `{"a":[1]}`, nil)
			s.publish(subject, "{no JSON", nil)
		}
		s.publish("kex.result.delivered.1.kommentare", `[]`, map[string]string{"Nats-Msg-Id": "result-99999999999999999999-x"})
	}
	garbage()
	s.comments("before", 20, 4)
	s.serve()
	resume := func() { // What somebody wrote as an operator's hold is one.
		t.Helper()
		s.awaitReady(http.StatusOK, "operator")
		if out, errs, code := runProgram(t, s.natsEnv(), nil, programs.kexrelay, "resume"); code != 0 {
			t.Fatalf("resume: exit code %d\n%s%s", code, out, errs)
		}
	}
	resume()
	s.drained(40 * time.Second)
	garbage()
	resume()
	s.publish("kex.vorgang.410.kommentare", `["dead"]`, nil)
	s.comments("after", 20, 4)
	s.drained(40 * time.Second)
	if n := s.checkLedger(nil); n != 40 {
		t.Errorf("%d booked, want 40", n)
	}
	for _, args := range [][]string{
		{"deadletters", "list"}, {"results", "list"}, {"deadletters", "show", "1"}, {"status"},
	} {
		out, errs, code := runProgram(t, s.natsEnv(), nil, programs.kexrelay, args...)
		if strings.Contains(out+errs, "panic") || strings.Contains(out+errs, "goroutine") || args[1%len(args)] == "list" && code != 0 {
			t.Errorf("%v: exit code %d\n%s%s", args, code, out, errs)
		}
	}
}

// A dead letter that is replayed while its Vorgang's lane is busy goes to its end.
func TestAReplayIntoABusyLaneGoesToItsEnd(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{
		Latency:   &simulator.Latency{Fixed: 300 * time.Millisecond},
		Vorgaenge: []simulator.VorgangRule{{Match: []string{"8"}, Sequence: []simulator.Step{{Answer: simulator.Answer{Status: 410}}}}},
	})
	s.serve()
	s.publish("kex.vorgang.8.kommentare", `["replayed"]`, nil)
	s.drained(20 * time.Second)
	var want []string
	for i := range 8 {
		want = append(want, fmt.Sprintf(`["%d"]`, i))
		s.publish("kex.vorgang.8.kommentare", want[i], nil)
	}
	eventually(t, 10*time.Second, "the lane is busy", func() bool { return len(s.api.Bookings("8")) > 0 })
	if out, errs, code := runProgram(t, s.natsEnv(), nil, programs.kexrelay, "deadletters", "replay", "--all", "--yes"); code != 0 {
		t.Fatalf("replay: exit code %d\n%s%s", code, out, errs)
	}
	s.drained(20 * time.Second)
	var got []string
	for _, b := range s.api.Bookings("8") {
		got = append(got, string(b.Body))
	}
	want = append(want, `["replayed"]`)
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("booked %v, want %v", got, want)
	}
}
