// Package hold is the gate in front of every request: why sending stops, until when, and what ends it.
//
// A bad message is a dead letter, a bad system is a hold. In an update's way the gate stands before the lanes:
// a worker enters, takes a lane's head, begins, sends, and leaves with what the answer showed. While any hold is
// on, one worker at a time is let through as a probe, paced by the retry policy; when it comes back with an answer
// outside the hold's class, the hold ends. After a throttle the number of requests at once starts from one and
// doubles with each round of answers.
package hold

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"

	"kexrelay/internal/fault"
)

// unauthorizedEvery is the least time between two tries with a rejected secret: at most 5 a minute, so that the
// token endpoint does not lock the client out.
const unauthorizedEvery = 12 * time.Second

// Signal is what one attempt showed about the API as a whole.
type Signal struct {
	// Kind of signal.
	Kind SignalKind
	// Wait is the pause the other side asked for, for Throttled; 0 leaves it to the gate.
	Wait time.Duration
}

// SignalKind is a closed set.
type SignalKind uint8

const (
	// Nothing was learned: no request was made, or our own stop ended it.
	Nothing SignalKind = iota
	// Works means a definite answer to this one update: booked, or refused for a reason of its own.
	Works
	// Refused is a 403: the API works, but perhaps not for us.
	Refused
	// Throttled is a 429 or a 503 that names a time.
	Throttled
	// Failed is an answer or a failure of the outage class.
	Failed
	// Unauthorized is a rejected token or secret.
	Unauthorized
)

// ends reports whether a signal is outside a hold's class and so ends it. A refusal hold is ended only by an
// answer that needed the right it is about: an outage says nothing about it, and ending it then would let the
// next five refusals become dead letters.
func (s SignalKind) ends(reason fault.Reason) bool {
	switch s {
	case Works:
		return reason == fault.Outage || reason == fault.Throttling || reason == fault.Unauthorized || reason == fault.Forbidden
	case Refused:
		return reason == fault.Outage || reason == fault.Throttling || reason == fault.Unauthorized
	case Throttled:
		return reason == fault.Outage || reason == fault.Unauthorized
	case Failed:
		return reason == fault.Throttling || reason == fault.Unauthorized
	case Unauthorized:
		return reason == fault.Outage || reason == fault.Throttling
	case Nothing:
	}
	return false
}

// Hold is one reason why sending stops.
type Hold struct {
	Reason fault.Reason
	// Detail is scrubbed text for people.
	Detail string
	Since  time.Time
	// NextProbe is when the next try is due; zero for storage (its publishes repeat by themselves) and for
	// operator holds without a deadline.
	NextProbe time.Time
	// Probes counts the failed ones.
	Probes int
	// Booking reports whether a probe may be a real request. It may not while unknown outcomes caused the hold:
	// a probe that may be booked would add to them.
	Booking bool
}

// Config is what a gate is made with.
type Config struct {
	// Limit is how many passes there are at most, the relay's concurrency.
	Limit int
	// Initial and MaxInterval bound the pace of probes.
	Initial, MaxInterval time.Duration
	Logger               *slog.Logger
}

// Gate lets requests pass while nothing holds them. Use New; all methods are safe for concurrent use.
type Gate struct {
	cfg Config

	mu      sync.Mutex
	holds   map[fault.Reason]*hold
	changed chan struct{} // closed and replaced at every change somebody may wait for
	rev     uint64        // counts raises: a pass knows which holds began before it
	passes  int           // passes out
	limit   int           // passes allowed now: below cfg.Limit while ramping up
	probing bool          // a probe is out

	waiting   int // callers blocked in Enter
	heldSince time.Time
	heldTotal time.Duration
}

type hold struct {
	Hold
	rev   uint64
	delay *backoff.ExponentialBackOff
}

// New makes an open gate.
func New(cfg Config) *Gate {
	return &Gate{
		cfg:     cfg,
		holds:   make(map[fault.Reason]*hold),
		changed: make(chan struct{}),
		limit:   cfg.Limit,
	}
}

// Raise begins a hold or, if it is on already, extends it: wait is the least time until the next probe, 0 leaves
// it to the retry policy's first delay. booking says whether probes may be real requests.
func (g *Gate) Raise(reason fault.Reason, wait time.Duration, detail string, booking bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.raiseLocked(reason, wait, detail, booking)
}

func (g *Gate) raiseLocked(reason fault.Reason, wait time.Duration, detail string, booking bool) {
	now := time.Now()
	if on, ok := g.holds[reason]; ok {
		on.Booking = on.Booking && booking
		on.Detail = detail // the latest says most
		if due := now.Add(wait); wait > 0 && due.After(on.NextProbe) {
			on.NextProbe = due
			g.rev++
			on.rev = g.rev // what was sent before the longer wait was asked for does not end it
			g.notifyLocked()
		}
		return
	}
	if len(g.holds) == 0 {
		g.heldSince = now
	}
	g.rev++
	on := &hold{
		Hold: Hold{Reason: reason, Detail: detail, Since: now, Booking: booking},
		rev:  g.rev,
		delay: backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(g.cfg.Initial),
			backoff.WithMaxInterval(g.cfg.MaxInterval),
			backoff.WithMaxElapsedTime(0),
		),
	}
	on.NextProbe = on.next(now, wait)
	g.holds[reason] = on
	g.cfg.Logger.Warn("sending is held",
		slog.String("reason", string(reason)), slog.String("detail", detail), slog.Time("next_probe", on.NextProbe))
	g.notifyLocked()
}

