package telemetry

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Gauge names a value that is read when it is asked for.
type Gauge string

// The gauges app can register.
const (
	GaugeInflightRequests Gauge = "inflight_requests"
	GaugeHeldUpdates      Gauge = "held_updates"
	GaugeHeldBytes        Gauge = "held_bytes"
	GaugeLanes            Gauge = "lanes"
	GaugeConnected        Gauge = "nats_connected"
	GaugeLeases           Gauge = "leased_partitions"
	GaugeStranded         Gauge = "stranded_partitions"
	GaugeReadyUpdates     Gauge = "ready_updates"
	GaugeReady            Gauge = "ready"
	GaugeTokenUsable      Gauge = "token_usable"
	GaugeTokenExpiry      Gauge = "token_expiry_timestamp_seconds" //nolint:gosec // G101: a metric's name.
	GaugeTokenFailed      Gauge = "token_failed_timestamp_seconds"
)

// Gauges lists every gauge with its help text.
func Gauges() map[Gauge]string {
	return map[Gauge]string{ //nolint:gosec // G101: names and help texts.
		GaugeInflightRequests: "Requests to the API in flight.",
		GaugeHeldUpdates:      "Updates this process has taken from the stream and not settled.",
		GaugeHeldBytes:        "Content held in memory.",
		GaugeLanes:            "Vorgänge with an update waiting or being sent.",
		GaugeConnected:        "Whether NATS is connected (1) or not (0).",
		GaugeLeases:           "Partitions this process has the right to send for.",
		GaugeReadyUpdates: "Updates in the partitions of this process that could be sent now: 0 while sending is held, " +
			"without those that wait for a retry. More replicas help with these alone.",
		GaugeReady:       "Whether /readyz answers that the process can work (1) or not (0).",
		GaugeTokenUsable: "Whether a token is in hand that requests can be sent with (1) or not (0).",
		GaugeTokenExpiry: "When the token in hand expires, 0 without one.",
		GaugeTokenFailed: "When the last fetch of a token failed, if none has succeeded since, else 0. An old token may still serve.",
		GaugeStranded:    "Of the leased partitions, those with settled updates that NATS does not let go of: its disk was full.",
	}
}

// RegisterGauge shows a gauge by asking read at each scrape. read must be quick and safe for any goroutine. A
// gauge that is not in Gauges, or is there already, is an error.
func (m *Metrics) RegisterGauge(g Gauge, read func() float64) error {
	help, ok := Gauges()[g]
	if !ok {
		return fmt.Errorf("registering the gauge %q: there is none of that name", g)
	}
	f := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: string(g), Help: help}, read)
	if err := m.registry.Register(f); err != nil {
		return fmt.Errorf("registering the gauge %q: %w", g, err)
	}
	return nil
}
