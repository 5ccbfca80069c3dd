package telemetry_test

import (
	"compress/gzip"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"kexrelay/internal/telemetry"
)

func profiling(t *testing.T) *telemetry.Server {
	t.Helper()
	s := telemetry.NewProfiler("127.0.0.1:0", slog.New(slog.DiscardHandler))
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

func TestProfilesAreServedOneByOneAndNothingElseIs(t *testing.T) {
	s := profiling(t)
	for _, name := range []string{"heap", "goroutine", "allocs", "threadcreate", "profile?seconds=1"} {
		response, body := ask(t, s, http.MethodGet, "/debug/pprof/"+name)
		unzipped, err := gzip.NewReader(strings.NewReader(body))
		if err == nil {
			_, err = io.Copy(io.Discard, unzipped)
		}
		if response.StatusCode != http.StatusOK || err != nil {
			t.Errorf("%s = %d, %v, want a profile", name, response.StatusCode, err)
		}
	}
	for path, status := range map[string]int{
		"/": http.StatusNotFound, "/debug/pprof/": http.StatusNotFound, "/debug/pprof/cmdline": http.StatusNotFound,
		"/debug/pprof/nosuch": http.StatusNotFound, "/metrics": http.StatusNotFound, "/readyz": http.StatusNotFound,
		"/debug/pprof/profile?seconds=0": http.StatusBadRequest, "/debug/pprof/profile?seconds=3600": http.StatusBadRequest,
		"/debug/pprof/profile?seconds=x": http.StatusBadRequest,
	} {
		if response, body := ask(t, s, http.MethodGet, path); response.StatusCode != status || len(body) > 64 {
			t.Errorf("%s = %d %q, want %d", path, response.StatusCode, body, status)
		}
	}
	if response, _ := ask(t, s, http.MethodPost, "/debug/pprof/heap"); response.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST = %d, want 405", response.StatusCode)
	}
}

// A page in a browser on this machine reaches loopback by a name of its own that resolves to it.
func TestProfilesAreForLoopbackNames(t *testing.T) {
	s := profiling(t)
	for host, status := range map[string]int{
		"evil.example": http.StatusForbidden, "192.0.2.1:80": http.StatusForbidden, "localhost.evil.example": http.StatusForbidden,
		"localhost": http.StatusOK, "127.0.0.1:1": http.StatusOK, "[::1]:1": http.StatusOK, "[::1]": http.StatusOK,
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Addr()+"/debug/pprof/goroutine", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = host
		response, err := client().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != status {
			t.Errorf("Host %s = %d, want %d", host, response.StatusCode, status)
		}
	}
}

// One profile at a time: a second is told so at once, while the first goes on until its asker leaves.
func TestASecondProfileIsRefused(t *testing.T) {
	s := profiling(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil { // It may itself be the second one.
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Addr()+"/debug/pprof/profile?seconds=60", http.NoBody)
			if err != nil {
				return
			}
			if response, err := client().Do(request); err == nil {
				_ = response.Body.Close()
			}
		}
	}()
	for deadline := time.Now().Add(20 * time.Second); ; {
		response, _ := ask(t, s, http.MethodGet, "/debug/pprof/heap")
		if response.StatusCode == http.StatusTooManyRequests {
			break
		}
		time.Sleep(10 * time.Millisecond) // Room for the first.
		if time.Now().After(deadline) {
			t.Fatal("a second profile was never refused")
		}
	}
	cancel()
	<-ended
}

// Connections share file descriptors with what matters: very many of them keep out only each other, and when they
// end others are served.
func TestConnectionsAreBounded(t *testing.T) {
	s := started(t, working, nil)
	var d net.Dialer
	var open []net.Conn
	for range telemetry.MaxConns {
		conn, err := d.DialContext(t.Context(), "tcp", s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if _, err := io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil { // It is being served.
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	answered := make(chan error, 1)
	go func() { answered <- telemetry.CheckHealth(context.Background(), client(), "http://"+s.Addr()+"/livez") }()
	select {
	case err := <-answered:
		t.Fatalf("one more was answered: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	_ = open[0].Close()
	if err := <-answered; err != nil {
		t.Errorf("after another has ended: %v", err)
	}
}
