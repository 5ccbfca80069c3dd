package telemetry_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"kexrelay/internal/fault"
	"kexrelay/internal/telemetry"
)

func TestMain(m *testing.M) {
	// An HTTP server that has answered before the request was read lets the connection linger for half a second.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// started is a server on a free port that ends with the test.
func started(t *testing.T, ready func() telemetry.Readiness, metrics http.Handler) *telemetry.Server {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	if metrics == nil {
		metrics = telemetry.NewMetrics(build).Handler(logger)
	}
	s := telemetry.NewServer("127.0.0.1:0", telemetry.Deps{Ready: ready, Metrics: metrics, Logger: logger})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func working() telemetry.Readiness { return telemetry.Readiness{Connected: true} }

// client is one without connections that outlive a request.
func client() *http.Client { return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} }

func ask(t *testing.T, s *telemetry.Server, method, path string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Addr()+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

func TestReadyzTellsEveryHoldAsJSON(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("x", 3600))
	readiness := telemetry.Readiness{
		Connected: true,
		Standby:   true,
		Holds: []telemetry.Hold{
			{Reason: fault.Outage, Since: since, NextProbe: since.Add(time.Minute), Detail: "503 from the API"},
			{Reason: fault.Operator, Since: since},
		},
	}
	s := started(t, func() telemetry.Readiness { return readiness }, nil)
	response, body := ask(t, s, http.MethodGet, "/readyz")
	want := `{"ready":true,"reason":"operator","holds":[` +
		`{"reason":"operator","since":"2026-01-02T02:04:05Z"},` +
		`{"reason":"outage","since":"2026-01-02T02:04:05Z","nextProbe":"2026-01-02T02:05:05Z","detail":"503 from the API"}` +
		`],"standby":true}` + "\n"
	if diff := cmp.Diff(want, body); diff != "" || response.StatusCode != http.StatusOK {
		t.Errorf("status %d, body (-want +got):\n%s", response.StatusCode, diff)
	}
	if got := response.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type = %q", got)
	}
	if got := response.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control = %q, want no-store: a health answer is of this moment", got)
	}

	if got := response.Header.Get("X-Content-Type-Options"); got != "nosniff" {
		t.Errorf("X-Content-Type-Options = %q, want nosniff", got)
	}

	readiness = telemetry.Readiness{Connected: true, TopologyProblem: "x" + strings.Repeat("ä", 2000)}
	response, body = ask(t, s, http.MethodGet, "/readyz")
	var got struct {
		Ready          bool
		Reason, Detail string
		Holds          *[]any
		Standby        *bool
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusServiceUnavailable || got.Ready || got.Reason != "wrong_topology" {
		t.Errorf("%d %s, want 503 wrong_topology", response.StatusCode, body)
	}
	if got.Holds == nil || len(*got.Holds) != 0 || got.Standby == nil {
		t.Errorf("body %s lacks holds as a list, or standby", body)
	}
	if want := "x" + strings.Repeat("ä", 511) + "…"; got.Detail != want {
		t.Errorf("detail has %d bytes, want it cut to 1024", len(got.Detail))
	}
}

func TestLivezIsAlwaysFine(t *testing.T) {
	s := started(t, func() telemetry.Readiness { return telemetry.Readiness{} }, nil)
	response, body := ask(t, s, http.MethodGet, "/livez")
	if response.StatusCode != http.StatusOK || body != "{\"live\":true}\n" {
		t.Errorf("livez without NATS = %d %q, want 200", response.StatusCode, body)
	}
}

func TestMetricsAreServed(t *testing.T) {
	s := started(t, working, nil)
	response, body := ask(t, s, http.MethodGet, "/metrics")
	if response.StatusCode != http.StatusOK || !strings.Contains(body, "kexrelay_build_info{") {
		t.Errorf("metrics = %d, %d bytes without build_info", response.StatusCode, len(body))
	}
}

func TestOnlyGetAndHeadOfThreePathsAreAnswered(t *testing.T) {
	s := started(t, working, nil)
	for _, method := range []string{
		http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions, http.MethodTrace,
	} {
		for _, path := range []string{"/livez", "/readyz", "/metrics"} {
			response, _ := ask(t, s, method, path)
			if response.StatusCode != http.StatusMethodNotAllowed || response.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s = %d, want 405 with Allow", method, path, response.StatusCode)
			}
		}
	}
	for _, path := range []string{"/livez", "/readyz", "/metrics"} {
		if response, body := ask(t, s, http.MethodHead, path); response.StatusCode != http.StatusOK || body != "" {
			t.Errorf("HEAD %s = %d %q, want 200 without a body", path, response.StatusCode, body)
		}
	}
	for _, path := range []string{"/", "/livez/", "/metrics/x", "/debug/pprof/", "/healthz", "/LIVEZ"} {
		if response, body := ask(t, s, http.MethodGet, path); response.StatusCode != http.StatusNotFound || len(body) > 32 {
			t.Errorf("GET %s = %d %q, want 404", path, response.StatusCode, body)
		}
	}
}

