package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Lease is the right to send the updates of one partition, made by [Leases.Campaign]. Its methods are safe for
// concurrent use.
type Lease struct {
	leases    *Leases
	partition int
	epoch     uint64
	takenAt   time.Time

	// until is when the right ends on the leases' clock. 0 means that it is over, and stays.
	until atomic.Int64
	lost  chan struct{}
	once  sync.Once // Closes lost.
	// released says that the record says so.
	released atomic.Bool

	stop    context.CancelFunc
	done    chan struct{} // Closed when nothing is renewed any more.
	release sync.Mutex    // One Release at a time.

	// Of the renewing goroutine, and of Release after it.
	revision uint64
	beat     uint64
	sent     map[uint64]time.Duration // When each beat without an answer was sent.
	theirs   bool                     // Somebody else's record was seen.
}

func (l *Leases) begin(ctx context.Context, partition int, record leaseRecord, revision uint64, sent time.Duration) *Lease {
	lease := &Lease{
		leases: l, partition: partition, epoch: record.Epoch, takenAt: time.Now(),
		lost: make(chan struct{}), done: make(chan struct{}),
		revision: revision, beat: record.Beat, sent: map[uint64]time.Duration{},
	}
	lease.until.Store(int64(sent + l.timing.valid))
	l.mu.Lock()
	l.held[partition] = lease
	l.mu.Unlock()
	ctx, lease.stop = context.WithCancel(context.WithoutCancel(ctx))
	go lease.renew(ctx)
	return lease
}

// Epoch is the lease's number: every holder of the partition has a higher one than all before.
func (l *Lease) Epoch() uint64 { return l.epoch }

// Partition is which partition's updates may be sent.
func (l *Lease) Partition() int { return l.partition }

// Held reports whether the right still stands: less than 4 s have passed since the sending of the last renewal that
// was acknowledged. Once false it stays false. It makes no call and is cheap enough for every POST.
func (l *Lease) Held() bool {
	for {
		until := l.until.Load()
		if until == 0 {
			return false
		}
		if int64(l.leases.clock()) < until {
			return true
		}
		if l.until.CompareAndSwap(until, 0) { // Else it was renewed in this moment.
			l.lose()
			return false
		}
	}
}

// Lost is closed when the right is over: released, taken by somebody else, or not renewed in time. The same lease
// never comes back; [Leases.Campaign] gives a new one.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// lose ends the right.
func (l *Lease) lose() {
	l.until.Store(0)
	l.once.Do(func() { close(l.lost) })
}

// extend moves the end of the right, unless it has come.
func (l *Lease) extend(sent time.Duration) {
	for l.Held() {
		until := l.until.Load()
		later := int64(sent + l.leases.timing.valid)
		if until == 0 || later <= until || l.until.CompareAndSwap(until, later) {
			return
		}
	}
}

// renew renews until the lease is over.
func (l *Lease) renew(ctx context.Context) {
	defer close(l.done)
	defer l.lose()
	wait := l.leases.timing.renew
	for {
		pause(ctx, min(wait, l.remaining()))
		if ctx.Err() != nil {
			return
		}
		if !l.Held() {
			l.leases.logger.Warn("lease was not renewed in time", l.attrs()...)
			return
		}
		err := l.renewOnce(ctx)
		if l.theirs {
			l.leases.logger.Warn("lease was taken by another process", l.attrs()...)
			return
		}
		wait = l.leases.timing.renew
		if err != nil && ctx.Err() == nil {
			wait = l.leases.timing.poll
			l.leases.logger.Warn("lease could not be renewed; it is tried again", append(l.attrs(), slog.Any("error", err))...)
		}
	}
}

func (l *Lease) attrs() []any {
	return []any{slog.Int("partition", l.partition), slog.Uint64("epoch", l.epoch)}
}

// remaining is how long the right still stands, at least 0.
func (l *Lease) remaining() time.Duration {
	return max(0, time.Duration(l.until.Load())-l.leases.clock())
}

// renewOnce writes the next beat. An answer that does not come leaves everything open: the next beat is refused if this
// one was stored, and then the record is looked at.
func (l *Lease) renewOnce(ctx context.Context) error {
	l.beat++
	record := l.record()
	now := l.leases.clock()
	l.sent[l.beat] = now
	ctx, cancel := context.WithTimeout(ctx, l.leases.timing.call)
	defer cancel()
	revision, err := l.leases.store.update(ctx, leaseKey(l.partition), record, l.revision)
	switch {
	case err == nil:
		l.revision = revision
		clear(l.sent)
		l.extend(now)
		return nil
	case errors.Is(err, errChanged):
		_, err = l.look(ctx)
	}
	return err
}

func (l *Lease) record() leaseRecord {
	return leaseRecord{Replica: l.leases.replica, Process: l.leases.process, Epoch: l.epoch, Beat: l.beat}
}

// look reads the record: it is ours, written by a call whose answer was lost, or somebody else's.
func (l *Lease) look(ctx context.Context) (released bool, err error) {
	var there leaseRecord
	w, err := l.leases.store.get(ctx, leaseKey(l.partition), &there)
	switch {
	case errors.Is(err, errNoKey), err != nil && w.revision != 0:
		l.theirs = true // Removed, or made unreadable: not ours in any case.
		return false, nil
	case err != nil:
		return false, err
	case there.Process != l.leases.process || there.Epoch != l.epoch:
		l.theirs = true
		return false, nil
	}
	l.revision = w.revision
	if sent, ok := l.sent[there.Beat]; ok && !there.Released {
		l.extend(sent)
	}
	return there.Released, nil
}

// Release ends the right at once and then writes down that the lease is free, so that the next holder need not wait.
// Held is false before the first call is made. It repeats what fails until ctx ends; the error says that the record
// still names us, which costs the next holder 5 s. A lease that somebody else has is released, and so is one that was
// released before.
func (l *Lease) Release(ctx context.Context) error {
	l.lose()
	l.stop()
	<-l.done
	l.release.Lock()
	defer l.release.Unlock()
	wait := firstRepeat
	for !l.theirs {
		err := l.releaseOnce(ctx)
		if err == nil && !l.theirs {
			l.leases.logger.Info("lease released", l.attrs()...)
			l.theirs = true // Whoever takes it now is somebody else, this process included.
			l.released.Store(true)
		}
		if err == nil {
			continue
		}
		if ctx.Err() != nil || closedForGood(err) {
			return fmt.Errorf("releasing the lease of partition %d: %w", l.partition, err)
		}
		if !errors.Is(err, errChanged) { // Then the revision is known now.
			pause(ctx, wait)
			wait = min(2*wait, slowestRepeat)
		}
	}
	return nil
}

func (l *Lease) releaseOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.leases.timing.call)
	defer cancel()
	record := l.record()
	record.Released = true
	_, err := l.leases.store.update(ctx, leaseKey(l.partition), record, l.revision)
	if !errors.Is(err, errChanged) {
		return err
	}
	if released, err := l.look(ctx); err != nil || l.theirs || released {
		return err
	}
	return errChanged
}
