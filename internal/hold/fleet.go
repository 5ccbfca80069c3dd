package hold

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"kexrelay/internal/fault"
)

// Errors of a Store.
var (
	// ErrConflict says that a record is not at the revision that was to be replaced, or is there although it was to
	// be new.
	ErrConflict = errors.New("written by somebody else")
	// ErrGone says that there is no record.
	ErrGone = errors.New("no such record")
)

// Store keeps the records, one per reason, for all processes. Each method is one look or one write that fails rather
// than waits for long.
type Store interface {
	Create(ctx context.Context, r Record) (revision uint64, err error)
	Update(ctx context.Context, r Record, revision uint64) (uint64, error)
	Remove(ctx context.Context, reason fault.Reason, revision uint64) error
	// Get and List give records with their age.
	Get(ctx context.Context, reason fault.Reason) (Record, error)
	List(ctx context.Context) ([]Record, error)
	// Watch tells what is there and then every change, until ctx ends or it cannot.
	Watch(ctx context.Context, tell func(Change)) error
}

// Sharing is what makes a gate one of a fleet.
type Sharing struct {
	Store Store
	// Process is made anew by each process: two of the same name are not the same.
	Process string
	// Takeover is how long another's probe may take: after so long without a change of the record it is dead. It must
	// be longer than a request may take.
	Takeover time.Duration
	// Active reports whether this process has the right to send, or had it until it was told to stop. One that has
	// not only follows: it neither raises nor probes. It must be quick and not ask the gate.
	Active func() bool
}

// How the records are followed. Changes are told by the store within milliseconds; looking at all of them now and
// then is the net for a watcher that was lost without a word.
const (
	lookEvery    = 5 * time.Second
	repeatEvery  = 500 * time.Millisecond
	lastWords    = 2 * time.Second
	storageStale = 3 * lookEvery
	// conflicts is how many other writers of one record are waited for at a time.
	conflicts = 10
)

// Fleet keeps a gate and the records that it shares with other processes in line. Use Gate.Share, then Run.
type Fleet struct {
	gate *Gate
	cfg  Sharing

	mu     sync.Mutex
	failed map[string]bool // what could not be done lately, so that it is told once

	// Of Run alone: what is known of the record for storage.
	storage   Record
	storageAt time.Time
}

// Share joins the gate with others. It must come before the gate is used, and once.
func (g *Gate) Share(s Sharing) *Fleet {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fleet = &Fleet{gate: g, cfg: s, failed: make(map[string]bool)}
	return g.fleet
}

// Refresh takes over what is written now. A process that is about to send calls it first: it must not find out about
// a throttle by being throttled.
func (f *Fleet) Refresh(ctx context.Context) error {
	_, err := f.refresh(ctx)
	return err
}

func (f *Fleet) refresh(ctx context.Context) ([]Record, error) {
	before, kinds := f.gate.marks(), f.gate.kindsVersion()
	records, err := f.cfg.Store.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the holds: %w", err)
	}
	for _, r := range append(f.gate.listed(records, before), f.gate.kindsListed(records, kinds)...) {
		if f.cfg.Active() {
			_ = f.cfg.Store.Remove(ctx, r.Reason, r.Revision) // The next look tries again.
		}
	}
	return records, nil
}

// Run follows the records and writes what the gate raises and ends, until ctx ends; then it writes what is left to
// say, for a moment.
func (f *Fleet) Run(ctx context.Context) {
	var watching sync.WaitGroup
	defer watching.Wait()
	looked, watched, held := time.Time{}, false, false
	for ctx.Err() == nil {
		changed := f.gate.Changed()
		f.gate.expire()
		complete := f.flush(ctx)
		if now := f.gate.Held(fault.Storage); now != held || time.Since(looked) >= lookEvery {
			records, err := f.refresh(ctx)
			if f.tell(ctx, "holds cannot be read from nats; what others find out is not known here", err) {
				held, looked = now, time.Now()
				f.showStorage(ctx, records, now)
			} else {
				complete = false
			}
			// Only now: what was there before is known with its age.
			if err == nil && !watched {
				watched = true
				watching.Go(func() { f.watch(ctx) })
			}
		}
		wait := lookEvery - time.Since(looked)
		if !complete {
			wait = repeatEvery
		}
		_ = pause(ctx, changed, nil, max(min(wait, f.gate.untilExpiry()), time.Millisecond))
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	f.flush(last)
}

// watch follows the changes, again and again, until ctx ends.
func (f *Fleet) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := f.cfg.Store.Watch(ctx, func(c Change) {
			f.gate.happened(&c)
			f.gate.KindChanged(c)
			f.tell(ctx, watchLost, nil)
		})
		f.tell(ctx, watchLost, err)
		_ = pause(ctx, nil, nil, time.Second)
	}
}