func TestTheServerIsBounded(t *testing.T) {
	s := started(t, working, nil)
	h := telemetry.HTTPServer(s)
	for name, limit := range map[string]time.Duration{
		"ReadHeaderTimeout": h.ReadHeaderTimeout, "ReadTimeout": h.ReadTimeout, "WriteTimeout": h.WriteTimeout, "IdleTimeout": h.IdleTimeout,
	} {
		if limit <= 0 || limit > time.Minute {
			t.Errorf("%s = %s, want at most a minute", name, limit)
		}
	}
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: x\r\nX-Large: "+strings.Repeat("a", 16<<10)+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("16 KiB of headers answered %d, want 431", response.StatusCode)
	}
}

func TestAnAddressInUseIsSaidClearly(t *testing.T) {
	first := started(t, working, nil)
	second := telemetry.NewServer(first.Addr(), telemetry.Deps{
		Ready: working, Metrics: http.NotFoundHandler(), Logger: slog.New(slog.DiscardHandler),
	})
	err := second.Start(t.Context())
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), first.Addr()) ||
		!strings.Contains(err.Error(), "KEXRELAY_HTTP_ADDR") {
		t.Errorf("error = %v, want the address and the option", err)
	}
	if got := second.Addr(); got != first.Addr() {
		t.Errorf("Addr without listening = %q, want the one it was made for", got)
	}
	if err := second.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown of what never started: %v", err)
	}
	third := telemetry.NewServer("256.0.0.1:0", telemetry.Deps{
		Ready: working, Metrics: http.NotFoundHandler(), Logger: slog.New(slog.DiscardHandler),
	})
	if err := third.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "listening on 256.0.0.1:0") {
		t.Errorf("error = %v, want one about listening", err)
	}
}

func TestAnAddressOfAnotherMachineIsAMistakeInTheConfiguration(t *testing.T) {
	other := telemetry.NewServer("192.0.2.1:0", telemetry.Deps{ // Kept for documentation: nobody's.
		Ready: working, Metrics: http.NotFoundHandler(), Logger: slog.New(slog.DiscardHandler),
	})
	err := other.Start(t.Context())
	if !errors.Is(err, telemetry.ErrAddress) || !strings.Contains(err.Error(), "192.0.2.1:0") || !strings.Contains(err.Error(), "KEXRELAY_HTTP_ADDR") {
		t.Errorf("error = %v, want ErrAddress, the address and the option", err)
	}
	for _, test := range []struct {
		err  error
		want bool
	}{
		{&net.OpError{Op: "listen", Err: &net.DNSError{Err: "no such host", Name: "nosuch", IsNotFound: true}}, true},
		{&net.OpError{Op: "listen", Err: &net.DNSError{Err: "server misbehaving", Name: "nosuch", IsTemporary: true}}, false},
		{&net.OpError{Op: "listen", Err: &net.AddrError{Err: "missing port in address", Addr: "x"}}, true},
		{syscall.EADDRINUSE, false},
		{syscall.EACCES, false},
	} {
		if got := telemetry.NotOurs(test.err); got != test.want {
			t.Errorf("%v: %v, want %v", test.err, got, test.want)
		}
	}
}

func TestShutdownWaitsForWhatIsBeingAnsweredUntilItsContextEnds(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		select {
		case <-release:
		case <-r.Context().Done():
		}
		w.WriteHeader(http.StatusOK)
	})
	for name, cut := range map[string]bool{"finished": false, "cut off": true} {
		t.Run(name, func(t *testing.T) {
			asked, release = make(chan struct{}), make(chan struct{})
			s := started(t, working, slow)
			answered := make(chan error, 1)
			go func() {
				request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+s.Addr()+"/metrics", http.NoBody)
				if err == nil {
					var response *http.Response
					if response, err = client().Do(request); err == nil {
						err = response.Body.Close()
					}
				}
				answered <- err
			}()
			<-asked
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if cut {
				cancel()
			}
			stopped := make(chan error, 1)
			go func() { stopped <- s.Shutdown(ctx) }()
			if !cut {
				select {
				case err := <-stopped:
					t.Fatalf("Shutdown did not wait: %v", err)
				case <-time.After(50 * time.Millisecond):
				}
				close(release)
			}
			if err := <-stopped; errors.Is(err, context.Canceled) != cut {
				t.Errorf("Shutdown = %v, want cut off %v", err, cut)
			}
			if err := <-answered; (err != nil) != cut {
				t.Errorf("the request ended with %v, want cut off %v", err, cut)
			}
		})
	}
}

func TestAPanicInOneRequestIsLoggedAndEndsNothing(t *testing.T) {
	var log bytes.Buffer
	s := telemetry.NewServer("127.0.0.1:0", telemetry.Deps{
		Ready:   func() telemetry.Readiness { panic("broken") },
		Metrics: http.NotFoundHandler(),
		Logger:  telemetry.NewLogger(&log, telemetry.LogOptions{Format: telemetry.FormatJSON}),
	})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := telemetry.CheckHealth(t.Context(), client(), "http://"+s.Addr()+"/readyz"); err == nil {
		t.Error("a panic is ready")
	}
	if err := telemetry.CheckHealth(t.Context(), client(), "http://"+s.Addr()+"/livez"); err != nil {
		t.Errorf("livez after a panic: %v", err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); !strings.Contains(got, "broken") || strings.Count(got, "\n") != 1 {
		t.Errorf("log = %q, want the panic in one line", got)
	}
}
