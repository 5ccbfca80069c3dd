package queue

import (
	"testing"
	"time"
)

func TestHeartbeatsKeepUpdatesLongerThanTheAckWait(t *testing.T) {
	conn := prepared(t, ackWait(600*time.Millisecond))
	fill(t, conn, 100, 100)
	q := open(t, conn, Config{Heartbeat: 200 * time.Millisecond})
	r := start(t, q)
	taken := r.await(100)
	within(t, 2*time.Second, "nothing comes again", func() bool { return q.Stats().Redelivered == 0 && len(r.all()) == 100 })
	if beats := q.Stats().Heartbeats; beats < 800 || beats > 1200 {
		t.Errorf("%d heartbeats in 10 intervals for 100 updates", beats)
	}
	taken[42].Forget() // Without heartbeats it comes again.
	if again := r.await(101)[100]; again.Seq() != taken[42].Seq() || again == taken[42] {
		t.Errorf("update %d came again", again.Seq())
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