const watchLost = "holds cannot be followed in nats; they are looked at every few seconds"

// tell logs a failure once, until it succeeds again, and reports whether it was none.
func (f *Fleet) tell(ctx context.Context, what string, err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil && ctx.Err() == nil && !f.failed[what] {
		f.gate.cfg.Logger.Warn(what, slog.Any("error", err)) //nolint:sloglint // one of a few constants
	}
	if ctx.Err() == nil {
		f.failed[what] = err != nil
	}
	return err == nil
}

// flush writes everything that is to be written, and reports whether it could.
func (f *Fleet) flush(ctx context.Context) bool {
	complete := true
	for _, reason := range f.gate.drafts() {
		complete = f.write(ctx, reason) && complete
	}
	return complete
}

// write brings one record in line with the gate: read, merge and write again until nobody else was faster.
func (f *Fleet) write(ctx context.Context, reason fault.Reason) bool {
	for range conflicts {
		d, ok := f.gate.draft(reason)
		if !ok {
			return true
		}
		err := f.put(ctx, &d)
		if errors.Is(err, ErrConflict) {
			if !f.look(ctx, reason) {
				return false
			}
			continue
		}
		if !f.tell(ctx, "holds cannot be written to nats; other replicas do not know of them until they can", err) {
			return false
		}
	}
	return false
}

// put writes one draft.
func (f *Fleet) put(ctx context.Context, d *draft) error {
	if d.remove {
		err := f.cfg.Store.Remove(ctx, d.record.Reason, d.base)
		if err == nil {
			f.gate.removed(d)
		}
		return err
	}
	var revision uint64
	var err error
	if d.base == 0 {
		revision, err = f.cfg.Store.Create(ctx, d.record)
	} else {
		revision, err = f.cfg.Store.Update(ctx, d.record, d.base)
	}
	if err == nil {
		f.gate.stored(d, revision)
	}
	return err
}

// showStorage keeps the record for storage: each process holds for itself, whoever holds says so for all to see. Its
// writer renews it; one that nobody renews is what a dead process left.
func (f *Fleet) showStorage(ctx context.Context, records []Record, held bool) {
	var there Record
	for _, r := range records {
		if r.Reason == fault.Storage {
			there = r
		}
	}
	if there.Revision != f.storage.Revision {
		f.storage, f.storageAt = there, time.Now()
	}
	mine := there.Writer == f.cfg.Process || time.Since(f.storageAt) >= storageStale
	if !f.cfg.Active() {
		return
	}
	// What fails here is tried again with the next look: nobody decides by it.
	switch {
	case held && there.Revision == 0:
		if r, ok := f.gate.recordOf(fault.Storage); ok {
			_, _ = f.cfg.Store.Create(ctx, r)
		}
	case held && mine:
		if r, ok := f.gate.recordOf(fault.Storage); ok {
			_, _ = f.cfg.Store.Update(ctx, r, there.Revision)
		}
	case !held && mine && there.Revision != 0:
		_ = f.cfg.Store.Remove(ctx, fault.Storage, there.Revision)
	}
}

// recordOf is a hold as it would be written now.
func (g *Gate) recordOf(reason fault.Reason) (Record, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	on, ok := g.holds[reason]
	if !ok {
		return Record{}, false
	}
	return g.recordLocked(on), true
}

// expire ends an operator's holds whose deadline has come, also where nobody waits for it.
func (g *Gate) expire() {
	now := time.Now()
	g.expireKinds(now)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.expireLocked(now)
}

// untilExpiry is how long it is until then.
func (g *Gate) untilExpiry() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	wait := g.untilKindExpiryLocked(lookEvery)
	if on, ok := g.holds[fault.Operator]; ok && !on.NextProbe.IsZero() && !on.ending {
		wait = min(wait, time.Until(on.NextProbe))
	}
	return wait
}
