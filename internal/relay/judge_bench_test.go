package relay

import (
	"testing"
	"time"

	"kexrelay/internal/fault"
)

// BenchmarkJudge is the decision alone: once per answer, so it must not show beside a request.
func BenchmarkJudge(b *testing.B) {
	cfg := Config{RetryBudget: 15 * time.Minute}
	for name, f := range map[string]*fault.Error{
		"booked":    nil,
		"refused":   {Kind: fault.Permanent, Reason: fault.BadRequest},
		"throttled": {Kind: fault.Throttled, RetryAfter: time.Second},
		"outage":    {Kind: fault.Transient, Reason: fault.Outage},
		"unknown":   {Kind: fault.Transient, Reason: fault.Outage, Unknown: true},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			c := circumstances{sent: true, unknowns: 1, throttles: 1, spent: time.Minute, othersWork: true}
			for b.Loop() {
				if judge(cfg, f, c).action == 0 {
					b.Fatal("nothing was decided")
				}
			}
		})
	}
}