// next is when the next probe is due after one that failed at now: after the wait that was asked for, or after the
// retry policy's next delay where none was.
func (h *hold) next(now time.Time, wait time.Duration) time.Time {
	switch h.Reason { //nolint:exhaustive // all others are paced alike
	case fault.Storage:
		return time.Time{}
	case fault.Operator:
		if wait <= 0 {
			return time.Time{}
		}
	}
	if wait <= 0 {
		wait = h.delay.NextBackOff()
	}
	if h.Reason == fault.Unauthorized {
		wait = max(wait, unauthorizedEvery)
	}
	return now.Add(wait)
}

// ProbeNow makes the next probe of a hold due, if it is on and was only waiting for the pace of the retry policy.
func (g *Gate) ProbeNow(reason fault.Reason) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if on, ok := g.holds[reason]; ok && !on.NextProbe.IsZero() {
		on.NextProbe = time.Now()
		g.notifyLocked()
	}
}

// Clear ends a hold, if it is on.
func (g *Gate) Clear(reason fault.Reason) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.clearLocked(reason)
}

func (g *Gate) clearLocked(reason fault.Reason) {
	on, ok := g.holds[reason]
	if !ok {
		return
	}
	now := time.Now()
	delete(g.holds, reason)
	if reason == fault.Throttling || reason == fault.Outage {
		g.limit = 1 // ramp up: everything at once would be throttled, or fell the API, again
	}
	if len(g.holds) == 0 {
		g.heldTotal += now.Sub(g.heldSince)
	}
	g.cfg.Logger.Info("sending is no longer held",
		slog.String("reason", string(reason)), slog.Duration("held", now.Sub(on.Since)), slog.Int("failed_probes", on.Probes))
	g.notifyLocked()
}

// Holds lists what is on, the most severe first: the order of fault.HoldReasons.
func (g *Gate) Holds() []Hold {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []Hold
	for _, reason := range fault.HoldReasons() {
		if on, ok := g.holds[reason]; ok {
			list = append(list, on.Hold)
		}
	}
	return list
}

// Held reports whether a hold for this reason is on.
func (g *Gate) Held(reason fault.Reason) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, ok := g.holds[reason]
	return ok
}

// HeldFor is how long sending has been held in all since the gate was made. Waiting time spent in holds is not
// charged to any retry budget.
func (g *Gate) HeldFor() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.holds) == 0 {
		return g.heldTotal
	}
	return g.heldTotal + time.Since(g.heldSince)
}

// Changed gives a channel that is closed at the next change of the gate. Ask for it before reading Holds.
func (g *Gate) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

func (g *Gate) notifyLocked() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// Enter waits until a request may be made and gives the pass for it. While holds are on, one pass at a time is
// given out as a probe when it is due. It gives ctx's cause when ctx ends first.
func (g *Gate) Enter(ctx context.Context) (*Pass, error) {
	for {
		g.mu.Lock()
		pass, wait := g.admitLocked(time.Now())
		changed := g.changed
		if pass == nil {
			g.waiting++
		}
		g.mu.Unlock()
		if pass != nil && ctx.Err() == nil {
			return pass, nil
		}
		if pass != nil {
			pass.Leave(Signal{})
			return nil, context.Cause(ctx)
		}
		err := pause(ctx, changed, wait)
		g.mu.Lock()
		g.waiting--
		g.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// pause waits for a change, for the wait (0: for ever) or for ctx's end.
func pause(ctx context.Context, changed <-chan struct{}, wait time.Duration) error {
	var due <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-changed:
	case <-due:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// admitLocked gives a pass, or how long to wait for the next probe (0: until something changes).
func (g *Gate) admitLocked(now time.Time) (*Pass, time.Duration) {
	if on, ok := g.holds[fault.Operator]; ok && !on.NextProbe.IsZero() && !on.NextProbe.After(now) {
		g.clearLocked(fault.Operator) // its deadline has come
	}
	if len(g.holds) == 0 {
		if g.passes >= g.limit {
			return nil, 0
		}
		g.passes++
		return &Pass{gate: g, rev: g.rev}, 0
	}
	if g.probing {
		return nil, 0
	}
	var due time.Time
	booking := true
	for _, on := range g.holds {
		if on.NextProbe.IsZero() {
			return nil, 0 // no probe of ours ends this one
		}
		if on.NextProbe.After(due) {
			due = on.NextProbe
		}
		booking = booking && on.Booking
	}
	if wait := due.Sub(now); wait > 0 {
		return nil, wait
	}
	g.probing = true
	g.passes++
	return &Pass{gate: g, rev: g.rev, probe: true, booking: booking}, 0
}
