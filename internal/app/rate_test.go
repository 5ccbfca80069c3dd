package app

import (
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// The quotas of all partitions are the rate, each has its part, and whoever holds whichever of them: what a second can
// hold for each, rounded up, is in all no more than one above the rate.
func TestQuotasAreTheRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 64).Draw(t, "partitions")
		rate := rapid.Float64Range(0.01, 1000).Draw(t, "rate")
		holders := make(map[int]float64)
		sum := 0.0
		for partition := range n {
			q := quota(rate, partition, n)
			if q < rate/float64(n)-1 || q <= 0 || q > rate/float64(n)+2 {
				t.Fatalf("partition %d has %v of %v", partition, q, rate)
			}
			sum += q
			holders[rapid.IntRange(0, 5).Draw(t, "holder")] += q
		}
		if math.Abs(sum-rate) > 1e-6 {
			t.Fatalf("%v in all, want %v", sum, rate)
		}
		if rate < float64(n) {
			return // Fractions cannot be avoided.
		}
		most := 0.0
		for _, q := range holders {
			most += math.Ceil(q - 1e-6)
		}
		if most > rate+1 {
			t.Fatalf("%v in a second at a rate of %v", most, rate)
		}
	})
}

// pacing is what a rate share told the relay.
type pacing struct {
	mu     sync.Mutex
	rate   float64
	paused time.Duration
}

func (p *pacing) set(rate float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate = rate
}

func (p *pacing) pause(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = d
}

// want compares what was told since the last time.
func (p *pacing) want(t *testing.T, rate float64, paused time.Duration) {
	t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rate != rate || p.paused != paused {
		t.Errorf("rate %v, pause %v, want %v and %v", p.rate, p.paused, rate, paused)
	}
	p.paused = 0
}

func TestARateShareGrowsASecondAfterATakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got pacing
		r := newRateShare(20, 4, got.set, got.pause)
		want := func(rate float64, paused time.Duration) {
			t.Helper()
			got.want(t, rate, paused)
		}
		r.take(0)
		want(5, time.Second)
		time.Sleep(400 * time.Millisecond)
		r.take(1)
		want(10, 600*time.Millisecond)
		time.Sleep(600 * time.Millisecond)
		want(5, 0) // The first alone.
		time.Sleep(400 * time.Millisecond)
		want(10, 0)
		r.take(2)
		want(10, 0)
		r.drop(0)
		want(5, 0)
		time.Sleep(time.Second)
		want(10, 0)
		r.drop(0) // Again.
		want(10, 0)
	})
}

func TestASlowRateBeginsWithAnInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got pacing
		r := newRateShare(0.5, 1, got.set, got.pause)
		r.take(0)
		got.want(t, 0.5, 2*time.Second)
		time.Sleep(2 * time.Second)
		synctest.Wait()
	})
}

func TestWithoutARateNothingIsPaced(t *testing.T) {
	r := newRateShare(0, 1, func(float64) { t.Error("a rate is set") }, func(time.Duration) { t.Error("a pause is made") })
	r.take(0)
	r.drop(0)
}
