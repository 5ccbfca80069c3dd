package simulator

import (
	"math"
	"math/rand/v2"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// plan is a script being played: the script itself is never changed, the plan knows how far it has come. A new
// script or a reset is a new plan, so nothing has to be rewound.
type plan struct {
	script  Script
	seed    uint64
	started time.Time
	outages []Outage
	// limiter and throttled are nil without a throttle.
	limiter   *rate.Limiter
	throttled *Answer
	// exact and patterns find the rules of a Vorgang: indexes into script.Vorgaenge, ascending.
	exact    map[string][]int
	patterns []int
	// simple is set if no request's fate depends on what was before or on chance: most tests, all benchmarks.
	simple bool

	mu       sync.Mutex
	sequence cursor
	places   map[string]*place
	token    cursor
	tokenN   int
}

// place is how far one Vorgang has come in the plan.
type place struct {
	requests int
	// document and comments are the rules that hold for the kinds; one rule for both is one progress.
	document *progress
	comments *progress
}

// progress is how far one Vorgang has come in one rule.
type progress struct {
	rule *VorgangRule
	cursor
}

// cursor walks through steps.
type cursor struct {
	step int
	used int
}

// next is the answer of the next step, or nil after the last one.
func (c *cursor) next(steps []Step) *Answer {
	if c.step >= len(steps) {
		return nil
	}
	answer := &steps[c.step].Answer
	c.used++
	if c.used >= max(steps[c.step].Times, 1) {
		c.step, c.used = c.step+1, 0
	}
	return answer
}

// newPlan starts a valid script.
func newPlan(script Script, seed uint64) *plan {
	p := &plan{
		script: script, seed: seed, started: time.Now(),
		exact: map[string][]int{}, places: map[string]*place{},
		simple: len(script.Sequence) == 0 && len(script.Vorgaenge) == 0 && len(script.Faults) == 0 && script.Latency == nil,
	}
	for _, outage := range script.Outages {
		p.outages = append(p.outages, outage.withDefaults())
	}
	for i, rule := range script.Vorgaenge {
		for _, pattern := range rule.Match {
			if strings.ContainsAny(pattern, `*?[\`) {
				p.patterns = append(p.patterns, i)
				continue
			}
			p.exact[pattern] = append(p.exact[pattern], i)
		}
	}
	if t := script.Throttle; t != nil {
		burst := t.Burst
		if burst == 0 {
			burst = max(1, int(math.Ceil(t.Rate)))
		}
		p.limiter = rate.NewLimiter(rate.Limit(t.Rate), burst)
		answer := t.Answer
		if answer.Status == 0 {
			answer.Status = http.StatusTooManyRequests
		}
		if answer.RetryAfter == 0 {
			answer.RetryAfter = time.Second
		}
		p.throttled = &answer
	}
	return p
}

// withDefaults fills in what an outage leaves unsaid.
func (o Outage) withDefaults() Outage {
	if o.Answer.Status == 0 {
		o.Answer.Status = http.StatusServiceUnavailable
	}
	if o.Of == "" {
		o.Of = OfAPI
	}
	return o
}

// concerns reports whether the outage hits a part (OfAPI or OfToken).
func (o Outage) concerns(part string) bool { return o.Of == OfAll || o.Of == part }

// activeAt reports whether the outage is on at a time after the plan's start.
func (o Outage) activeAt(elapsed time.Duration) bool {
	since := elapsed - o.From
	switch {
	case since < 0:
		return false
	case o.For == 0:
		return true
	case o.Every != 0:
		return since%o.Every < o.For
	}
	return since < o.For
}

// outage is the answer that the script's outages give for a part at a time, or nil.
func (p *plan) outage(now time.Time, part string) *Answer {
	for i := range p.outages {
		if o := &p.outages[i]; o.concerns(part) && o.activeAt(now.Sub(p.started)) {
			return &o.Answer
		}
	}
	return nil
}

// throttle is the answer to a request above the allowed rate, or nil.
func (p *plan) throttle() *Answer {
	if p.limiter == nil || p.limiter.AllowN(time.Now(), 1) {
		return nil
	}
	return p.throttled
}

// fate is what the plan holds for one request.
type fate struct {
	// answer is nil if nothing is scripted.
	answer *Answer
	// chance is this request's own randomness, nil if the plan needs none.
	chance *rand.Rand
}

// chance makes the randomness of a key's n-th request. It depends on nothing else but the seed, so a run can be
// repeated although requests of different Vorgänge interleave differently.
func (p *plan) chance(key string, n int) *rand.Rand {
	const offset, prime = 14695981039346656037, 1099511628211 // FNV-1a.
	hash := uint64(offset)
	for i := range len(key) {
		hash = (hash ^ uint64(key[i])) * prime
	}
	// Neighbouring n must not give neighbouring states.
	mixed := (uint64(n) + hash) * 0x9e3779b97f4a7c15           //nolint:gosec // A count is never negative.
	return rand.New(rand.NewPCG(p.seed^hash, mixed^mixed>>32)) //nolint:gosec // G404: made to repeat itself.
}

// update decides the fate of an authenticated update.
func (p *plan) update(kind, vorgangsnummer string) fate {
	if p.simple {
		return fate{}
	}
	p.mu.Lock()
	at := p.placeLocked(vorgangsnummer)
	at.requests++
	n := at.requests
	answer := p.sequence.next(p.script.Sequence)
	if answer == nil {
		answer = at.nextLocked(kind)
	}
	p.mu.Unlock()

	f := fate{answer: answer, chance: p.chance(vorgangsnummer, n)}
	f.byChance(p, kind)
	return f
}

// probe decides the fate of a probe.
func (p *plan) probe() fate {
	if p.simple {
		return fate{}
	}
	p.mu.Lock()
	at := p.placeLocked("") // No Vorgang has this number.
	at.requests++
	n := at.requests
	p.mu.Unlock()

	f := fate{chance: p.chance("", n)}
	f.byChance(p, KindProbe)
	return f
}

// byChance lets a fault strike a request that nothing else is scripted for.
func (f *fate) byChance(p *plan, kind string) {
	if len(p.script.Faults) == 0 {
		return
	}
	roll := f.chance.Float64() // Also where it is not needed, so that a later draw does not depend on the rules.
	if f.answer != nil {
		return
	}
	for i := range p.script.Faults {
		fault := &p.script.Faults[i]
		if !fault.concerns(kind) {
			continue
		}
		if roll < fault.Rate {
			f.answer = &fault.Answer
			return
		}
		roll -= fault.Rate
	}
}

// concerns reports whether the fault can strike a kind of request.
func (f *Fault) concerns(kind string) bool {
	if f.Kind == "" {
		return kind == KindDocument || kind == KindComments
	}
	return f.Kind == kind
}

// nextToken is the scripted answer to the next token request, nil for the usual handling, and its randomness.
func (p *plan) nextToken() fate {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tokenN++
	answer := p.token.next(p.script.Token.Sequence)
	if answer == nil {
		answer = p.script.Token.Always
	}
	return fate{answer: answer, chance: p.chance("token", p.tokenN)}
}

// placeLocked finds a Vorgang's place. Its rules are looked up once, at its first request.
func (p *plan) placeLocked(vorgangsnummer string) *place {
	at, ok := p.places[vorgangsnummer]
	if ok {
		return at
	}
	at = &place{}
	p.places[vorgangsnummer] = at
	candidates := slices.Clone(p.exact[vorgangsnummer])
	for _, i := range p.patterns {
		if slices.ContainsFunc(p.script.Vorgaenge[i].Match, func(pattern string) bool {
			matches, err := path.Match(pattern, vorgangsnummer)
			return err == nil && matches
		}) {
			candidates = append(candidates, i)
		}
	}
	slices.Sort(candidates)
	for _, i := range slices.Compact(candidates) {
		shared := &progress{rule: &p.script.Vorgaenge[i]}
		if at.document == nil && shared.rule.Kind != KindComments {
			at.document = shared
		}
		if at.comments == nil && shared.rule.Kind != KindDocument {
			at.comments = shared
		}
	}
	return at
}

// nextLocked is what the Vorgang's rule says to its next request of a kind, or nil.
func (a *place) nextLocked(kind string) *Answer {
	at := a.document
	if kind == KindComments {
		at = a.comments
	}
	if at == nil {
		return nil
	}
	if answer := at.next(at.rule.Sequence); answer != nil {
		return answer
	}
	return at.rule.Always
}
