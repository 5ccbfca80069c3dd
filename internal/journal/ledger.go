package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// maxCommits is how many commits may be on their way at a time: one is being answered while the next one gathers.
const maxCommits = 2

var (
	errLedgerClosed = errors.New("the ledger is closed")
	errTenureOver   = errors.New("the tenure was closed")
)

// ledger writes what is being done to updates into KEX_LEDGER, as one holder of one partition. Its keys are its own
// (partition, epoch and a writer's ID made anew), so that no former holder overwrites its records and it
// overwrites nobody's.
//
// Records that become ready while commits are on their way go out together in one message, each message into a free
// slot. A slot is free when each of its records is superseded by a later acknowledged one of the same update, or
// its update is settled. So after a crash at any point the last acknowledged record of every update that is not
// settled, or a later one, is there; which of several is the last, their commits' numbers tell.
type ledger struct {
	put    func(ctx context.Context, key string, data []byte) (uint64, error)
	cfg    PublisherConfig
	writer ledgerWriter
	proc   string
	spawn  func(func(context.Context))
	stop   context.CancelCauseFunc
	work   sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	number   uint64 // Of the last commit.
	order    uint64 // Of the last ticket.
	inFlight int    // Commits on their way, or being gathered.
	pending  []*ticket
	entries  map[key]*entry
	slots    slots
	drained  chan struct{} // Closed when nothing is pending or on its way; nil while nobody waits for it.
}

// entry is what the ledger knows about an update.
type entry struct {
	rec     record // The last acknowledged record, meaningless without a slot.
	commit  uint64 // Its commit's number.
	slot    *slot  // Where it lies; nil if none was acknowledged.
	open    int    // Tickets pending or on their way.
	latest  uint64 // The order of its last ticket.
	settled bool
}

// ticket is a record on its way into the ledger.
type ticket struct {
	rec   record
	order uint64
	// done gets the outcome; nil for a record that nobody waits for, which is repeated until it is stored.
	done chan error
}

// commit is one message.
type commit struct {
	number  uint64
	slot    *slot
	tickets []*ticket
	moved   []record // Acknowledged records of a slot that shall become free.
}

func newLedger(ctx context.Context, kv jetstream.KeyValue, w ledgerWriter, process string, cfg PublisherConfig) *ledger {
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultPublishTimeout
	}
	if cfg.Patience <= 0 {
		cfg.Patience = defaultPatience
	}
	l := &ledger{put: kv.Put, cfg: cfg, writer: w, proc: process, entries: map[key]*entry{}}
	ctx, l.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	l.spawn = func(f func(context.Context)) { l.work.Go(func() { f(ctx) }) }
	return l
}

// fence writes an empty commit and gives its sequence in the bucket: who has read up to there has read everything that
// was acknowledged before. Commits are numbered from it on, above all of former writers.
func (l *ledger) fence(ctx context.Context) (uint64, error) {
	l.mu.Lock()
	s := l.slots.take(time.Now())
	l.mu.Unlock()
	batch := ledgerBatch{process: l.proc}
	seq, again, err := l.write(ctx, s.number, batch.encode())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slots.done(s, again, time.Now())
	l.number = max(l.number, seq)
	return seq, err
}

// store writes a record and waits until it is acknowledged. If ctx or lost ends first, it may be there or not.
func (l *ledger) store(ctx context.Context, r record, lost <-chan struct{}) error {
	t := &ticket{rec: r, done: make(chan error, 1)}
	if err := l.enqueue(t); err != nil {
		return err
	}
	select {
	case err := <-t.done:
		return err
	case <-lost:
		l.withdraw(t)
		return ErrLeaseLost
	case <-ctx.Done():
		l.withdraw(t)
		return context.Cause(ctx)
	}
}

// enqueue hands a ticket to the next commit.
func (l *ledger) enqueue(tickets ...*ticket) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errLedgerClosed
	}
	for _, t := range tickets {
		e := l.entries[t.rec.key]
		if e == nil {
			e = &entry{}
			l.entries[t.rec.key] = e
		}
		e.settled = false
		l.order++
		t.order = l.order
		e.latest = t.order
		e.open++
	}
	l.pending = append(l.pending, tickets...)
	if l.inFlight < maxCommits {
		l.inFlight++
		l.spawn(l.commitAll)
	}
	return nil
}

