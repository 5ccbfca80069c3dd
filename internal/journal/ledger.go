package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// maxCommits is how many commits may be on their way at a time: one, and a second if the first is slow. Two at any
	// time would halve the records in each, and cost half as much again.
	maxCommits = 2
	slowCommit = 20 * time.Millisecond
	// crowd is how many records in a commit show that many updates are sent at a time; then commits begin at least
	// crowdDistance apart. A message costs as much as the records of fifty updates, and with so many others to work on
	// the wait costs no throughput. Below that nothing waits for more to come.
	crowd         = 4
	crowdDistance = 2 * time.Millisecond
)

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
	put    putFunc
	cfg    PublisherConfig
	writer ledgerWriter
	proc   string
	spawn  func(func(context.Context))
	stop   context.CancelCauseFunc
	work   sync.WaitGroup
	wake   chan struct{} // Ends the pause before a repeat, because somebody waits.

	mu     sync.Mutex
	closed bool
	// takingOver says that nothing is sent yet.
	takingOver bool
	number     uint64    // Of the last commit.
	order      uint64    // Of the last ticket.
	inFlight   int       // Commits on their way, or being gathered.
	begun      time.Time // When the last of them began.
	slow       *time.Timer
	pending    []*ticket
	entries    map[key]*entry
	slots      slots
	drained    chan struct{} // Closed when nothing is pending or on its way; nil while nobody waits for it.
}

// entry is what the ledger knows about an update.
type entry struct {
	rec     record // The last acknowledged record, meaningless without a slot.
	order   uint64 // Its ticket's.
	commit  uint64 // Its commit's number.
	slot    *slot  // Where it lies; nil if none was acknowledged.
	said    record // The last record that nobody waits for: it is true before it is stored.
	saidAs  uint64 // Its ticket's order, 0 for none.
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
	// patience is how long it is repeated.
	patience time.Duration
}

// putFunc writes a key of the bucket, whatever is there, and gives its sequence.
type putFunc func(ctx context.Context, key string, data []byte) (uint64, error)

func newLedger(ctx context.Context, put putFunc, w ledgerWriter, process string, cfg PublisherConfig) *ledger {
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultPublishTimeout
	}
	if cfg.Patience <= 0 {
		cfg.Patience = defaultPatience
	}
	l := &ledger{put: put, cfg: cfg, writer: w, proc: process, entries: map[key]*entry{}, wake: make(chan struct{}, 1)}
	ctx, l.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	l.spawn = func(f func(context.Context)) { l.work.Go(func() { f(ctx) }) }
	l.slow = time.AfterFunc(slowCommit, l.overtake) // Set by each commit.
	l.slow.Stop()
	return l
}

// fence writes an empty commit and gives its sequence in the bucket: who has read up to there has read everything that
// was acknowledged before. Commits are numbered from it on, above all of former writers.
func (l *ledger) fence(ctx context.Context) (uint64, error) {
	l.mu.Lock()
	s, patience := l.slots.take(time.Now()), l.patienceLocked()
	l.mu.Unlock()
	batch := ledgerBatch{process: l.proc}
	seq, again, err := l.write(ctx, s.number, batch.encode(), patience)
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
		if t.done == nil {
			e.said, e.saidAs = t.rec, t.order
		}
	}
	l.pending = append(l.pending, tickets...)
	if l.spawnLocked() {
		return nil
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// spawnLocked lets another commit gather what is pending, if there may be one now, and reports whether it did.
func (l *ledger) spawnLocked() bool {
	if l.inFlight > 0 && (l.inFlight >= maxCommits || time.Since(l.begun) < slowCommit) {
		return false
	}
	l.inFlight++
	l.begun = time.Now()
	l.spawn(l.commitAll)
	return true
}

// overtake is called when a commit has become slow: what waits behind it need not wait for more to come.
func (l *ledger) overtake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inFlight > 0 && len(l.pending) > 0 {
		l.spawnLocked()
	}
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

// last gives the last record of an update: that was acknowledged, or that nobody had to wait for.
func (l *ledger) last(k key) (record, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[k]
	switch {
	case e == nil || e.settled:
	case e.saidAs > e.order:
		return e.said, true
	case e.slot != nil:
		return e.rec, true
	}
	return record{}, false
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
	l.slow.Stop()
	return err
}
