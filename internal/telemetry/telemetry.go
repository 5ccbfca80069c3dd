// Package telemetry is how the relay is seen from outside: log lines, Prometheus metrics and the health endpoints.
//
// It stands beside an update's way: app hands [Metrics] to whoever sees an attempt or a settlement, and the
// [Server] answers /livez, /readyz and /metrics. What is counted and shown are durations, numbers, reasons and
// kinds out of closed sets; nothing here ever sees an update's content.
package telemetry
