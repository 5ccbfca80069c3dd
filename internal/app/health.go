package app

import (
	"kexrelay/internal/fault"
	"kexrelay/internal/telemetry"
)

// readiness is what /readyz is told.
func (p *relayProcess) readiness() telemetry.Readiness {
	var r telemetry.Readiness
	if conn := p.conn.Load(); conn != nil {
		r.Connected = conn.Connected()
	}
	if !p.verified.Load() {
		r.Starting = true
		r.TopologyProblem = p.topology.current()
		return r
	}
	r.TopologyProblem = p.topology.current()
	r.Standby = p.leased.Load() == 0
	for _, h := range append(p.gate.Holds(), p.gate.Kinds()...) {
		r.Holds = append(r.Holds, telemetry.Hold{Reason: h.Reason, Kind: h.Kind, Since: h.Since, NextProbe: h.NextProbe, Detail: h.Detail})
	}
	// Without anything to send nobody would notice: a lease that cannot be renewed is lost, and looks like a standby's.
	if trouble := p.members.Trouble(); trouble != nil && !p.gate.Held(fault.Storage) {
		r.Holds = append(r.Holds, telemetry.Hold{Reason: fault.Storage, Since: trouble.Since, Detail: trouble.Detail})
	}
	return r
}
