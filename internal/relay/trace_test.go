package relay

import (
	"testing"

	"kexrelay/internal/update"
)

// Most installations have no collector: for them an update must not pay for it.
func TestTracingCostsNothingWhileItIsOff(t *testing.T) {
	r, it, u := &Relay{}, &item{}, &update.Update{Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
	was := u.Traceparent
	if n := testing.AllocsPerRun(1000, func() {
		r.traced(it, u)
		_ = otelTraceID(u)
	}); n != 0 || u.Traceparent != was || it.trace != "" {
		t.Errorf("%v allocations, traceparent %q", n, u.Traceparent)
	}
	if id := otelTraceID(u); id.Value.String() != was[3:35] {
		t.Errorf("trace ID %q", id.Value)
	}
	if id := otelTraceID(&update.Update{}); id.Key != "" {
		t.Errorf("a trace ID without a trace: %v", id)
	}
}
