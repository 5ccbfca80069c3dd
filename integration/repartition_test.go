package integration

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"kexrelay/internal/simulator"
)

// The number of partitions changes only behind a pause, and a running relay goes on with it by itself.
func TestPartitionsChangeBehindAPause(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{})
	s.serve()
	s.awaitReady(http.StatusOK, "ok")
	run := func(want int, args ...string) string {
		t.Helper()
		out, errs, code := runProgram(t, s.natsEnv(), nil, programs.kexrelay, args...)
		if code != want {
			t.Fatalf("%v: exit code %d, want %d\n%s%s", args, code, want, out, errs)
		}
		return out + errs
	}
	if text := run(1, "setup", "--partitions", "3"); !strings.Contains(text, "kexrelay pause") {
		t.Errorf("setup under a working relay says %s", text)
	}
	run(0, "pause", "--reason", "more partitions")
	s.comments("waiting", 1, 1)
	if text := run(1, "setup", "--partitions", "3"); !strings.Contains(text, "updates waiting: 1") {
		t.Errorf("setup with an update waiting says %s", text)
	}
	run(0, "resume")
	s.drained(20 * time.Second)
	run(0, "pause", "--reason", "more partitions")
	run(0, "setup", "--partitions", "3")
	for i := range 60 { // Before the relay has noticed, and while it does.
		s.publish(fmt.Sprintf("kex.vorgang.%d.kommentare", 900+i%12), fmt.Sprintf(`["%d"]`, i), nil)
	}
	run(0, "resume")
	s.drained(60 * time.Second)
	if n := s.checkLedger(nil); n != 61 {
		t.Errorf("%d booked, want 61", n)
	}
	for vorgang := range 12 {
		for i, b := range s.api.Bookings(strconv.Itoa(900 + vorgang)) {
			if want := fmt.Sprintf(`["%d"]`, 12*i+vorgang); string(b.Body) != want {
				t.Errorf("Vorgang %d: booked %s, want %s", 900+vorgang, b.Body, want)
			}
		}
	}
	eventually(t, 20*time.Second, "it serves all three", func() bool {
		_, metrics := s.get("/metrics")
		return strings.Contains(metrics, "kexrelay_leased_partitions 3")
	})
	if text := run(0, "status"); !strings.Contains(text, "3 partitions") {
		t.Errorf("status says %s", text)
	}
}
