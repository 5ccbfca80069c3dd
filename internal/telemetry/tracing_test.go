package telemetry_test

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"kexrelay/internal/telemetry"
	"kexrelay/internal/update"
)

// overGRPC is an OTLP receiver for gRPC. HTTP is tested with real processes.
type overGRPC struct {
	collector.UnimplementedTraceServiceServer

	names chan string
}

func (g *overGRPC) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	for _, resource := range r.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				g.names <- span.GetName()
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func TestSpansAreExportedByGRPCToo(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	receiver, server := &overGRPC{names: make(chan string, 8)}, grpc.NewServer()
	collector.RegisterTraceServiceServer(server, receiver)
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+l.Addr().String())
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")

	tracing, err := telemetry.NewTracing(t.Context(), variables("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), build, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	u := &update.Update{ID: "a", Seq: 1, StoredAt: time.Now().Add(time.Hour), Vorgangsnummer: "1", Kind: update.Comments}
	u.Traceparent = tracing.Received(u, 0)
	if len(u.Traceparent) != 55 {
		t.Errorf("traceparent %q", u.Traceparent)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := tracing.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if name := <-receiver.names; name != "receive KEX_UPDATES" {
		t.Errorf("got the span %q", name)
	}
}
