package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// pauseTries is how often a pause is written or removed while others do the same.
const pauseTries = 10

// Pause is an operator's wish that nobody sends.
type Pause struct {
	// For is how long, 0 until Resume. Until is the same as a moment; For counts if both are there.
	For   time.Duration
	Until time.Time
	// Kind is the only kind that is not sent, empty for all.
	Kind update.Kind
	// Text says why, By who wishes it, for people.
	Text, By string
}

// ErrPauseOver says that a pause would end before it begins.
var ErrPauseOver = errors.New("the time is over already")

// Pause stops all sending, for all replicas, from the moment they learn of it. A pause that is on is replaced: was
// gives it, with the revision 0 if there was none. The moment Until is compared with the server's clock, once; from
// then on each replica counts the time by its own.
func (h *Holds) Pause(ctx context.Context, p Pause) (is, was Hold, err error) {
	for range pauseTries {
		now, err := h.serverTime(ctx)
		if err != nil {
			return Hold{}, Hold{}, err
		}
		wait, err := p.wait(now)
		if err != nil {
			return Hold{}, Hold{}, err
		}
		was, err = h.get(ctx, pauseOf(p.Kind), now)
		if err != nil && !errors.Is(err, ErrNoHold) {
			return Hold{}, Hold{}, err
		}
		is = p.hold(now, wait, was)
		if was.Revision == 0 {
			is.Revision, err = h.Create(ctx, is)
		} else {
			is.Revision, err = h.Update(ctx, is, was.Revision)
		}
		if !errors.Is(err, ErrHoldChanged) {
			return is.kept(), was, err
		}
	}
	return Hold{}, Hold{}, fmt.Errorf("pausing: %w, again and again", ErrHoldChanged)
}

// wait is how long the pause is from now on, 0 for one without end.
func (p Pause) wait(now time.Time) (time.Duration, error) {
	if p.For > 0 || p.Until.IsZero() {
		return p.For, nil
	}
	wait := p.Until.Sub(now)
	if wait <= 0 {
		return 0, fmt.Errorf("pausing until %s, by the clock of NATS it is %s: %w",
			p.Until.Format(time.RFC3339), now.In(p.Until.Location()).Format(time.RFC3339), ErrPauseOver)
	}
	return wait, nil
}

// hold is the pause as it is kept, in place of what was there.
func (p Pause) hold(now time.Time, wait time.Duration, was Hold) Hold {
	is := Hold{
		Reason: pauseOf(p.Kind), Since: now, Detail: p.Text, Replica: p.By, UpdatedAt: now, Raises: was.Raises + 1,
	}
	if !was.Since.IsZero() {
		is.Since = was.Since
	}
	if wait > 0 {
		is.WaitMillis = max(wait.Milliseconds(), 1)
		is.Until = now.Add(wait)
		if p.For == 0 {
			is.Until = p.Until
		}
		is.NextProbe = is.Until
	}
	return is
}

// pauseOf is the reason that a pause of a kind is kept under, with an empty one a pause of everything.
func pauseOf(kind update.Kind) fault.Reason {
	if kind == "" {
		return fault.Operator
	}
	return fault.OperatorFor(string(kind))
}

// Resume ends the pause of a kind, with an empty one that of everything, whatever its deadline; the others stay. was gives
// it; ErrNoHold says that there was none.
func (h *Holds) Resume(ctx context.Context, kind update.Kind) (was Hold, err error) {
	for range pauseTries {
		if was, err = h.Get(ctx, pauseOf(kind)); err != nil {
			return Hold{}, err
		}
		if err = h.Remove(ctx, pauseOf(kind), was.Revision); !errors.Is(err, ErrHoldChanged) {
			return was, err
		}
	}
	return Hold{}, fmt.Errorf("resuming: %w, again and again", ErrHoldChanged)
}
