package relay

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"strings"
	"testing"
	"time"

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

// The trace ID of an update that came without one is the same in every process, also in one of an earlier version.
func TestAMadeTraceIDIsThatOfEarlierVersions(t *testing.T) {
	t.Parallel()
	d := comments(4711, "1")
	r := &Relay{cfg: Config{TracePrefix: "kxr"}}
	identity := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, 4711), uint64(time.Second)) // fakeDelivery is stored then.
	digest := sha256.Sum256(identity)
	want := "kxr" + strings.ToLower(base32.StdEncoding.EncodeToString(digest[:10]))
	if got := r.traceID(&item{delivery: d}); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
