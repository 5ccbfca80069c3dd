package main

import (
	"context"
	"log/slog"
	"time"

	"kexrelay/internal/telemetry"
)

// lastSpansTimeout bounds how long the end of a command waits for a collector.
const lastSpansTimeout = 3 * time.Second

// startTracing begins to export spans if OpenTelemetry's variables want that, else it gives nil. end exports the last ones;
// it may be called in any case.
func startTracing(ctx context.Context, env *environment, logger *slog.Logger) (tracing *telemetry.Tracing, end func(), err error) {
	nothing := func() {}
	wanted, err := telemetry.TracingWanted(env.lookup)
	if err != nil {
		return nil, nothing, usageError(err)
	}
	if !wanted {
		return nil, nothing, nil
	}
	tracing, err = telemetry.NewTracing(ctx, env.lookup, telemetryBuild(), logger)
	if err != nil {
		return nil, nothing, err
	}
	return tracing, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastSpansTimeout)
		defer cancel()
		if err := tracing.Shutdown(ctx); err != nil {
			logger.Warn("the last spans were not exported", slog.Any("error", err))
		}
	}, nil
}

// traced begins to show one publish; without tracing it gives no headers.
func (r *publishing) traced(ctx context.Context, traceID string) (header map[string][]string, end func(id string, seq uint64, err error)) {
	if r.tracing == nil {
		return nil, func(string, uint64, error) {}
	}
	return r.tracing.Published(ctx, r.kind, r.vorgang, traceID)
}
