package hold

import (
	"time"

	"kexrelay/internal/fault"
)

// Pass is the right to prepare one request, and with a place to make it. Leave ends it, exactly once.
type Pass struct {
	gate    *Gate
	rev     uint64
	probe   bool
	booking bool
	placed  bool
}

// Probe reports whether the pass was given out while sending is held, to find out whether it still must be.
func (p *Pass) Probe() bool { return p.probe }

// Booking reports whether a probe may be a real request. If not, it must be one that books nothing.
func (p *Pass) Booking() bool { return !p.probe || p.booking }

// MayStart says whether the request may still be made: nothing was raised since the pass was given out. A worker
// asks right before it sends, because it may have waited long for work, a token or the rate limit.
func (p *Pass) MayStart() bool {
	g := p.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.rev == p.rev
}

// Leave gives the pass back with what the attempt showed. An answer outside a hold's class ends the hold, if the
// hold was on before the pass was given out: an answer to a request from before says nothing about it.
func (p *Pass) Leave(s Signal) {
	g := p.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	g.passes--
	if p.placed {
		g.places.taken--
	}
	if p.probe {
		g.probing = false
	}
	for _, reason := range fault.HoldReasons() {
		if on, ok := g.holds[reason]; ok && on.rev <= p.rev && s.Kind.ends(reason) {
			g.endLocked(on)
		}
	}
	if p.probe {
		g.probedLocked(s)
	}
	if s.Kind == Works || s.Kind == Refused {
		g.limiter.answered(time.Now(), s.Took)
	}
	g.places.grant(g.limiter.limit)
	switch {
	case g.waiting == 0:
	case p.probe || len(g.holds) > 0:
		g.notifyLocked()
	default:
		g.line.wake(g.limiter.limit + g.limiter.ahead() - g.passes) // Only as many as may pass: waking all for each answer costs more than the answer.
	}
}

// endLocked ends a hold: here at once if it is nobody else's, else when its record could be removed.
func (g *Gate) endLocked(on *hold) {
	if g.fleet == nil {
		g.clearLocked(on.Reason)
		return
	}
	on.ending = true
	g.touchLocked(on)
}

// probedLocked sets when the holds that are still on are probed next.
func (g *Gate) probedLocked(s Signal) {
	now := time.Now()
	for _, on := range g.holds {
		if on.claimed {
			on.claimed, on.ended = false, true
			g.touchLocked(on)
		}
		switch {
		case on.ending:
		case on.NextProbe.After(now) || on.NextProbe.IsZero():
			// Raised or extended while the probe was out.
		case s.Kind == Nothing:
			// The update needed no request, or was gone: the next worker probes at once with another.
		default:
			on.Probes++
			on.NextProbe = g.next(on, now, s.Wait)
		}
	}
}

// Answered ends a probe that booked nothing with whether the API answered it. If it did, real requests may probe
// from now on, the first at once.
func (p *Pass) Answered(ok bool) {
	g := p.gate
	if !ok {
		p.Leave(Signal{Kind: Failed})
		return
	}
	g.mu.Lock()
	for _, on := range g.holds {
		on.Booking = true
	}
	g.mu.Unlock()
	p.Leave(Signal{})
}
