// Package integration holds the tests that drive the built binary against a real nats-server process and the
// simulated API, looking only at what a user could see: the streams, the simulator's ledger, the process's output
// and endpoints.
//
// The short form runs with `go test ./...`; the build tag integration adds what takes minutes or needs containers.
package integration
