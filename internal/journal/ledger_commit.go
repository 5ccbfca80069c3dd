package journal

import (
	"context"
	"slices"
	"time"
)

// commitAll writes commits until nothing is pending.
func (l *ledger) commitAll(ctx context.Context) {
	for c := l.gather(ctx); c != nil; c = l.gather(ctx) {
		begun := time.Now()
		_, again, err := l.write(ctx, c.slot.number, l.encode(c), c.patience)
		switch repeat := l.finish(c, again, err); {
		case repeat:
			l.rest(ctx)
		case len(c.tickets) >= crowd:
			pause(ctx, crowdDistance-time.Since(begun))
		}
	}
}

// rest waits before what nobody waits for is tried again: until somebody waits, or a while.
func (l *ledger) rest(ctx context.Context) {
	timer := time.NewTimer(slowestRepeat)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.wake:
	case <-ctx.Done():
	}
}

func (l *ledger) encode(c *commit) []byte {
	batch := ledgerBatch{process: l.proc, number: c.number, records: make([]record, 0, len(c.tickets)+len(c.moved))}
	for _, t := range c.tickets {
		batch.records = append(batch.records, t.rec)
	}
	batch.records = append(batch.records, c.moved...)
	return batch.encode()
}

// gather makes a commit of what is pending. Nil means nothing, and ends the caller's work: in the same moment, so that
// nothing becomes pending that nobody takes.
func (l *ledger) gather(ctx context.Context) *commit {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) == 0 || ctx.Err() != nil {
		l.endLocked(ctx)
		return nil
	}
	n, size := 0, 0
	for n < len(l.pending) && n < maxCommitRecords {
		next := l.pending[n].rec.size()
		if n > 0 && size+next > maxCommitSize {
			break
		}
		n, size = n+1, size+next
	}
	l.number++
	c := &commit{number: l.number, tickets: slices.Clone(l.pending[:n]), patience: l.patienceLocked()}
	l.pending = slices.Delete(l.pending, 0, n)
	c.moved = l.movableLocked(maxCommitRecords-n, maxCommitSize-size)
	l.begun = time.Now()
	l.slow.Reset(slowCommit)
	c.slot = l.slots.take(l.begun)
	return c
}

// endLocked ends a committer's work. After the ledger was stopped, nobody takes what is pending.
func (l *ledger) endLocked(ctx context.Context) {
	l.inFlight--
	if ctx.Err() != nil {
		for _, t := range l.pending {
			if t.done != nil {
				t.done <- context.Cause(ctx)
			}
		}
		l.pending = nil
	}
	if l.inFlight == 0 && l.drained != nil {
		close(l.drained)
		l.drained = nil
	}
}

// finish notes what became of a commit, tells those who wait, and reports whether a part of it must be repeated.
func (l *ledger) finish(c *commit, again bool, err error) (repeat bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range c.tickets {
		if err == nil {
			l.placeLocked(c, t.rec, t.order)
		}
		switch {
		case t.done != nil:
			t.done <- err
		case err != nil && l.neededLocked(t):
			l.pending = append(l.pending, t)
			repeat = true
			continue
		}
		l.closeTicketLocked(t)
	}
	if err == nil {
		for _, r := range c.moved {
			if e := l.entries[r.key]; e != nil {
				l.placeLocked(c, r, e.order)
			}
		}
	}
	l.slots.done(c.slot, again, time.Now())
	return repeat
}

// placeLocked notes that a record lies in a commit's slot, unless a later commit's was acknowledged before.
func (l *ledger) placeLocked(c *commit, r record, order uint64) {
	e := l.entries[r.key]
	if e == nil || e.settled || e.slot != nil && e.commit > c.number {
		return
	}
	l.leaveSlotLocked(e)
	e.rec, e.order, e.commit, e.slot = r, order, c.number, c.slot
	e.slot.enter(r.key)
}

func (l *ledger) leaveSlotLocked(e *entry) {
	if e.slot != nil {
		l.slots.leave(e.slot, e.rec.key)
		e.slot = nil
	}
}

func (l *ledger) closeTicketLocked(t *ticket) {
	e := l.entries[t.rec.key]
	e.open--
	if e.open == 0 && e.slot == nil {
		delete(l.entries, t.rec.key)
	}
}

// neededLocked reports whether a record that was not stored must be tried again: it is the update's latest, and the
// update is still open.
func (l *ledger) neededLocked(t *ticket) bool {
	e := l.entries[t.rec.key]
	return !e.settled && e.latest == t.order
}

// movableLocked gives the records of the emptiest slot if too many slots are in use, so that a few records that live
// long do not keep whole messages alive. A record with a later one on its way stays: moved, it would look later.
func (l *ledger) movableLocked(count, size int) []record {
	s := l.slots.emptiest(len(l.entries))
	if s == nil || len(s.keys) > count {
		return nil
	}
	moved := make([]record, 0, len(s.keys))
	for k := range s.keys {
		e := l.entries[k]
		size -= e.rec.size()
		if e.open > 0 || size < 0 {
			return nil
		}
		moved = append(moved, e.rec)
	}
	return moved
}

// patienceLocked is how long a message is repeated. A partition that is being taken over waits for an election: to give
// up would only mean to begin again from nothing.
func (l *ledger) patienceLocked() time.Duration {
	if l.takingOver {
		return max(l.cfg.Patience, electionTimeout)
	}
	return l.cfg.Patience
}

// takenOver says that from here on a write that does not get through soon is to be told, because requests wait for it.
func (l *ledger) takenOver() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.takingOver = false
}

// write publishes a message into a slot and repeats it for as long as the patience lasts, while it may go through by
// itself. again says that a copy may still be on its way.
func (l *ledger) write(ctx context.Context, slot int, data []byte, patience time.Duration) (seq uint64, again bool, err error) {
	key := l.writer.key(slot)
	until := time.Now().Add(patience)
	for wait := firstRepeat; ; wait = min(2*wait, slowestRepeat) {
		seq, err = l.attempt(ctx, key, data)
		if err == nil {
			return seq, again, nil
		}
		if ctx.Err() != nil {
			return 0, true, context.Cause(ctx)
		}
		refusal := refusalOf(err)
		again = again || refusal == RefusedForNow
		if refusal != RefusedForNow || closedForGood(err) || time.Until(until) < wait {
			return 0, again, &PublishError{Subject: ledgerPrefix + key, Refusal: refusal, Err: err}
		}
		pause(ctx, wait)
	}
}

func (l *ledger) attempt(ctx context.Context, key string, data []byte) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	return l.put(ctx, key, data)
}
