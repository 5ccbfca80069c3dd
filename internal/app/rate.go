package app

import (
	"math"
	"sync"
	"time"
)

// quota is how many requests per second one of n partitions may have of the rate of all. Quotas are whole numbers where
// the rate allows it, and their sum is the rate: the bound of a sliding second is a whole number for each replica, and
// with fractions the sum of what they round up to would be more than one too many.
func quota(rate float64, partition, n int) float64 {
	if rate < float64(n) {
		return rate / float64(n)
	}
	upTo := func(partition int) float64 {
		if partition == n {
			return rate // The last one gets what is left over.
		}
		return math.Floor(rate * float64(partition) / float64(n))
	}
	return upTo(partition+1) - upTo(partition)
}

// rateShare is this process's share of the rate of all replicas: the quotas of the partitions it holds.
//
// What a partition adds counts only a second (or an interval, if that is longer) after it was taken: until then what its
// last holder sent may be in the same second. A partition that is handed over must be dropped before its lease is given
// back.
type rateShare struct {
	rate       float64
	partitions int
	set        func(perSecond float64)
	pause      func(time.Duration)

	mu    sync.Mutex
	from  map[int]time.Time // When each partition held begins to count.
	timer *time.Timer
}

func newRateShare(rate float64, partitions int, set func(float64), pause func(time.Duration)) *rateShare {
	return &rateShare{rate: rate, partitions: partitions, set: set, pause: pause, from: map[int]time.Time{}}
}

// take counts a partition in, when its time has come.
func (r *rateShare) take(partition int) {
	if r.rate <= 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	interval := time.Duration(float64(time.Second) / quota(r.rate, partition, r.partitions))
	r.from[partition] = time.Now().Add(max(time.Second, interval))
	r.applyLocked()
}

// drop counts a partition out, at once.
func (r *rateShare) drop(partition int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.from[partition]; ok {
		delete(r.from, partition)
		r.applyLocked()
	}
}

func (r *rateShare) applyLocked() {
	if r.timer != nil {
		r.timer.Stop()
	}
	now := time.Now()
	var counts, later float64
	var next time.Time
	for partition, from := range r.from {
		q := quota(r.rate, partition, r.partitions)
		if !from.After(now) {
			counts += q
			continue
		}
		later += q
		if next.IsZero() || from.Before(next) {
			next = from
		}
	}
	switch {
	case counts > 0:
		r.set(counts)
	case later > 0: // Nothing may be sent yet.
		r.pause(next.Sub(now))
		r.set(later)
	}
	if !next.IsZero() {
		r.timer = time.AfterFunc(next.Sub(now), func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.applyLocked()
		})
	}
}
