package relay

import (
	"log/slog"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// Tracer shows the way of updates as spans of a trace. What goes in and comes out are W3C trace contexts, as headers have
// them. Its methods must be cheap.
type Tracer interface {
	// Received shows that an update was taken up, after so many attempts of other processes. It gives the traceparent
	// that goes on from there: for a replay that of a new trace, linked to the dead letter's.
	Received(u *update.Update, attempts int) (traceparent string)
	// Attempt begins to show one request of an update with what Received gave as its Traceparent. The request carries the
	// one that comes out; end is called once it is answered, with nil if it was booked.
	Attempt(u *update.Update, requestID string, attempt int) (traceparent string, end func(status int, f *fault.Error))
	// Settled shows that the end of an update is written down.
	Settled(s *update.Settlement)
}

// traced makes an update go on where its span in this process began. Without a tracer it costs a comparison.
func (r *Relay) traced(it *item, u *update.Update) {
	if r.deps.Tracer == nil {
		return
	}
	if it.trace == "" {
		it.trace = r.deps.Tracer.Received(u, it.progress.attempts)
	}
	u.Traceparent = it.trace
	if u.Replay != nil {
		u.Tracestate = "" // Of the trace it is linked to.
	}
}

// otelTraceID is the trace ID of a W3C trace context as an attribute of log lines; the zero Attr without one.
func otelTraceID(u *update.Update) slog.Attr {
	const begin, end = 3, 35 // 00-<32 hex>-…: update.Decode has checked it.
	if len(u.Traceparent) < end {
		return slog.Attr{}
	}
	return slog.String("otel_trace_id", u.Traceparent[begin:end])
}
