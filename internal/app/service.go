package app

import (
	"log/slog"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/queue"
	"kexrelay/internal/telemetry"
)

// ReplicaState is what a replica answers to `nats micro stats` and on queue.ServiceSubject.
type ReplicaState struct {
	Replica string `json:"replica"`
	Version string `json:"version"`
	// Process is what leases name it by, Host and PID what tells replicas apart for people.
	Process   string    `json:"process"`
	Host      string    `json:"host"`
	PID       int       `json:"pid"`
	StartedAt time.Time `json:"startedAt"`
	// Ready and Reason are those of /readyz.
	Ready  bool        `json:"ready"`
	Reason string      `json:"reason"`
	Holds  []HeldState `json:"holds"`
	// Partitions are those that this replica sends for: none on standby.
	Partitions []int `json:"partitions"`
	// InFlight are the requests being made, Lanes the Vorgänge with an update here, LanesRetrying those that wait for
	// a retry, HeldUpdates all updates that were taken from the stream and have not ended.
	InFlight      int   `json:"inFlight"`
	Lanes         int   `json:"lanes"`
	LanesRetrying int   `json:"lanesRetrying"`
	HeldUpdates   int   `json:"heldUpdates"`
	HeldBytes     int64 `json:"heldBytes"`
	// LastFailure is the last request that is to be repeated, absent once one was answered otherwise.
	LastFailure *FailureState `json:"lastFailure,omitempty"`
	// Totals are since the process began.
	Totals telemetry.Totals `json:"totals"`
}

// HeldState is one reason why a replica does not send.
type HeldState struct {
	Reason fault.Reason `json:"reason"`
	// Kind is the only kind of updates it is about, absent for all.
	Kind      string    `json:"kind,omitempty"`
	Since     time.Time `json:"since"`
	NextProbe time.Time `json:"nextProbe,omitzero"`
	Detail    string    `json:"detail,omitempty"`
}

// FailureState is a request that failed; Detail is scrubbed.
type FailureState struct {
	At     time.Time `json:"at"`
	Detail string    `json:"detail"`
}

// announce shows this replica to NATS's own tools. Nothing depends on it.
func (p *relayProcess) announce(build telemetry.BuildInfo) (stop func()) {
	stop, err := p.conn.Load().Announce(queue.Service{
		Version: build.Version,
		Metadata: map[string]string{
			"replica": p.cfg.Relay.Name, "version": build.Version, "go": build.GoVersion,
		},
		State: func() any { return p.state(build.Version) },
	})
	if err != nil {
		p.logger.Warn("replica is not shown as a nats micro service", slog.Any("error", err))
		return func() {}
	}
	return stop
}

// state is what there is to say now.
func (p *relayProcess) state(version string) ReplicaState {
	readiness := p.readiness()
	work := p.relay.Stats()
	s := ReplicaState{
		Replica: p.cfg.Relay.Name, Version: version, Holds: []HeldState{}, Partitions: []int{},
		Process: p.self.Process, Host: p.self.Host, PID: p.self.PID, StartedAt: p.self.StartedAt.UTC(),
		InFlight: work.InFlight, Lanes: work.Lanes.Lanes, LanesRetrying: work.Lanes.Waiting, LastFailure: p.failure.Load(),
		Totals: p.metrics.Totals(),
	}
	s.Ready, s.Reason = readiness.Verdict()
	for _, h := range readiness.Holds {
		held := HeldState{Reason: h.Reason, Kind: h.Kind, Since: h.Since.UTC(), Detail: h.Detail}
		if !h.NextProbe.IsZero() {
			held.NextProbe = h.NextProbe.UTC()
		}
		s.Holds = append(s.Holds, held)
	}
	for _, part := range p.partitions {
		if q := part.queue.Load(); q != nil {
			stats := q.Stats()
			s.Partitions = append(s.Partitions, part.number)
			s.HeldUpdates += stats.Held
			s.HeldBytes += stats.Bytes
		}
	}
	return s
}
