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
	standby := func(i int) *process {
		t.Helper()
		p := c.startReplica(i)
		eventually(t, 40*time.Second, "the replica stands by", func() bool { return contains(p, `"msg":"serving"`) })
		return p
	}
	holder := c.startReplica(0)
	t.Logf("first booking %v after the start", book())
	promised(t, "first booking after SIGTERM", time.Second, func() time.Duration {
		t.Helper()
		next := standby(1)
		if err := holder.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		took := book()
		if code := holder.wait(t, 10*time.Second); code != 0 {
			t.Errorf("exit code %d", code)
		}
		holder = next
		return took
	})
	promised(t, "first booking after kill -9", 7*time.Second, func() time.Duration {
		t.Helper()
		next := standby(0)
		holder.kill()
		holder = next
		return book()
	})
	if s.api.Counts().Requests != n {
		t.Errorf("%d requests for %d updates", s.api.Counts().Requests, n)
	}
	if code := holder.terminate(t, 10*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A standby is ready: a rolling update must not wait for the lease.
func TestStandbyIsReady(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{})
	s.serve()
	eventually(t, 20*time.Second, "the holder is ready", func() bool { code, reason := s.ready(); return code == http.StatusOK && reason == "ok" })
	s.serve()
	eventually(t, 20*time.Second, "the standby says so", func() bool { code, reason := s.ready(); return code == http.StatusOK && reason == "standby" })
}