// withdraw takes a ticket back that nobody waits for any more, unless it is on its way.
func (l *ledger) withdraw(t *ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.pending, t); i >= 0 {
		l.pending = slices.Delete(l.pending, i, i+1)
		l.closeTicketLocked(t)
	}
}

// settled says that an update has its result: none of its records matters any more.
func (l *ledger) settled(k key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.entries[k]; e != nil {
		l.settledLocked(k, e)
	}
}

func (l *ledger) settledLocked(k key, e *entry) {
	e.settled = true
	l.leaveSlotLocked(e)
	if e.open == 0 {
		delete(l.entries, k)
	}
}

// drop forgets a record that is still the last one of its update.
func (l *ledger) drop(r record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.entries[r.key]; e != nil && e.open == 0 && e.slot != nil && e.rec == r {
		l.settledLocked(r.key, e)
	}
}

// last gives the last acknowledged record of an update.
func (l *ledger) last(k key) (record, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.entries[k]; e != nil && e.slot != nil {
		return e.rec, true
	}
	return record{}, false
}

// commitAll writes commits until nothing is pending.
func (l *ledger) commitAll(ctx context.Context) {
	for c := l.gather(); c != nil; c = l.gather() {
		_, again, err := l.write(ctx, c.slot.number, l.encode(c))
		l.finish(c, again, err)
		if err != nil {
			pause(ctx, slowestRepeat) // What nobody waits for is tried again: not at once.
		}
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

// gather makes a commit of what is pending. Nil means nothing, and that the caller's work is done.
func (l *ledger) gather() *commit {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) == 0 {
		l.inFlight--
		if l.inFlight == 0 && l.drained != nil {
			close(l.drained)
			l.drained = nil
		}
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
	c := &commit{number: l.number, tickets: slices.Clone(l.pending[:n])}
	l.pending = slices.Delete(l.pending, 0, n)
	c.moved = l.movableLocked(maxCommitRecords-n, maxCommitSize-size)
	c.slot = l.slots.take(time.Now())
	return c
}

// finish notes what became of a commit, and tells those who wait.
func (l *ledger) finish(c *commit, again bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range c.tickets {
		if err == nil {
			l.placeLocked(c, t.rec)
		}
		l.closeTicketLocked(t)
		switch {
		case t.done != nil:
			t.done <- err
		case err != nil:
			l.repeatLocked(t)
		}
	}
	if err == nil {
		for _, r := range c.moved {
			l.placeLocked(c, r)
		}
	}
	l.slots.done(c.slot, again, time.Now())
}

// placeLocked notes that a record lies in a commit's slot, unless a later commit's was acknowledged before.
func (l *ledger) placeLocked(c *commit, r record) {
	e := l.entries[r.key]
	if e == nil || e.settled || e.slot != nil && e.commit > c.number {
		return
	}
	l.leaveSlotLocked(e)
	e.rec, e.commit, e.slot = r, c.number, c.slot
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

// repeatLocked puts a record back that was not stored, unless a later one of the update is on its way, or none is
// needed any more.
func (l *ledger) repeatLocked(t *ticket) {
	e := l.entries[t.rec.key]
	if e == nil {
		e = &entry{latest: t.order}
		l.entries[t.rec.key] = e
	}
	if l.closed || e.settled || e.latest > t.order {
		return
	}
	e.open++
	l.pending = append(l.pending, t)
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

// write publishes a message into a slot and repeats it while it may go through by itself. again says that a copy may
// still be on its way.
func (l *ledger) write(ctx context.Context, slot int, data []byte) (seq uint64, again bool, err error) {
	key := l.writer.key(slot)
	until := time.Now().Add(l.cfg.Patience)
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
			return 0, again, &PublishError{Subject: key, Refusal: refusal, Err: err}
		}
		pause(ctx, wait)
	}
}

func (l *ledger) attempt(ctx context.Context, key string, data []byte) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	return l.put(ctx, key, data)
}

// close takes nothing more, waits until everything is stored or ctx ends, and gives up what is still on its way then.
func (l *ledger) close(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	var drained chan struct{}
	if l.inFlight > 0 {
		if l.drained == nil {
			l.drained = make(chan struct{})
		}
		drained = l.drained
	}
	l.mu.Unlock()
	var err error
	if drained != nil {
		select {
		case <-drained:
		case <-ctx.Done():
			err = fmt.Errorf("closing the ledger before everything was stored: %w", context.Cause(ctx))
		}
	}
	l.stop(errTenureOver)
	l.work.Wait()
	return err
}
