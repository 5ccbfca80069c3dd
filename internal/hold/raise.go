package hold

import (
	"log/slog"
	"math"
	"time"

	"github.com/cenkalti/backoff/v4"

	"kexrelay/internal/fault"
)

// Raise begins a hold or, if it is on already, extends it: wait is the least time until the next probe, 0 leaves
// it to the retry policy's first delay. booking says whether probes may be real requests.
func (g *Gate) Raise(reason fault.Reason, wait time.Duration, detail string, booking bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.raiseLocked(reason, wait, detail, booking)
}

func (g *Gate) raiseLocked(reason fault.Reason, wait time.Duration, detail string, booking bool) {
	now := time.Now()
	if on, ok := g.holds[reason]; ok && !on.ending {
		g.extendLocked(on, now, wait, detail, booking)
		return
	}
	on, ok := g.holds[reason]
	if !ok {
		on = g.beginLocked(Hold{Reason: reason, Since: now, Replica: g.cfg.Replica}, now)
		if g.fleet != nil {
			on.process = g.fleet.cfg.Process
		}
	}
	// What was sent before does not end it, nor does the removal that may be on its way.
	g.rev++
	on.rev = g.rev
	on.Detail, on.Booking, on.Probes, on.ending = detail, booking, 0, false
	on.NextProbe = g.next(on, now, wait)
	on.raised = true
	g.touchLocked(on)
	if !ok {
		g.logBeginLocked(on)
	}
}

// beginLocked puts a hold on. The caller sets when it is probed, and tells.
func (g *Gate) beginLocked(h Hold, now time.Time) *hold {
	if len(g.holds) == 0 {
		g.heldSince = now
	}
	g.rev++
	on := &hold{Hold: h, rev: g.rev, began: now}
	g.holds[h.Reason] = on
	return on
}

func (g *Gate) logBeginLocked(on *hold) {
	probe := slog.Attr{} // Left out: a pause without a deadline is never probed.
	if !on.NextProbe.IsZero() {
		probe = slog.Time("next_probe", on.NextProbe)
	}
	g.cfg.Logger.Warn("sending is held",
		slog.String("reason", string(on.Reason)), slog.String("detail", on.Detail), probe, slog.String("raised_by", on.Replica))
}

// extendLocked takes note of one more answer of a hold's class.
func (g *Gate) extendLocked(on *hold, now time.Time, wait time.Duration, detail string, booking bool) {
	write := on.Booking && !booking
	on.Booking = on.Booking && booking
	on.Detail = detail // the latest says most
	due := now.Add(wait)
	if on.Reason == fault.Unauthorized && g.triedTooLocked(on) {
		due = later(due, on.NextProbe.Add(unauthorizedEvery))
		wait = due.Sub(now)
	}
	if wait > 0 && due.After(on.NextProbe) && !on.endless() {
		on.NextProbe = due
		g.rev++
		on.rev = g.rev // what was sent before the longer wait was asked for does not end it
		write = true
	}
	if write {
		on.raised = true
		g.touchLocked(on)
	}
}

// touchLocked says that something of a hold is to be written down, and wakes whoever waits.
func (g *Gate) touchLocked(on *hold) {
	g.version++
	on.version = g.version
	g.notifyLocked()
}

// endless reports that no time ends a hold or makes a probe of it due.
func (h *hold) endless() bool {
	return h.Reason == fault.Storage || h.Reason == fault.Operator && h.NextProbe.IsZero()
}

// next is when the next probe is due after one that failed at now: after the wait that was asked for, or after the
// retry policy's next delay where none was.
func (g *Gate) next(on *hold, now time.Time, wait time.Duration) time.Time {
	switch on.Reason { //nolint:exhaustive // all others are paced alike
	case fault.Storage:
		return time.Time{}
	case fault.Operator:
		if wait <= 0 {
			return time.Time{}
		}
	}
	if wait <= 0 {
		wait = g.delay(on.Probes)
	}
	if on.Reason == fault.Unauthorized {
		wait = max(wait, unauthorizedEvery)
	}
	return now.Add(wait)
}

// delay is the retry policy's delay after so many failures: a process that goes on with another's hold goes on with
// its pace.
func (g *Gate) delay(failures int) time.Duration {
	interval := float64(g.cfg.Initial) * math.Pow(backoff.DefaultMultiplier, float64(failures))
	interval = min(interval, float64(g.cfg.MaxInterval))
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(time.Duration(interval)),
		backoff.WithMaxInterval(g.cfg.MaxInterval),
		backoff.WithMaxElapsedTime(0),
	).NextBackOff()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
