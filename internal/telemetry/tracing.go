package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

const (
	// scope names who makes the spans.
	scope = "kexrelay"
	// exportErrorPause is how often at most it is told that spans cannot be exported.
	exportErrorPause = time.Minute
)

// Keys of attributes that are no common ones. Their values are numbers, IDs and words of closed sets: no content, no
// detail of an answer.
const (
	keySeq            = attribute.Key("kexrelay.update.seq")
	keyVorgangsnummer = attribute.Key("kexrelay.vorgangsnummer")
	keyKind           = attribute.Key("kexrelay.kind")
	keyTraceID        = attribute.Key("kexrelay.trace_id")
	keyRequestID      = attribute.Key("kexrelay.request_id")
	keyAttempt        = attribute.Key("kexrelay.attempt")
	keyAttempts       = attribute.Key("kexrelay.attempts")
	keyOutcome        = attribute.Key("kexrelay.outcome")
	keyReason         = attribute.Key("kexrelay.reason")
	keyUnknown        = attribute.Key("kexrelay.unknown_outcome")
	keyDuplicate      = attribute.Key("kexrelay.possible_duplicate")
	keyReplayOf       = attribute.Key("kexrelay.replay_of")
	keyMessageID      = attribute.Key("messaging.message.id")
	keySystem         = attribute.Key("messaging.system")
	keyMethod         = attribute.Key("http.request.method")
	keyStatus         = attribute.Key("http.response.status_code")
	keyErrorType      = attribute.Key("error.type")
)

// Tracing shows the way of updates as spans and exports them by OTLP. Use NewTracing; its methods may be called from any
// goroutine.
type Tracing struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	format   propagation.TraceContext
}

// NewTracing makes one as OpenTelemetry's OTEL_* variables say, which TracingWanted has checked. Spans are exported in the
// background; what a collector does not take in time is dropped, and told in the log now and then.
func NewTracing(ctx context.Context, v Variables, build BuildInfo, logger *slog.Logger) (*Tracing, error) {
	otel.SetLogger(logr.Discard()) // It would write to stderr in a form of its own.
	var told atomic.Int64
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		last, now := told.Load(), time.Now().UnixNano()
		if (last == 0 || now-last >= int64(exportErrorPause)) && told.CompareAndSwap(last, now) {
			logger.Warn("spans could not be exported; they are dropped", slog.String("error", bounded(err.Error())))
		}
	}))
	client := otlptracehttp.NewClient()
	if v.protocol() == protocolGRPC {
		client = otlptracegrpc.NewClient()
	}
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("preparing the export of spans: %w", err)
	}
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "kexrelay"), attribute.String("service.version", build.Version)),
		resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, fmt.Errorf("naming this process for spans: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	return &Tracing{provider: provider, tracer: provider.Tracer(scope, trace.WithInstrumentationVersion(build.Version))}, nil
}

// Shutdown exports what is left, until ctx ends.
func (t *Tracing) Shutdown(ctx context.Context) error {
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("exporting the last spans: %w", err)
	}
	return nil
}

// after is a context in which what begins follows a W3C trace context, if it is one.
func (t *Tracing) after(traceparent, tracestate string) context.Context {
	return t.format.Extract(context.Background(), propagation.MapCarrier{
		update.HeaderTraceparent: traceparent, update.HeaderTracestate: tracestate,
	})
}

// headers are the W3C trace context of a span.
func (t *Tracing) headers(ctx context.Context) propagation.MapCarrier {
	carrier := propagation.MapCarrier{}
	t.format.Inject(ctx, carrier)
	return carrier
}

// Published shows that an update is being published, beginning a trace, and gives the headers it is published with. end is
// called with what came of it.
func (t *Tracing) Published(
	ctx context.Context, kind update.Kind, vorgangsnummer, traceID string,
) (header map[string][]string, end func(id string, seq uint64, err error)) {
	ctx, span := t.tracer.Start(ctx, "publish kex.vorgang", trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		keySystem.String("nats"), keyKind.String(string(kind)), keyVorgangsnummer.String(vorgangsnummer), keyTraceID.String(traceID)))
	header = map[string][]string{}
	for name, value := range t.headers(ctx) {
		header[name] = []string{value}
	}
	return header, func(id string, seq uint64, err error) {
		if err != nil {
			span.SetStatus(codes.Error, "not published")
		} else {
			span.SetAttributes(keyMessageID.String(id), keySeq.Int64(int64(seq))) //nolint:gosec // G115: no stream is that long.
		}
		span.End()
	}
}

// Received shows the time from an update's being stored until it was taken up. A replay begins a trace of its own that is
// linked to the first: its end is another one.
func (t *Tracing) Received(u *update.Update, attempts int) (traceparent string) {
	now := time.Now()
	began := u.StoredAt
	if began.After(now) { // The clock of NATS is ahead.
		began = now
	}
	ctx := t.after(u.Traceparent, u.Tracestate)
	options := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(began), trace.WithAttributes(
			keySystem.String("nats"), keyMessageID.String(u.ID), keySeq.Int64(int64(u.Seq)), //nolint:gosec // G115: no stream is that long.
			keyVorgangsnummer.String(u.Vorgangsnummer), keyKind.String(string(u.Kind)), keyTraceID.String(u.TraceID),
			keyAttempts.Int(attempts)),
	}
	if u.Replay != nil {
		link := trace.Link{SpanContext: trace.SpanContextFromContext(ctx)}
		ctx = context.Background()
		options = append(options, trace.WithNewRoot(),
			trace.WithAttributes(keyReplayOf.Int64(int64(u.Replay.DeadLetterSeq)))) //nolint:gosec // G115: as above.
		if link.SpanContext.IsValid() {
			options = append(options, trace.WithLinks(link))
		}
	}
	ctx, span := t.tracer.Start(ctx, "receive KEX_UPDATES", options...)
	span.End(trace.WithTimestamp(now))
	return t.headers(ctx).Get(update.HeaderTraceparent)
}

// Attempt shows one request to the API.
func (t *Tracing) Attempt(u *update.Update, requestID string, attempt int) (traceparent string, end func(int, *fault.Error)) {
	ctx, span := t.tracer.Start(t.after(u.Traceparent, u.Tracestate), "attempt", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		keyMethod.String("POST"), keyKind.String(string(u.Kind)), keyRequestID.String(requestID), keyAttempt.Int(attempt)))
	return t.headers(ctx).Get(update.HeaderTraceparent), func(status int, f *fault.Error) {
		if status != 0 {
			span.SetAttributes(keyStatus.Int(status))
		}
		if f != nil {
			reason := string(f.Reason)
			if f.Kind == fault.Interrupted {
				reason = string(ClassInterrupted)
			}
			span.SetAttributes(keyErrorType.String(reason), keyUnknown.Bool(f.Unknown))
			span.SetStatus(codes.Error, reason)
		}
		span.End()
	}
}

// Settled shows the time from the decision how an update ended until that was written down.
func (t *Tracing) Settled(s *update.Settlement) {
	u := s.Update
	_, span := t.tracer.Start(t.after(u.Traceparent, u.Tracestate), "settle", trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithTimestamp(s.SettledAt), trace.WithAttributes(
			keySystem.String("nats"), keyOutcome.String(string(s.Outcome)), keyAttempts.Int(s.Attempts), keyDuplicate.Bool(s.PossibleDuplicate)))
	if s.Outcome == update.DeadLettered {
		span.SetAttributes(keyReason.String(string(s.Reason)))
		span.SetStatus(codes.Error, string(s.Reason))
	}
	span.End()
}
