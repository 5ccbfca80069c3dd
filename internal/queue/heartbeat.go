package queue

import "time"

// wheelSlots is into how many bursts the heartbeats of one interval are spread.
const wheelSlots = 64

// enrolLocked puts d into a slot of the wheel. Every slot comes round once per interval, so any will do; taking
// turns spreads a burst of arrivals over the whole interval.
func (q *Queue) enrolLocked(d *Delivery) {
	slot := q.nextSlot
	q.nextSlot = (slot + 1) % wheelSlots
	d.slot, d.at = uint8(slot), int32(len(q.wheel[slot])) //nolint:gosec // G115: a slot holds far less than 2^31.
	q.wheel[slot] = append(q.wheel[slot], d)
}

func (q *Queue) dismissLocked(d *Delivery) {
	slot := q.wheel[d.slot]
	last := len(slot) - 1
	slot[d.at] = slot[last]
	slot[d.at].at = d.at
	slot[last] = nil
	q.wheel[d.slot] = slot[:last]
}

// heartbeats reports everything held as being worked on, slot by slot, until the queue or the connection is closed.
func (q *Queue) heartbeats() {
	tick := max(q.cfg.Heartbeat/wheelSlots, time.Millisecond)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var replies []string
	// due is counted by the clock, not by ticks: those are lost while the process stands still.
	start, beaten := time.Now(), int64(0)
	for {
		select {
		case <-ticker.C:
		case <-q.done:
			return
		case <-q.conn.closed:
			return
		}
		due := int64(time.Since(start) / tick)
		for beaten = max(beaten, due-wheelSlots); beaten < due; beaten++ {
			replies = q.beat(int(beaten%wheelSlots), replies[:0])
		}
	}
}

// beat sends the heartbeats of one slot and returns the buffer for the next.
func (q *Queue) beat(slot int, replies []string) []string {
	if !q.conn.Connected() {
		return replies
	}
	q.mu.Lock()
	for _, d := range q.wheel[slot] {
		replies = append(replies, d.reply)
	}
	q.beats += uint64(len(replies))
	q.mu.Unlock()
	for _, reply := range replies {
		if q.conn.nc.Publish(reply, ackProgress) != nil {
			break // Disconnected; the next round is soon enough.
		}
	}
	return replies
}
