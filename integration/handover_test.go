package integration

import (
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"kexrelay/internal/simulator"
)

// The standby goes on within a second of a SIGTERM and within seven of a kill -9, for every Vorgang that had nothing
// in flight.
func TestStandbyTakesOver(t *testing.T) {
	s := newSystem(t, simulator.Script{})
	c := &chaos{system: s}
	n := 0
	book := func() time.Duration {
		t.Helper()
		n++
		begin := time.Now()
		s.publish(fmt.Sprintf("kex.vorgang.%d.kommentare", n), fmt.Sprintf(`["%d"]`, n), nil)
		eventually(t, 20*time.Second, "the update is booked", func() bool { return s.api.Counts().Booked == n })
		return time.Since(begin)
	}
	holder := c.startReplica(0)
	t.Logf("first booking %v after the start", book())
	standby := c.startReplica(1)
	eventually(t, 20*time.Second, "the second replica stands by", func() bool { return contains(standby, `"msg":"serving"`) })

	if err := holder.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	took := book()
	t.Logf("hand-over after SIGTERM: %v", took)
	if took > time.Second {
		t.Errorf("the first booking came %v after SIGTERM, want within 1s", took)
	}
	if code := holder.wait(t, 10*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}

	next := c.startReplica(0)
	eventually(t, 20*time.Second, "the third replica stands by", func() bool { return contains(next, `"msg":"serving"`) })
	standby.kill()
	took = book()
	t.Logf("hand-over after kill -9: %v", took)
	if took > 7*time.Second {
		t.Errorf("the first booking came %v after kill -9, want within 7s", took)
	}
	if s.api.Counts().Requests != n {
		t.Errorf("%d requests for %d updates", s.api.Counts().Requests, n)
	}
	if code := next.terminate(t, 10*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A standby is ready: a rolling update must not wait for the lease.
func TestStandbyIsReady(t *testing.T) {
	s := newSystem(t, simulator.Script{})
	s.serve()
	eventually(t, 20*time.Second, "the holder is ready", func() bool { code, reason := s.ready(); return code == http.StatusOK && reason == "ok" })
	s.serve()
	eventually(t, 20*time.Second, "the standby says so", func() bool { code, reason := s.ready(); return code == http.StatusOK && reason == "standby" })
}
