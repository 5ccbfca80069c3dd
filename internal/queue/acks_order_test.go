package queue

import (
	"slices"
	"testing"
	"time"
)

func seqsOf(acks []lateAck) (seqs []uint64) {
	for _, a := range acks {
		seqs = append(seqs, a.seq)
	}
	return seqs
}

func TestAcksOfLargeUpdatesGoOutInStreamOrder(t *testing.T) {
	var o ackOrder
	updates := make([]*Delivery, 5)
	for i := range updates {
		updates[i] = &Delivery{seq: uint64(i) + 1, size: orderedSize}
		o.expect(updates[i])
	}
	now := time.Now()
	ack := func(i int) []uint64 {
		updates[i-1].gone = true
		o.add(lateAck{seq: uint64(i), since: now})
		return seqsOf(o.take())
	}
	if got := ack(3); got != nil {
		t.Errorf("3 before 1 and 2: got %v", got)
	}
	if got := ack(2); got != nil {
		t.Errorf("2 before 1: got %v", got)
	}
	if got := ack(1); !slices.Equal(got, []uint64{1, 2, 3}) {
		t.Errorf("1: got %v", got)
	}
	if got := o.wait(now); got != 0 {
		t.Errorf("nothing waits, and there is a timer of %v", got)
	}
	if got := ack(5); got != nil {
		t.Errorf("5 before 4: got %v", got)
	}
	updates[3].gone = true // It was given up.
	if got := seqsOf(o.take()); !slices.Equal(got, []uint64{5}) || len(o.open) != 0 {
		t.Errorf("without 4: got %v, %d waited for", got, len(o.open))
	}
}

func TestAnAckWaitsForAnotherOnlyOnceAndNotForLong(t *testing.T) {
	var o ackOrder
	stuck := &Delivery{seq: 1, size: orderedSize} // In backoff.
	o.expect(stuck)
	now := time.Now()
	for seq := uint64(2); seq < 4; seq++ {
		o.expect(&Delivery{seq: seq, size: orderedSize, gone: true})
		o.add(lateAck{seq: seq, since: now.Add(time.Duration(seq) * time.Millisecond)})
	}
	if got := o.wait(now.Add(2 * time.Millisecond)); got != ackPatience {
		t.Errorf("the first waits %v", got)
	}
	if got := seqsOf(o.takeLate(now.Add(2 * time.Millisecond))); !slices.Equal(got, []uint64{2}) {
		t.Errorf("late: %v", got)
	}
	if got := seqsOf(o.take()); !slices.Equal(got, []uint64{3}) || len(o.open) != 0 {
		t.Errorf("got %v, %d waited for: the one in backoff is still waited for", got, len(o.open))
	}
}

func TestALargeUpdateLeavesTheStreamThoughAnOlderOneIsStuck(t *testing.T) {
	conn := prepared(t)
	publishDocuments(t, conn, 3, quarter, func(i int) int { return i })
	q := open(t, conn, Config{})
	r := start(t, q)
	taken := r.await(3)
	ackAll(t, taken[2:])
	eventually(t, "the third has left", func() bool { return stored(t, conn) == 2 })
	ackAll(t, taken[1:2])
	if err := q.AwaitAcks(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := stored(t, conn); got != 1 {
		t.Errorf("%d updates are left when all acks are applied", got)
	}
	ackAll(t, taken[:1])
	r.stop()
	q.Close()
	eventually(t, "the first has left", func() bool { return stored(t, conn) == 0 })
}

func TestClosingSendsTheAcksThatWait(t *testing.T) {
	conn := prepared(t)
	publishDocuments(t, conn, 2, quarter, func(i int) int { return i })
	q := open(t, conn, Config{})
	r := start(t, q)
	ackAll(t, r.await(2)[1:])
	r.stop()
	q.Close()
	q.mu.Lock()
	waiting := len(q.order.late)
	q.mu.Unlock()
	if waiting != 0 {
		t.Errorf("%d acks wait", waiting)
	}
	eventually(t, "the second has left", func() bool { return stored(t, conn) == 1 })
}
