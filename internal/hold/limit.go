package hold

import "time"

const (
	// firstLimit is how many requests may be made at once at the start: the API may be weaker than it is set here.
	firstLimit = 8
	// slowFactor and slowBy say when the API is overloaded by us: its answers take more than so many times the least
	// they took lately, and by so much more. Less is what a busy network or garbage collector shows, too.
	slowFactor = 2
	slowBy     = 150 * time.Millisecond
	// leastPart of the configured limit stays whatever the latency is: it may have grown for a reason of its own.
	leastPart = 8
	// latencyAge is after how long a least latency is forgotten.
	latencyAge = 5 * time.Minute
)

// limiter finds how many requests at once are good for the API, never more than configured. It begins with few and
// doubles with every round of answers, as it does from one after a throttle or an outage. If a round of answers takes
// much longer than rounds used to, it goes back by a quarter, and from then on adds only one with every round: more at
// once than the API works on does not bring more through, it only waits there. Not safe for concurrent use.
type limiter struct {
	most  int // As configured.
	limit int
	// careful says that more was too much before: no doubling any more.
	careful bool
	credit  int // Answers since the last step of a careful limit.

	// The round: of how many answers it is, how many came, the time they took in all, and whether the limit was reached.
	size    int
	answers int
	took    time.Duration
	full    bool

	// mean is that of the last round, 0 before there was one.
	mean time.Duration
	// least and before are the least mean of a round in this and in the last span of latencyAge.
	least, before time.Duration
	since         time.Time
}

func newLimiter(most int) limiter { return limiter{most: most, limit: min(most, firstLimit)} }

// restart begins with one request at a time.
func (l *limiter) restart() { l.limit, l.careful = 1, false }

// answered makes room for more, or less, after an answer that the API gave to a request. took is how long it took, 0
// for one that says nothing about the API's load.
func (l *limiter) answered(now time.Time, took time.Duration) {
	switch {
	case l.limit >= l.most:
	case !l.careful:
		l.limit++ // One answer makes room for two requests: doubling per round.
	default:
		if l.credit++; l.credit >= l.limit {
			l.limit, l.credit = l.limit+1, 0
		}
	}
	if took <= 0 {
		return
	}
	if l.answers == 0 {
		l.size = max(l.limit, firstLimit)
	}
	l.answers++
	l.took += took
	if l.answers < l.size {
		return
	}
	l.round(now, l.took/time.Duration(l.answers))
	l.answers, l.took, l.full = 0, 0, false
}

// round compares the mean of a round of answers with what they took before.
func (l *limiter) round(now time.Time, mean time.Duration) {
	l.mean = mean
	if l.since.IsZero() || now.Sub(l.since) >= latencyAge {
		l.before, l.least, l.since = l.least, 0, now
	}
	best := l.least
	if best == 0 || l.before != 0 && l.before < best {
		best = l.before
	}
	if l.least == 0 || mean < l.least {
		l.least = mean
	}
	if best == 0 || mean <= slowFactor*best || mean-best <= slowBy || !l.full {
		return
	}
	l.limit = max(l.limit*3/4, l.most/leastPart, 1)
	l.careful, l.credit = true, 0
}

// line are the callers of Enter who wait only because enough requests are being made, in the order they came.
type line struct{ waiting []chan struct{} }

func (l *line) join() chan struct{} {
	woken := make(chan struct{}, 1)
	l.waiting = append(l.waiting, woken)
	return woken
}

// leave ends a wait that somebody else ended, and reports whether the caller had been woken as well.
func (l *line) leave(woken chan struct{}) bool {
	for i, w := range l.waiting {
		if w == woken {
			l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
			return false
		}
	}
	return true
}

// wake wakes up to n.
func (l *line) wake(n int) {
	for ; n > 0 && len(l.waiting) > 0; n-- {
		l.waiting[0] <- struct{}{}
		l.waiting = l.waiting[1:]
	}
}
