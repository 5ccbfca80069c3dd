package app

import (
	"errors"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/kex"
	"kexrelay/internal/queue"
	"kexrelay/internal/telemetry"
	"kexrelay/internal/update"
)

// readiness is what /readyz is told.
func (p *relayProcess) readiness() telemetry.Readiness {
	var r telemetry.Readiness
	if conn := p.conn.Load(); conn != nil {
		r.Connected = conn.Connected()
	}
	if !p.verified.Load() {
		r.TopologyProblem = "streams and consumers have not been verified yet"
		return r
	}
	r.Standby = p.leased.Load() == 0
	for _, h := range p.gate.Holds() {
		r.Holds = append(r.Holds, telemetry.Hold{Reason: h.Reason, Since: h.Since, NextProbe: h.NextProbe, Detail: h.Detail})
	}
	return r
}

// registerGauges shows what the pipeline and the queues hold.
func (p *relayProcess) registerGauges() error {
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
		{telemetry.GaugeHeldBytes, sum(func(s queue.Stats) float64 { return float64(s.Bytes) })},
		{telemetry.GaugeLeases, func() float64 { return float64(p.leased.Load()) }},
		{telemetry.GaugeConnected, func() float64 {
			if p.conn.Load().Connected() {
				return 1
			}
			return 0
		}},
	} {
		errs = append(errs, p.metrics.RegisterGauge(gauge.name, gauge.read))
	}
	return errors.Join(errs...)
}

// observer counts what the pipeline tells.
type observer struct{ metrics *telemetry.Metrics }

// Attempt counts one POST.
func (o observer) Attempt(kind update.Kind, err error, took time.Duration) {
	o.metrics.Attempt(kind, telemetry.ClassOf(err), took)
	if f := fault.Of(err); f != nil && f.Unknown {
		o.metrics.UnknownOutcome(kind)
	}
}

// Settled counts one settlement.
func (o observer) Settled(kind update.Kind, outcome update.Outcome, reason fault.Reason) {
	o.metrics.Settled(kind, outcome, reason)
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
