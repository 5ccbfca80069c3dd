package app

import (
	"errors"
	"sync/atomic"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/kex"
	"kexrelay/internal/queue"
	"kexrelay/internal/telemetry"
	"kexrelay/internal/update"
)

// registerMetrics shows what the pipeline and the queues hold, and what was last seen in NATS.
func (p *relayProcess) registerMetrics() error {
	sum := func(of func(queue.Stats) float64) func() float64 {
		return func() float64 {
			total := 0.0
			for _, part := range p.partitions {
				if q := part.queue.Load(); q != nil {
					total += of(q.Stats())
				}
			}
			return total
		}
	}
	var errs []error
	for _, gauge := range []struct {
		name telemetry.Gauge
		read func() float64
	}{
		{telemetry.GaugeInflightRequests, func() float64 { return float64(p.relay.Stats().InFlight) }},
		{telemetry.GaugeLanes, func() float64 { return float64(p.relay.Stats().Lanes.Lanes) }},
		{telemetry.GaugeHeldUpdates, sum(func(s queue.Stats) float64 { return float64(s.Held) })},
		{telemetry.GaugeHeldBytes, func() float64 { return float64(p.budget.Bytes()) }},
		{telemetry.GaugeLeases, func() float64 { return float64(p.leased.Load()) }},
		{telemetry.GaugeStranded, sum(func(s queue.Stats) float64 { return float64(min(s.Stranded, 1)) })},
		{telemetry.GaugeReadyUpdates, func() float64 { return float64(p.readyUpdates()) }},
		{telemetry.GaugeConnected, func() float64 { return oneIf(p.conn.Load().Connected()) }},
		{telemetry.GaugeReady, func() float64 {
			ready, _ := p.readiness().Verdict()
			return oneIf(ready)
		}},
		{telemetry.GaugeTokenUsable, func() float64 { return oneIf(p.client.TokenState().Usable) }},
		{telemetry.GaugeTokenExpiry, func() float64 { return timestamp(p.client.TokenState().Expiry) }},
		{telemetry.GaugeTokenFailed, func() float64 { return timestamp(p.client.TokenState().FailedAt) }},
	} {
		errs = append(errs, p.metrics.RegisterGauge(gauge.name, gauge.read))
	}
	errs = append(errs, p.metrics.RegisterSources(telemetry.Sources{
		Fleet: p.fleetMetrics, Partitions: p.partitionMetrics, Fetched: p.fetched.counts,
	}))
	return errors.Join(errs...)
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// timestamp is a time as Prometheus has it, 0 for none.
func timestamp(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / float64(time.Second)
}

// observer counts what the pipeline tells.
type observer struct {
	metrics *telemetry.Metrics
	failure *atomic.Pointer[FailureState]
}

// Attempt counts one POST, and remembers the last that is to be repeated.
func (o observer) Attempt(kind update.Kind, err error, took time.Duration) {
	o.metrics.Attempt(kind, telemetry.ClassOf(err), took)
	f := fault.Of(err)
	switch {
	case f == nil, f.Kind == fault.Permanent: // The API works.
		if o.failure.Load() != nil {
			o.failure.Store(nil)
		}
	case f.Kind == fault.Transient:
		o.failure.Store(&FailureState{At: time.Now().UTC(), Detail: f.Error()})
	}
	if f != nil && f.Unknown {
		o.metrics.UnknownOutcome(kind)
	}
}

// Settled counts one settlement.
func (o observer) Settled(s *update.Settlement) {
	kind, now := s.Update.Kind, time.Now()
	o.metrics.Settled(kind, s.Outcome, s.Reason)
	o.metrics.Took(kind, s.Outcome, now.Sub(s.Update.StoredAt), now.Sub(s.SettledAt))
	if s.PossibleDuplicate {
		o.metrics.PossibleDuplicate(kind)
	}
}

// Withdrawn counts one update that an operator took back.
func (o observer) Withdrawn(kind update.Kind, outcome update.Outcome) {
	o.metrics.Settled(kind, outcome, "")
}

// tokenOutcome is kex's word for how a token call ended in telemetry's.
func tokenOutcome(outcome string) telemetry.TokenOutcome {
	switch outcome {
	case kex.TokenOK:
		return telemetry.TokenFetched
	case string(fault.Unauthorized):
		return telemetry.TokenUnauthorized
	default:
		return telemetry.TokenFailed
	}
}
