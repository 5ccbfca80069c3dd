package simulator

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// maxLatency bounds a drawn latency, because the tail of a distribution has no end.
const maxLatency = time.Hour

// Latency is a duration or a distribution of durations: exactly one of its fields beside Max is set.
type Latency struct {
	// Fixed is always the same.
	Fixed time.Duration `yaml:"fixed,omitempty"`
	// Uniform lies anywhere between two durations.
	Uniform *Uniform `yaml:"uniform,omitempty"`
	// Normal is the bell curve, cut off at 0.
	Normal *Normal `yaml:"normal,omitempty"`
	// LogNormal has a long tail, as real services have.
	LogNormal *LogNormal `yaml:"lognormal,omitempty"`
	// Percentiles are points of a measured distribution with ascending P; between two of them it is linear,
	// below the first and above the last it is constant.
	Percentiles []Percentile `yaml:"percentiles,omitempty"`
	// Max cuts the distribution off; 0 means at 1 h.
	Max time.Duration `yaml:"max,omitempty"`
}

// Uniform is the range of a uniform distribution.
type Uniform struct {
	Min time.Duration `yaml:"min"`
	Max time.Duration `yaml:"max"`
}

// Normal is a normal distribution.
type Normal struct {
	Mean      time.Duration `yaml:"mean"`
	Deviation time.Duration `yaml:"deviation"`
}

// LogNormal is a log-normal distribution, given by two percentiles because these are what people measure.
type LogNormal struct {
	Median time.Duration `yaml:"median"`
	P99    time.Duration `yaml:"p99"`
}

// Percentile says that P percent of all latencies are at most Latency.
type Percentile struct {
	P       float64       `yaml:"p"`
	Latency time.Duration `yaml:"latency"`
}

// Fixed is a latency that is always the same, for scripts written in Go.
func Fixed(d time.Duration) *Latency { return &Latency{Fixed: d} }

// p99Deviations is how many standard deviations the 99th percentile lies above the median.
const p99Deviations = 2.3263478740408408

// draw takes one duration out of the distribution, never negative. It draws nothing for a fixed latency. A nil
// Latency is 0.
func (l *Latency) draw(chance *rand.Rand) time.Duration {
	if l == nil {
		return 0
	}
	var d float64
	switch {
	case l.Uniform != nil:
		d = float64(l.Uniform.Min) + chance.Float64()*float64(l.Uniform.Max-l.Uniform.Min)
	case l.Normal != nil:
		d = float64(l.Normal.Mean) + chance.NormFloat64()*float64(l.Normal.Deviation)
	case l.LogNormal != nil:
		sigma := math.Log(float64(l.LogNormal.P99)/float64(l.LogNormal.Median)) / p99Deviations
		d = float64(l.LogNormal.Median) * math.Exp(sigma*chance.NormFloat64())
	case len(l.Percentiles) != 0:
		d = percentile(l.Percentiles, chance.Float64()*100)
	default:
		d = float64(l.Fixed)
	}
	limit := maxLatency
	if l.Max > 0 {
		limit = l.Max
	}
	return time.Duration(min(max(d, 0), float64(limit)))
}

// percentile is the value of the distribution at p percent.
func percentile(points []Percentile, p float64) float64 {
	below := points[0]
	for _, above := range points {
		if p <= above.P {
			if above.P == below.P {
				return float64(above.Latency)
			}
			share := (p - below.P) / (above.P - below.P)
			return float64(below.Latency) + share*float64(above.Latency-below.Latency)
		}
		below = above
	}
	return float64(below.Latency)
}

func (l *Latency) validate(where string) error {
	if l == nil {
		return nil
	}
	errs := []error{notNegative(where+".fixed", l.Fixed), notNegative(where+".max", l.Max)}
	if l.Fixed > maxLatency {
		errs = append(errs, fmt.Errorf("%s.fixed: %v is more than %v", where, l.Fixed, maxLatency))
	}
	if l.kinds() > 1 {
		errs = append(errs, fmt.Errorf("%s: only one of fixed, uniform, normal, lognormal and percentiles can hold", where))
	}
	if u := l.Uniform; u != nil && (u.Min < 0 || u.Max < u.Min) {
		errs = append(errs, fmt.Errorf("%s.uniform: needs 0 <= min <= max, not %v and %v", where, u.Min, u.Max))
	}
	if n := l.Normal; n != nil && (n.Mean < 0 || n.Deviation < 0) {
		errs = append(errs, fmt.Errorf("%s.normal: mean %v and deviation %v must not be negative", where, n.Mean, n.Deviation))
	}
	if n := l.LogNormal; n != nil && (n.Median <= 0 || n.P99 < n.Median) {
		errs = append(errs, fmt.Errorf("%s.lognormal: needs 0 < median <= p99, not %v and %v", where, n.Median, n.P99))
	}
	errs = append(errs, validatePercentiles(l.Percentiles, where+".percentiles"))
	return errors.Join(errs...)
}

// kinds counts the distributions that are given.
func (l *Latency) kinds() int {
	kinds := 0
	for _, given := range []bool{l.Fixed != 0, l.Uniform != nil, l.Normal != nil, l.LogNormal != nil, len(l.Percentiles) != 0} {
		if given {
			kinds++
		}
	}
	return kinds
}

func validatePercentiles(points []Percentile, where string) error {
	var errs []error
	for i, point := range points {
		if !(point.P >= 0 && point.P <= 100) || point.Latency < 0 {
			errs = append(errs, fmt.Errorf("%s: needs a p between 0 and 100 and a latency of at least 0", at(where, i)))
		}
		if i > 0 && (point.P <= points[i-1].P || point.Latency < points[i-1].Latency) {
			errs = append(errs, fmt.Errorf("%s: p must ascend, and the latency must not fall", at(where, i)))
		}
	}
	return errors.Join(errs...)
}
