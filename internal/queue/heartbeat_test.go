package queue

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestHeartbeatsKeepUpdatesLongerThanTheAckWait(t *testing.T) {
	t.Parallel()
	const interval = 500 * time.Millisecond
	conn := prepared(t, ackWait(4*time.Second))
	fill(t, conn, 100, 100)
	q := open(t, conn, Config{Heartbeat: interval})
	begin := time.Now()
	r := start(t, q)
	taken := r.await(100)
	within(t, 10*interval, "nothing comes again", func() bool { return q.Stats().Redelivered == 0 && len(r.all()) == 100 })
	// A busy machine beats later; who beats too late is delivered again.
	eventually(t, "each has had some heartbeats", func() bool { return q.Stats().Heartbeats >= 800 })
	if beats, most := q.Stats().Heartbeats, 120*(time.Since(begin)/interval+1); beats > uint64(most) {
		t.Errorf("%d heartbeats for 100 updates, want at most %d until now", beats, most)
	}
	if q.Stats().Redelivered != 0 {
		t.Error("some came again")
	}
	taken[42].Forget() // Without heartbeats it comes again, and nobody here can say what became of it.
	if err := r.end(); !errors.Is(err, ErrRewound) || !strings.Contains(err.Error(), "update 43,") {
		t.Errorf("Run returned %v", err)
	}
}

func TestHeartbeatsAreSpreadOverTheInterval(t *testing.T) {
	q := &Queue{holding: newHolding(10)}
	var all []*Delivery
	for seq := range uint64(50_000) {
		d := &Delivery{q: q, seq: seq, subject: subject(int(seq))}
		q.addLocked(d)
		all = append(all, d)
	}
	for i, slot := range q.wheel {
		if len(slot) > 50_000/wheelSlots+1 {
			t.Errorf("slot %d has %d of 50,000", i, len(slot))
		}
	}
	for i, d := range all {
		if i%3 == 0 {
			q.removeLocked(d)
		}
	}
	n := 0
	for i, slot := range q.wheel {
		for at, d := range slot {
			if n++; int(d.slot) != i || int(d.at) != at || d.gone {
				t.Fatalf("update %d is in slot %d at %d and thinks %d, %d", d.seq, i, at, d.slot, d.at)
			}
		}
	}
	if n != len(q.held) {
		t.Errorf("%d in the wheel, %d held", n, len(q.held))
	}
}
