package telemetry_test

import (
	"slices"
	"testing"

	"kexrelay/internal/fault"
	"kexrelay/internal/telemetry"
)

func TestReadinessIsDecidedAsDesigned(t *testing.T) {
	held := func(reasons ...fault.Reason) telemetry.Readiness {
		r := telemetry.Readiness{Connected: true}
		for _, reason := range reasons {
			r.Holds = append(r.Holds, telemetry.Hold{Reason: reason})
		}
		return r
	}
	standby := func(r telemetry.Readiness) telemetry.Readiness {
		r.Standby = true
		return r
	}
	without := func(r telemetry.Readiness, connected bool, topology string) telemetry.Readiness {
		r.Connected, r.TopologyProblem = connected, topology
		return r
	}
	for name, tc := range map[string]struct {
		readiness telemetry.Readiness
		ready     bool
		reason    string
	}{
		"working":                             {held(), true, "ok"},
		"just started":                        {telemetry.Readiness{}, false, "no_nats"},
		"starting":                            {telemetry.Readiness{Connected: true, Starting: true}, false, "starting"},
		"starting with a wrong topology":      {telemetry.Readiness{Connected: true, Starting: true, TopologyProblem: "x"}, false, "wrong_topology"},
		"standby":                             {standby(held()), true, "standby"},
		"no NATS":                             {without(held(), false, ""), false, "no_nats"},
		"no NATS as standby":                  {standby(without(held(), false, "")), false, "no_nats"},
		"wrong topology":                      {without(held(), true, "KEX_UPDATES is missing"), false, "wrong_topology"},
		"no NATS hides a wrong topology":      {without(held(), false, "old"), false, "no_nats"},
		"wrong topology hides a hold":         {without(held(fault.Storage), true, "x"), false, "wrong_topology"},
		"hold operator":                       {held(fault.Operator), true, "operator"},
		"hold storage":                        {held(fault.Storage), false, "storage"},
		"hold unauthorized":                   {held(fault.Unauthorized), false, "unauthorized"},
		"hold forbidden":                      {held(fault.Forbidden), true, "forbidden"},
		"hold throttled":                      {held(fault.Throttling), true, "throttled"},
		"hold outage":                         {held(fault.Outage), true, "outage"},
		"a serious hold behind harmless":      {held(fault.Outage, fault.Operator, fault.Unauthorized), false, "unauthorized"},
		"two serious holds":                   {held(fault.Unauthorized, fault.Storage), false, "storage"},
		"two harmless holds":                  {held(fault.Outage, fault.Throttling), true, "throttled"},
		"a hold says more than standby":       {standby(held(fault.Outage)), true, "outage"},
		"a reason that is no hold's":          {held(fault.BadRequest), false, "bad_request"},
		"a reason nobody knows, among others": {held(fault.Outage, "sabotage"), false, "sabotage"},
	} {
		if ready, reason := tc.readiness.Verdict(); ready != tc.ready || reason != tc.reason {
			t.Errorf("%s: %v, %q, want %v, %q", name, ready, reason, tc.ready, tc.reason)
		}
	}
	// A new reason for holds must be decided on here.
	decided := []fault.Reason{
		fault.Operator, fault.Storage, fault.Unauthorized, fault.Forbidden, fault.Throttling, fault.Outage,
	}
	if got := fault.HoldReasons(); !slices.Equal(got, decided) {
		t.Errorf("HoldReasons = %q, this table decides on %q", got, decided)
	}
}

func TestTheVerdictLeavesTheHoldsAsTheyAre(t *testing.T) {
	r := telemetry.Readiness{Connected: true, Holds: []telemetry.Hold{{Reason: fault.Outage}, {Reason: fault.Storage}}}
	r.Verdict()
	if r.Holds[0].Reason != fault.Outage {
		t.Error("the verdict sorted its caller's holds")
	}
}
