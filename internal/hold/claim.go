package hold

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"kexrelay/internal/fault"
)

// Claim makes sure, right before the request of a probe, that no other process probes: its claim is written on the
// record of every hold that is on. Without it the probe must not be made; Leave it with an empty signal then. A pass
// that is no probe needs no claim. It takes a call per hold where holds are shared, none where they are not.
func (p *Pass) Claim(ctx context.Context) bool {
	g := p.gate
	if !p.probe || g.fleet == nil {
		return true
	}
	// A stop does not end it: the others would wait for a probe that nobody made.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimPatience)
	defer cancel()
	for _, d := range g.claimDrafts(p) {
		revision, err := g.fleet.cfg.Store.Update(ctx, d.record, d.base)
		if errors.Is(err, ErrConflict) && g.fleet.look(ctx, d.record.Reason) {
			return false
		}
		if err != nil {
			g.claimFailed(err)
			return false
		}
		if !g.claimed(&d, revision) {
			return false
		}
	}
	return g.claimsHold(p)
}

// claimPatience bounds the calls for one claim.
const claimPatience = 3 * time.Second

// claimDrafts gives the records with our claim; none if no probe is due any more.
func (g *Gate) claimDrafts(p *Pass) []draft {
	g.mu.Lock()
	defer g.mu.Unlock()
	if due, _ := g.dueLocked(time.Now()); !due || g.rev != p.rev {
		return nil
	}
	var drafts []draft
	for _, reason := range shared() {
		if on, ok := g.holds[reason]; ok {
			d := draft{record: g.recordLocked(on), base: on.revision}
			d.record.Prober, d.record.ProbedBy = g.fleet.cfg.Process, g.cfg.Replica
			d.record.Probe++
			drafts = append(drafts, d)
		}
	}
	return drafts
}

// claimed takes note of a claim that was written, and reports whether it still stands.
func (g *Gate) claimed(d *draft, revision uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	on, ok := g.holds[d.record.Reason]
	if !ok {
		return false
	}
	if revision > on.revision {
		g.takeOverLocked(on, &d.record, revision)
	}
	on.claimed = on.prober == g.fleet.cfg.Process
	return on.claimed
}

// claimsHold reports whether everything that holds is claimed, and so whether the probe may be made.
func (g *Gate) claimsHold(p *Pass) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, on := range g.holds {
		if !on.claimed {
			return false
		}
	}
	g.claims, g.holdoff = 0, time.Time{}
	p.booking = g.bookingLocked()
	return g.rev == p.rev
}

// claimFailed puts the next probe off: without the store nobody knows who probes.
func (g *Gate) claimFailed(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.claims == 0 {
		g.cfg.Logger.Warn("a probe could not be claimed; it is tried again", slog.Any("error", err))
	}
	g.holdoff = time.Now().Add(g.delay(g.claims))
	g.claims++
}

// claimableAt is when a hold may be claimed: at once if nobody probes, else when its prober must be dead.
func (f *Fleet) claimableAt(on *hold) time.Time {
	if on.prober == "" || on.prober == f.cfg.Process {
		return time.Time{}
	}
	return on.claimSeen.Add(f.cfg.Takeover)
}

// look reads one record again after somebody else was faster.
func (f *Fleet) look(ctx context.Context, reason fault.Reason) bool {
	before := f.gate.marks()[reason]
	r, err := f.cfg.Store.Get(ctx, reason)
	if err != nil && !errors.Is(err, ErrGone) {
		return false
	}
	f.gate.mu.Lock()
	defer f.gate.mu.Unlock()
	switch {
	case f.gate.markLocked(reason) != before: // It came by itself.
	case err != nil:
		f.gate.goneLocked(reason)
	default:
		f.gate.applyLocked(&r)
	}
	return true
}
