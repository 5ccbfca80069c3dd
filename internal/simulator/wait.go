package simulator

import (
	"context"
	"fmt"
	"slices"
)

// waiter is somebody who waits for the ledger to reach a state.
type waiter struct {
	// reachedLocked is called with the ledger's mutex held, after each event.
	reachedLocked func() bool
	reached       chan struct{}
}

// WaitBooked waits until at least n updates have been booked since the start or the last reset. The error says
// how many there were when ctx ended.
func (s *Simulator) WaitBooked(ctx context.Context, n int) error {
	err := s.WaitFor(ctx, func(c Counts) bool { return c.Booked >= n })
	if err != nil {
		return fmt.Errorf("waiting for booking %d, %d were made: %w", n, s.Counts().Booked, err)
	}
	return nil
}

// WaitBookedFor waits until at least n updates of one Vorgang have been booked.
func (s *Simulator) WaitBookedFor(ctx context.Context, vorgangsnummer string, n int) error {
	l := s.ledger
	booked := func() int {
		if v := l.vorgaenge[vorgangsnummer]; v != nil {
			return len(v.bookings)
		}
		return 0
	}
	if err := l.wait(ctx, func() bool { return booked() >= n }); err != nil {
		return fmt.Errorf("waiting for booking %d of Vorgang %s, %d were made: %w", n, vorgangsnummer, len(s.Bookings(vorgangsnummer)), err)
	}
	return nil
}

// WaitFor waits until the counts are as wanted. reached is asked at once and after every event, so it sees each
// state; it must be quick and must not call the Simulator. The error is ctx's cause.
func (s *Simulator) WaitFor(ctx context.Context, reached func(Counts) bool) error {
	return s.ledger.wait(ctx, func() bool { return reached(s.ledger.counts) })
}

func (l *ledger) wait(ctx context.Context, reachedLocked func() bool) error {
	w := &waiter{reachedLocked: reachedLocked, reached: make(chan struct{})}
	l.mu.Lock()
	if reachedLocked() {
		l.mu.Unlock()
		return nil
	}
	l.waiters = append(l.waiters, w)
	l.mu.Unlock()
	select {
	case <-w.reached:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if isClosed(w.reached) {
		return nil
	}
	l.waiters = slices.DeleteFunc(l.waiters, func(other *waiter) bool { return other == w })
	return context.Cause(ctx)
}

// wakeLocked tells those whose state is reached.
func (l *ledger) wakeLocked() {
	if len(l.waiters) == 0 {
		return
	}
	l.waiters = slices.DeleteFunc(l.waiters, func(w *waiter) bool {
		if !w.reachedLocked() {
			return false
		}
		close(w.reached)
		return true
	})
}
