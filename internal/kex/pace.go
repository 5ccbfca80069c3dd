package kex

import (
	"time"

	"github.com/cenkalti/backoff/v4"

	"kexrelay/internal/fault"
)

const (
	// A rejected client is tried at most rejectedTries times within rejectedWindow, whatever else happens, and not
	// sooner than rejectedPause after a rejection unless its secret has changed.
	rejectedTries  = 5
	rejectedWindow = time.Minute
	rejectedPause  = rejectedWindow / rejectedTries
	// secretPause is how often the secret is read while waiting for a change.
	secretPause = time.Second

	// Backoff of an endpoint that does not work: 1 s, 2 s, 4 s … 1 min, each ±30 %.
	outageInitial = time.Second
	outageMax     = time.Minute
	outageJitter  = 0.3
)

// pace decides when the token endpoint may be asked. It is used under the token source's mutex.
type pace struct {
	outage *backoff.ExponentialBackOff
	// notBefore is when an endpoint that does not work is asked again.
	notBefore time.Time
	// rejectedUntil is when a rejected secret is tried again, rejected when it was last refused.
	rejectedUntil, rejected time.Time
	// looked is when the secret was last read.
	looked time.Time
	// tries are the starts of the last calls, a ring; count is how many there were.
	tries [rejectedTries]time.Time
	count int
}

func newPace() *pace {
	return &pace{outage: backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(outageInitial), backoff.WithMaxInterval(outageMax),
		backoff.WithMultiplier(2), backoff.WithRandomizationFactor(outageJitter), backoff.WithMaxElapsedTime(0),
	)}
}

// blocked is until when no call may be made at all, not even with another secret.
func (p *pace) blocked(now time.Time) time.Time {
	until := p.notBefore
	if p.rejected.IsZero() || now.Sub(p.rejected) >= rejectedWindow || p.count < rejectedTries {
		return until
	}
	if oldest := p.tries[p.count%rejectedTries].Add(rejectedWindow); oldest.After(until) {
		return oldest
	}
	return until
}

// mayLook reports whether it is worth reading the secret: a call may be made now, or could be if the secret has
// changed.
func (p *pace) mayLook(now time.Time) bool {
	if now.Before(p.blocked(now)) {
		return false
	}
	if now.Before(p.rejectedUntil) && now.Before(p.looked.Add(secretPause)) {
		return false
	}
	p.looked = now
	return true
}

// mayTry reports whether the call may be made.
func (p *pace) mayTry(now time.Time, changed bool) bool {
	return !now.Before(p.blocked(now)) && (changed || !now.Before(p.rejectedUntil))
}

func (p *pace) began(now time.Time) {
	p.tries[p.count%rejectedTries] = now
	p.count++
}

func (p *pace) succeeded() {
	p.outage.Reset()
	p.notBefore, p.rejectedUntil = time.Time{}, time.Time{}
}

func (p *pace) failed(now time.Time, f *fault.Error) {
	if f.Kind == fault.Systemic {
		p.outage.Reset()
		p.rejected, p.rejectedUntil = now, now.Add(rejectedPause)
		return
	}
	p.notBefore = now.Add(max(p.outage.NextBackOff(), f.RetryAfter))
}

// unreadable notes that there is no secret to try: it is read again after a while.
func (p *pace) unreadable(now time.Time) {
	if until := now.Add(secretPause); until.After(p.rejectedUntil) {
		p.rejectedUntil = until
	}
}

// next is when the endpoint may be asked again with the same secret.
func (p *pace) next(now time.Time) time.Time {
	if b := p.blocked(now); b.After(p.rejectedUntil) {
		return b
	}
	return p.rejectedUntil
}
