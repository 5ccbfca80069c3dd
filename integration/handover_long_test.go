//go:build integration

package integration

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"kexrelay/internal/simulator"
)

// After a kill -9, with nothing newly published, what waits for other Vorgänge goes on within seven seconds; the Vorgang
// that was being sent waits for its record's timeout and goes on within twelve seconds after it.
func TestStandbyGoesOnWithWhatWaits(t *testing.T) {
	promised(t, "too late by", 0, func() time.Duration { return standbyGoesOn(t) })
}

// standbyGoesOn gives by how much the first request after a kill -9, or one for a Vorgang that was being sent, is too
// late; below zero is early enough.
func standbyGoesOn(t *testing.T) (late time.Duration) {
	t.Helper()
	const vorgaenge, each, inFlight = 40, 2, 4
	s := newSystem(t, simulator.Script{Latency: simulator.Fixed(400 * time.Millisecond)})
	c := &chaos{system: s}
	for i := range vorgaenge * each {
		s.publish(fmt.Sprintf("kex.vorgang.%d.kommentare", 1+i%vorgaenge), fmt.Sprintf(`["waiting %d"]`, i), nil)
	}
	holder := c.startReplica(0, fmt.Sprint("KEXRELAY_CONCURRENCY=", inFlight))
	eventually(t, 20*time.Second, "the holder sends", func() bool { return s.api.Counts().Booked >= 2*inFlight })
	standby := c.startReplica(1, fmt.Sprint("KEXRELAY_CONCURRENCY=", inFlight))
	eventually(t, 20*time.Second, "the second replica stands by", func() bool { return contains(standby, `"msg":"serving"`) })
	holder.kill()
	killed := time.Now()

	var left []string
	for _, r := range s.api.Requests() {
		if r.AnsweredAt.IsZero() || r.AnsweredAt.After(killed) || r.ClientGone {
			left = append(left, r.Vorgangsnummer)
		}
	}
	t.Logf("killed with %d requests being worked on", len(left))
	s.drained(time.Minute)
	next := make(map[string]time.Time)
	first := time.Time{}
	for _, r := range s.api.Requests() {
		if r.ReceivedAt.Before(killed) || next[r.Vorgangsnummer] != (time.Time{}) {
			continue
		}
		next[r.Vorgangsnummer] = r.ReceivedAt
		if first.IsZero() {
			first = r.ReceivedAt
		}
	}
	t.Logf("first request after kill -9: %v", first.Sub(killed))
	if first.IsZero() {
		t.Fatal("no request came after the kill -9: nothing was waiting")
	}
	late = first.Sub(killed) - 7*time.Second
	for _, vorgang := range slices.Compact(left) {
		took := next[vorgang].Sub(killed)
		t.Logf("Vorgang %s, which was being sent, went on after %v", vorgang, took)
		if took < chaosTimeout {
			t.Errorf("Vorgang %s, which was being sent, went on %v after kill -9, want after its record's timeout", vorgang, took)
		}
		late = max(late, took-chaosTimeout-12*time.Second)
	}
	return late
}
