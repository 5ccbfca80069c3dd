package queue

import (
	"cmp"
	"slices"
	"time"
)

const (
	// orderedSize is from how many bytes on an update's ack waits for those of older ones.
	orderedSize = 64 << 10
	// ackPatience is how long it waits at most: longer than 32 documents of 1 MB, sent at once, take together. Whoever takes
	// over meanwhile finds the result and only acks.
	ackPatience = 250 * time.Millisecond
)

// ackOrder brings the acks of large updates into stream order, as far as that is a matter of moments. A server that
// keeps a stream in files removes the oldest update of a block by noting so; any other one may make it write the block
// anew, up to 8 MiB, which took a sixth of its CPU time. The queue's mutex guards it.
type ackOrder struct {
	// open are the large updates that are waited for, in stream order; some may be gone.
	open []*Delivery
	// late are the acks that wait, in stream order.
	late  []lateAck
	armed bool // There is a timer running.
}

type lateAck struct {
	seq   uint64
	reply string
	since time.Time
}

// expect notes an update that younger ones wait for.
func (o *ackOrder) expect(d *Delivery) {
	if d.size >= orderedSize {
		o.open = append(o.open, d)
	}
}

// add makes an ack wait.
func (o *ackOrder) add(a lateAck) {
	at, _ := slices.BinarySearchFunc(o.late, a, func(x, y lateAck) int { return cmp.Compare(x.seq, y.seq) })
	o.late = slices.Insert(o.late, at, a)
}

// take takes out the acks that wait for nobody any more.
func (o *ackOrder) take() []lateAck {
	for len(o.open) > 0 && o.open[0].gone {
		o.open[0] = nil
		o.open = o.open[1:]
	}
	n := len(o.late)
	if len(o.open) > 0 {
		oldest := o.open[0].seq
		n, _ = slices.BinarySearchFunc(o.late, oldest, func(a lateAck, seq uint64) int { return cmp.Compare(a.seq, seq) })
	}
	return o.takeFirst(n)
}

// takeLate takes out the acks that have waited since a time, and those before them in the stream. Who kept them waiting
// is not waited for again: it may be in backoff for hours.
func (o *ackOrder) takeLate(since time.Time) []lateAck {
	n := 0
	for i, a := range o.late {
		if !a.since.After(since) {
			n = i + 1
		}
	}
	if n > 0 {
		last := o.late[n-1].seq
		o.open = slices.DeleteFunc(o.open, func(d *Delivery) bool { return d.gone || d.seq < last })
	}
	return o.takeFirst(n)
}

func (o *ackOrder) takeFirst(n int) []lateAck {
	taken := slices.Clone(o.late[:n])
	o.late = slices.Delete(o.late, 0, n)
	return taken
}

// wait is how long until an ack must wait no longer, 0 if none waits.
func (o *ackOrder) wait(now time.Time) time.Duration {
	if len(o.late) == 0 {
		return 0
	}
	first := slices.MinFunc(o.late, func(a, b lateAck) int { return a.since.Compare(b.since) })
	return max(first.since.Add(ackPatience).Sub(now), time.Millisecond)
}

// ackInOrderLocked makes an ack wait for those of older updates and gives those that need not wait.
func (q *Queue) ackInOrderLocked(d *Delivery) []lateAck {
	q.order.add(lateAck{seq: d.seq, reply: d.reply, since: time.Now()})
	due := q.order.take()
	q.armLocked()
	q.remindLocked(due)
	return due
}

// armLocked sees to it that what waits does not wait for ever.
func (q *Queue) armLocked() {
	if wait := q.order.wait(time.Now()); wait > 0 && !q.order.armed {
		q.order.armed = true
		time.AfterFunc(wait, q.ackLate)
	}
}

// ackLate sends the acks that have waited long enough.
func (q *Queue) ackLate() {
	q.mu.Lock()
	q.order.armed = false
	due := append(q.order.take(), q.order.takeLate(time.Now().Add(-ackPatience))...)
	q.armLocked()
	q.remindLocked(due)
	q.mu.Unlock()
	_ = q.ackAll(due) // A closed connection is found out by Run.
}

// ackNow sends all acks that wait.
func (q *Queue) ackNow() {
	q.mu.Lock()
	due := q.order.takeLate(time.Now())
	q.remindLocked(due)
	q.mu.Unlock()
	_ = q.ackAll(due) // As above.
}

// remindLocked remembers acks that are about to be sent.
func (q *Queue) remindLocked(acks []lateAck) {
	for _, a := range acks {
		q.unproven.add(a.reply)
	}
}

func (q *Queue) ackAll(acks []lateAck) error {
	for _, a := range acks {
		if err := q.ack(a.reply); err != nil {
			return err
		}
	}
	return nil
}
