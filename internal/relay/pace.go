package relay

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"
)

const (
	// paceMargin is how much longer than 1/rate the time between two requests is. It is what keeps the rate in every
	// sliding second, and not only on average: requests that arrive up to 70 ms nearer to each other than they were sent
	// do no harm.
	paceMargin = 1.08
	// paceSlack is how much of being late is made up for: timers are late by a little, which would add up.
	paceSlack = 10 * time.Millisecond
	// paceAhead is how long before its time a request is prepared, so that at high rates the writing of its record costs
	// no throughput. The record must still be young when the request starts.
	paceAhead = 100 * time.Millisecond
)

// errNotPaced says that a request was given up before its time came.
var errNotPaced = errors.New("given up before its time came")

// pacer spaces requests: no burst, not even after a pause. The time that counts is when a request starts, so what its
// preparation costs, the ledger's record above all, bunches nothing. Use newPacer.
type pacer struct {
	mu       sync.Mutex
	interval time.Duration // 0: no limit.
	next     time.Time     // By the requests before, nothing starts before it.
	paused   time.Time     // Nothing starts before it either.
	prepared int           // Requests between prepare and release.
	changed  broadcast

	// One at a time waits for the time to prepare, and one for the time to start; the others wait for them, in order.
	preparing, starting chan struct{}
}

func newPacer(rate float64) *pacer {
	p := &pacer{preparing: make(chan struct{}, 1), starting: make(chan struct{}, 1)}
	p.set(rate)
	return p
}

// set changes the rate, in requests per second; 0 is no limit. What was prepared before starts at the old one.
func (p *pacer) set(rate float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.interval
	p.interval = 0
	if rate > 0 {
		p.interval = time.Duration(paceMargin / rate * float64(time.Second))
	}
	if before > 0 && p.interval > 0 && !p.next.IsZero() {
		p.next = p.next.Add(p.interval - before) // Counted from the last start.
	}
	p.changed.send()
}

// pause lets nothing start for a while.
func (p *pacer) pause(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until := time.Now().Add(d); until.After(p.paused) {
		p.paused = until
	}
	p.changed.send()
}

// dueLocked is when the next request may start.
func (p *pacer) dueLocked() time.Time {
	if p.paused.After(p.next) {
		return p.paused
	}
	return p.next
}

// prepare waits until the time of a request is so near that it may be prepared. wanted says whether it still is; it is
// asked again when one of the channels it gives is closed.
func (p *pacer) prepare(ctx context.Context, wanted func() (bool, [2]<-chan struct{})) (*paced, error) {
	if p.unlimited() {
		return &paced{pacer: p}, nil
	}
	mine := false
	defer func() {
		if mine {
			<-p.preparing
		}
	}()
	for {
		still, unwanted := wanted()
		if !still || ctx.Err() != nil {
			return nil, errNotPaced
		}
		turn, delay := p.preparing, time.Duration(math.MaxInt64)
		var changed <-chan struct{}
		if mine {
			var granted *paced
			turn, changed = nil, p.changed.wait()
			if granted, delay = p.grant(); granted != nil {
				return granted, nil
			}
		}
		timer := time.NewTimer(delay)
		select {
		case turn <- struct{}{}:
			mine = true
		case <-timer.C:
		case <-changed:
		case <-unwanted[0]:
		case <-unwanted[1]:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

func (p *pacer) unlimited() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.interval == 0
}

// grant gives a place, or says how long to wait before asking again.
func (p *pacer) grant() (*paced, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.interval == 0 {
		return &paced{pacer: p}, 0
	}
	ahead := int(paceAhead / p.interval)
	if p.prepared > ahead {
		return nil, math.MaxInt64 // release tells.
	}
	if wait := time.Until(p.dueLocked().Add(time.Duration(p.prepared-ahead) * p.interval)); wait > 0 {
		return nil, wait
	}
	p.prepared++
	return &paced{pacer: p, limited: true}, 0
}

// paced is the right to prepare one request. release ends it, once, whether the request was started or not.
type paced struct {
	pacer   *pacer
	limited bool
}

// start waits until the request may start, and counts it as started.
func (g *paced) start(ctx context.Context) error {
	if !g.limited {
		return nil
	}
	p := g.pacer
	select {
	case p.starting <- struct{}{}:
		defer func() { <-p.starting }()
	case <-ctx.Done():
		return errNotPaced
	}
	for {
		changed := p.changed.wait()
		wait := p.started()
		if wait <= 0 {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return errNotPaced
		}
	}
}

// started counts a request as started now, or says how long it has to wait.
func (p *pacer) started() (wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if wait := p.dueLocked().Sub(now); wait > 0 && p.interval > 0 {
		return wait
	}
	if late := now.Add(-paceSlack); p.next.Before(late) {
		p.next = late
	}
	p.next = p.next.Add(p.interval)
	return 0
}

// release makes room for the preparation of another request.
func (g *paced) release() {
	if !g.limited {
		return
	}
	g.limited = false
	g.pacer.mu.Lock()
	defer g.pacer.mu.Unlock()
	g.pacer.prepared--
	g.pacer.changed.send()
}
