// Package hold is the gate in front of every request: why sending stops, until when, and what ends it.
//
// A bad message is a dead letter, a bad system is a hold. In an update's way the gate stands before the lanes:
// a worker enters, takes a lane's head, prepares its request, takes a place among those that are made at once, sends,
// and leaves with what the answer showed. While any hold is on, one worker at a time is let through as a probe, paced
// by the retry policy; when it comes back with an answer outside the hold's class, the hold ends. After a throttle the
// number of requests at once starts from one and doubles with each round of answers.
//
// Holds are the fleet's: Share joins a gate with those of other processes through a store of records, one per reason.
// What a gate raises acts here at once and is written down after it; what others write is taken over; a probe goes out
// only with a claim on the records, and a hold ends here only when its record was removed. Waits are durations, each
// process counts them by its own monotonic clock.
package hold

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

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
	// Took is how long the answer took if that says something about the API's load: 0 for failures and for large
	// documents, which take long by themselves.
	Took time.Duration
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
	// Kind is the kind of updates that an operator paused alone, empty for all.
	Kind string
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
	// Replica is who raised it.
	Replica string
}

// Config is what a gate is made with.
type Config struct {
	// Limit is how many requests are made at once at most, the relay's concurrency. There are up to twice as many
	// passes: see Pass.Place.
	Limit int
	// Initial and MaxInterval bound the pace of probes.
	Initial, MaxInterval time.Duration
	// Replica is this process's name for people.
	Replica string
	Logger  *slog.Logger
}

// Gate lets requests pass while nothing holds them. Use New; all methods are safe for concurrent use.
type Gate struct {
	cfg Config

	mu      sync.Mutex
	holds   map[fault.Reason]*hold
	changed chan struct{} // closed and replaced at every change somebody may wait for
	rev     uint64        // counts raises: a pass knows which holds began before it
	passes  int           // passes out
	places  places        // passes whose requests are being made
	limiter limiter       // places there are now
	line    line          // callers of Enter who wait for a pass of somebody else's to end
	probing bool          // a probe is out

	waiting   int // callers blocked in Enter
	heldSince time.Time
	heldTotal time.Duration

	fleet   *Fleet                  // nil: nobody else to agree with
	version uint64                  // counts what is to be written down
	gone    map[fault.Reason]uint64 // the revision up to which a record is known to be gone
	holdoff time.Time               // no claim before
	kinds   kinds
	// pausedKinds are those of kinds, to be read without the mutex; nil while there are none.
	pausedKinds atomic.Pointer[[]string]
	claims      int // claims in a row that could not be made
}

type hold struct {
	Hold
	rev   uint64
	began time.Time // when this process began to be held; Since is the raiser's clock
	agreement
}

// New makes an open gate.
func New(cfg Config) *Gate {
	return &Gate{
		cfg:     cfg,
		holds:   make(map[fault.Reason]*hold),
		gone:    make(map[fault.Reason]uint64),
		changed: make(chan struct{}),
		limiter: newLimiter(cfg.Limit),
		kinds: kinds{
			on: make(map[string]kindPause), gone: make(map[string]uint64), total: make(map[string]time.Duration),
		},
	}
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
	g.gone[reason] = max(g.gone[reason], on.revision)
	if reason == fault.Throttling || reason == fault.Outage {
		g.limiter.restart() // everything at once would be throttled, or fell the API, again
	}
	if len(g.holds) == 0 {
		g.heldTotal += now.Sub(g.heldSince)
	}
	g.cfg.Logger.Info("sending is no longer held",
		slog.String("reason", string(reason)), slog.Duration("held", now.Sub(on.began)), slog.Int("failed_probes", on.Probes),
		slog.String("raised_by", on.Replica))
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

// Enter waits until a request may be prepared and gives the pass for it. While holds are on, one pass at a time is
// given out as a probe when it is due. It gives ctx's cause when ctx ends first.
func (g *Gate) Enter(ctx context.Context) (*Pass, error) {
	for {
		g.mu.Lock()
		pass, wait := g.admitLocked(time.Now())
		changed := g.changed
		var woken chan struct{}
		if pass == nil {
			g.waiting++
			woken = g.line.join()
		}
		g.mu.Unlock()
		if pass != nil && ctx.Err() == nil {
			return pass, nil
		}
		if pass != nil {
			pass.Leave(Signal{})
			return nil, context.Cause(ctx)
		}
		err := pause(ctx, changed, woken, wait)
		g.mu.Lock()
		g.waiting--
		if g.line.leave(woken) && err != nil {
			g.line.wake(1) // Whoever comes next can have the place.
		}
		g.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// pause waits for a change, for a place, for the wait (0: for ever) or for ctx's end.
func pause(ctx context.Context, changed, woken <-chan struct{}, wait time.Duration) error {
	var due <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-changed:
	case <-woken:
	case <-due:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// admitLocked gives a pass, or how long to wait for the next probe (0: until something changes).
func (g *Gate) admitLocked(now time.Time) (*Pass, time.Duration) {
	g.expireLocked(now)
	if len(g.holds) == 0 {
		if g.passes >= g.limiter.limit+g.limiter.ahead() {
			return nil, 0
		}
		g.passes++
		return &Pass{gate: g, rev: g.rev}, 0
	}
	if g.probing {
		return nil, 0
	}
	due, wait := g.dueLocked(now)
	if !due {
		return nil, wait
	}
	g.probing = true
	g.passes++
	return &Pass{gate: g, rev: g.rev, probe: true, booking: g.bookingLocked()}, 0
}

// dueLocked reports whether a probe may go out now, or when to ask again (0: when something has changed).
func (g *Gate) dueLocked(now time.Time) (due bool, wait time.Duration) {
	at := g.holdoff
	for _, on := range g.holds {
		if on.NextProbe.IsZero() || g.fleet != nil && !on.agreed() {
			return false, 0 // no probe of ours ends this one, or its record comes first
		}
		at = later(at, on.NextProbe)
		if g.fleet != nil {
			at = later(at, g.fleet.claimableAt(on))
		}
	}
	wait = at.Sub(now)
	return wait <= 0, wait
}

// bookingLocked reports whether a probe may be a real request.
func (g *Gate) bookingLocked() bool {
	for _, on := range g.holds {
		if !on.Booking {
			return false
		}
	}
	return true
}

// expireLocked ends an operator's hold whose deadline has come.
func (g *Gate) expireLocked(now time.Time) {
	on, ok := g.holds[fault.Operator]
	if !ok || on.ending || on.NextProbe.IsZero() || on.NextProbe.After(now) {
		return
	}
	if g.fleet == nil || !g.fleet.cfg.Active() {
		g.clearLocked(fault.Operator) // who sends removes the record
		return
	}
	on.ending = true
	g.touchLocked(on)
}
