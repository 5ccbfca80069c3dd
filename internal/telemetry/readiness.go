package telemetry

import (
	"slices"
	"strings"
	"time"

	"kexrelay/internal/fault"
)

// Reasons of readiness that are no hold's.
const (
	ReasonOK            = "ok"
	ReasonStandby       = "standby"
	ReasonNoNATS        = "no_nats"
	ReasonStarting      = "starting"
	ReasonWrongTopology = "wrong_topology"
)

// maxDetail bounds what the endpoints repeat of a detail, in bytes.
const maxDetail = 1024

// Readiness is what app knows about the process when /readyz asks.
type Readiness struct {
	// Connected says that NATS is connected.
	Connected bool
	// Starting says that the topology was not looked at yet.
	Starting bool
	// TopologyProblem says what is wrong with streams, consumers or buckets; empty if nothing is.
	TopologyProblem string
	// Holds are the reasons sending is held for, in any order.
	Holds []Hold
	// Standby says that another replica has the right to send.
	Standby bool
}

// Hold is one reason sending is held for.
type Hold struct {
	Reason fault.Reason
	// Kind is the only kind of updates it is about, empty for all.
	Kind  string
	Since time.Time
	// NextProbe is zero if none is planned: an operator's hold has no probes.
	NextProbe time.Time
	// Detail is scrubbed by whoever made it: no secret, no content.
	Detail string
}

// Verdict decides whether the process is ready, and the one reason that says why or why not. It is not when it
// cannot work (no NATS, a wrong topology, not yet) or when somebody has to act here (holds unauthorized and storage). It is
// while it waits for Europace or an operator, and as a standby: a rolling update must not wait for those. A hold
// of a reason that is no hold's counts as not ready, so that it is noticed.
func (r Readiness) Verdict() (ready bool, reason string) {
	switch {
	case !r.Connected:
		return false, ReasonNoNATS
	case r.TopologyProblem != "":
		return false, ReasonWrongTopology
	case r.Starting:
		return false, ReasonStarting
	}
	harmless := []fault.Reason{fault.Operator, fault.Forbidden, fault.Throttling, fault.Outage}
	for _, h := range r.sorted() {
		if !slices.Contains(harmless, h.Reason) {
			return false, string(h.Reason)
		}
		if reason == "" {
			reason = string(h.Reason)
		}
	}
	switch {
	case reason != "":
		return true, reason
	case r.Standby:
		return true, ReasonStandby
	}
	return true, ReasonOK
}

// sorted is the holds in the order of fault.HoldReasons, unknown ones first.
func (r Readiness) sorted() []Hold {
	order := fault.HoldReasons()
	holds := slices.Clone(r.Holds)
	slices.SortStableFunc(holds, func(a, b Hold) int {
		return slices.Index(order, a.Reason) - slices.Index(order, b.Reason)
	})
	return holds
}

// report is the body of /readyz.
type report struct {
	Ready   bool         `json:"ready"`
	Reason  string       `json:"reason"`
	Detail  string       `json:"detail,omitempty"`
	Holds   []heldReport `json:"holds"`
	Standby bool         `json:"standby"`
}

type heldReport struct {
	Reason    string     `json:"reason"`
	Kind      string     `json:"kind,omitempty"`
	Since     time.Time  `json:"since"`
	NextProbe *time.Time `json:"nextProbe,omitempty"`
	Detail    string     `json:"detail,omitempty"`
}

func (r Readiness) report() report {
	out := report{Holds: []heldReport{}, Standby: r.Standby, Detail: bounded(r.TopologyProblem)}
	out.Ready, out.Reason = r.Verdict()
	for _, h := range r.sorted() {
		held := heldReport{Reason: bounded(string(h.Reason)), Kind: h.Kind, Since: h.Since.UTC(), Detail: bounded(h.Detail)}
		if !h.NextProbe.IsZero() {
			next := h.NextProbe.UTC()
			held.NextProbe = &next
		}
		out.Holds = append(out.Holds, held)
	}
	return out
}

// bounded cuts a text at maxDetail bytes, between two characters.
func bounded(text string) string {
	if len(text) <= maxDetail {
		return text
	}
	return strings.ToValidUTF8(text[:maxDetail], "") + "…"
}
