package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"kexrelay/internal/update"
)

// Totals is what was counted since the start, summed up for people.
type Totals struct {
	// Delivered and DeadLettered are the settlements, Attempts the requests to the API.
	Delivered    uint64 `json:"delivered"`
	DeadLettered uint64 `json:"deadLettered"`
	Attempts     uint64 `json:"attempts"`
	// UnknownOutcomes are the requests of which nobody can say whether they were booked.
	UnknownOutcomes uint64 `json:"unknownOutcomes"`
}

// Totals sums up the counters.
func (m *Metrics) Totals() Totals {
	return Totals{
		Delivered:    sum(m.updates, string(update.Delivered)),
		DeadLettered: sum(m.updates, string(update.DeadLettered)),
		Attempts:     sum(m.attempts, ""), UnknownOutcomes: sum(m.unknownOutcomes, ""),
	}
}

// sum adds up the series of a counter, or those with an outcome.
func sum(counter *prometheus.CounterVec, outcome string) uint64 {
	series := make(chan prometheus.Metric)
	go func() {
		defer close(series)
		counter.Collect(series)
	}()
	total := 0.0
	for one := range series {
		var value dto.Metric
		if err := one.Write(&value); err != nil {
			continue // A counter of ours can always be read.
		}
		counts := outcome == ""
		for _, label := range value.GetLabel() {
			counts = counts || label.GetName() == "outcome" && label.GetValue() == outcome
		}
		if counts {
			total += value.GetCounter().GetValue()
		}
	}
	return uint64(total)
}
