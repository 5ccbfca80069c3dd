package telemetry

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
)

// Gatherer lets tests lint what is registered.
func Gatherer(m *Metrics) prometheus.Gatherer { return m.registry }

// HTTPServer lets tests see the bounds the server was made with.
func HTTPServer(s *Server) *http.Server { return s.server }

// NotOurs is for the tests of what a failed listening means.
var NotOurs = notOurs

// MaxConns is how many connections a server takes.
const MaxConns = maxConns
