package telemetry

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Bounds of the profiler. A profile of the CPU takes as long as it was asked to.
const (
	profilerWriteTimeout = 90 * time.Second
	profileSeconds       = 30
	maxProfileSeconds    = 60
)

// NewProfiler makes a server that answers `go tool pprof` on /debug/pprof/<profile>, one request at a time. The address
// must be of loopback: profiles hold no content, but say much about a process, and taking them costs it time. There is
// no listing, and none of the process's arguments.
//
// It does not use net/http/pprof, which would put itself into the mux that everybody shares.
func NewProfiler(addr string, logger *slog.Logger) *Server {
	var p profiler
	mux := http.NewServeMux()
	for _, name := range []string{"allocs", "goroutine", "heap", "threadcreate"} {
		mux.HandleFunc("GET /debug/pprof/"+name, func(w http.ResponseWriter, r *http.Request) {
			p.serve(w, r, func(_ context.Context, to *bytes.Buffer) error { return pprof.Lookup(name).WriteTo(to, 0) })
		})
	}
	mux.HandleFunc("GET /debug/pprof/profile", p.serveCPU)
	s := newServer(addr, "profiles", "--pprof-addr or KEXRELAY_PPROF_ADDR", logger, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !localHost(r.Host) { // A page in a browser here can reach loopback under a name of its own.
			http.Error(w, "ask for 127.0.0.1 or localhost", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	s.server.WriteTimeout = profilerWriteTimeout
	return s
}

// profiler takes one profile at a time.
type profiler struct{ busy sync.Mutex }

func (p *profiler) serveCPU(w http.ResponseWriter, r *http.Request) {
	seconds := profileSeconds
	if asked := r.URL.Query().Get("seconds"); asked != "" {
		n, err := strconv.Atoi(asked)
		if err != nil || n < 1 || n > maxProfileSeconds {
			http.Error(w, "seconds is a number from 1 to "+strconv.Itoa(maxProfileSeconds), http.StatusBadRequest)
			return
		}
		seconds = n
	}
	p.serve(w, r, func(ctx context.Context, to *bytes.Buffer) error {
		if err := pprof.StartCPUProfile(to); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
		select {
		case <-time.After(time.Duration(seconds) * time.Second):
		case <-ctx.Done():
		}
		return nil
	})
}

// serve takes a profile as a whole before it is sent, so that a slow reader keeps nobody waiting, nor one who has read
// all of it himself.
func (p *profiler) serve(w http.ResponseWriter, r *http.Request, take func(context.Context, *bytes.Buffer) error) {
	if !p.busy.TryLock() {
		http.Error(w, "another profile is being taken", http.StatusTooManyRequests)
		return
	}
	var taken bytes.Buffer
	err := take(r.Context(), &taken)
	p.busy.Unlock()
	if err != nil {
		http.Error(w, "the profile could not be taken", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(taken.Len()))
	_, _ = w.Write(taken.Bytes()) // The asker may be gone.
}

// localHost reports whether a Host header names this machine's loopback.
func localHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return strings.EqualFold(host, "localhost") || err == nil && ip.IsLoopback()
}
