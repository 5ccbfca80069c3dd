package hold

import (
	"context"
	"slices"
	"time"
)

// aheadTime is how long before its place becomes free a request is prepared. What its preparation waits for, the
// ledger's record above all, costs no throughput then, and the record is still young when the request starts.
const aheadTime = 5 * time.Millisecond

// ahead is how many passes there may be beyond the limit: as many as get a place within aheadTime, and never more than
// there are places. While nobody knows how long answers take there are none.
func (l *limiter) ahead() int {
	if l.mean <= 0 {
		return 0
	}
	return int(min(time.Duration(l.limit), time.Duration(l.limit)*aheadTime/l.mean))
}

// places are those of the requests that are being made: a pass without a place is only being prepared.
type places struct {
	taken   int
	waiting []chan struct{} // In the order they came; each can hold one token.
}

// take takes a place, or gives a channel that gets a token with the place.
func (p *places) take(limit int) chan struct{} {
	if p.taken < limit {
		p.taken++
		return nil
	}
	granted := make(chan struct{}, 1)
	p.waiting = append(p.waiting, granted)
	return granted
}

// grant hands free places to those who wait.
func (p *places) grant(limit int) {
	for p.taken < limit && len(p.waiting) > 0 {
		p.taken++
		p.waiting[0] <- struct{}{}
		p.waiting = p.waiting[1:]
	}
}

// giveUp ends a wait. It reports whether the place was granted in the same moment: then it is to be given back.
func (p *places) giveUp(granted chan struct{}) bool {
	if i := slices.Index(p.waiting, granted); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
		return false
	}
	return true
}

// Place waits until the request of the pass is one of those that may be made at once, and reports whether it is: not
// if sending is held meanwhile, or if ctx or one of the others ends. Leave gives the place back. Call it when all else
// is prepared, and ask MayStart after it.
func (p *Pass) Place(ctx context.Context, others [2]<-chan struct{}) bool {
	g := p.gate
	g.mu.Lock()
	if p.probe || p.placed { // The only one, or a second request of the same pass.
		g.mu.Unlock()
		return true
	}
	granted := g.places.take(g.limiter.limit)
	g.limiter.full = g.limiter.full || g.places.taken >= g.limiter.limit
	changed, over := g.changed, g.rev != p.rev
	p.placed = granted == nil
	g.mu.Unlock()
	if p.placed {
		return true
	}
	for !over {
		select {
		case <-granted:
			p.placed = true
			return true
		case <-changed:
		case <-ctx.Done():
			over = true
		case <-others[0]:
			over = true
		case <-others[1]:
			over = true
		}
		g.mu.Lock()
		changed, over = g.changed, over || g.rev != p.rev
		g.mu.Unlock()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.places.giveUp(granted) {
		g.places.taken--
		g.places.grant(g.limiter.limit)
	}
	return false
}
