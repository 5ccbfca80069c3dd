package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// Bounds of the health server: a probe or a scrape is small and quick, anything else is turned away.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = 30 * time.Second // A scrape of a large process on a slow line.
	idleTimeout       = time.Minute
	maxHeaderBytes    = 8 << 10
)

// ErrAddress says that the address to listen on is none of this machine: a mistake in the configuration.
var ErrAddress = errors.New("it is no address of this machine")

// Deps are what the server asks and tells. All are required.
type Deps struct {
	// Ready is asked at each /readyz; it must be quick and safe for any goroutine.
	Ready func() Readiness
	// Metrics answers /metrics.
	Metrics http.Handler
	Logger  *slog.Logger
}

// Server answers /livez, /readyz and /metrics, or profiles, to GET and HEAD alone.
type Server struct {
	addr string
	// serves and option are what it serves, and how its address is chosen, in words for errors.
	serves, option string
	server         *http.Server
	logger         *slog.Logger

	mu       sync.Mutex
	listener net.Listener
	done     chan struct{}
}

// NewServer makes a server for the address (host:port; port 0 is any free one). It does not listen yet.
func NewServer(addr string, deps Deps) *Server {
	return newServer(addr, "health and metrics", "--http-addr or KEXRELAY_HTTP_ADDR", deps.Logger, handler(deps))
}

func newServer(addr, serves, option string, logger *slog.Logger, answers http.Handler) *Server {
	return &Server{
		addr: addr, serves: serves, option: option,
		logger: logger,
		server: &http.Server{
			Handler:           private(answers),
			ReadHeaderTimeout: readHeaderTimeout,
			ReadTimeout:       readTimeout,
			WriteTimeout:      writeTimeout,
			IdleTimeout:       idleTimeout,
			MaxHeaderBytes:    maxHeaderBytes,
			ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
		},
	}
}

func handler(deps Deps) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, deps.Logger, http.StatusOK, struct {
			Live bool `json:"live"`
		}{true})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		body := deps.Ready().report()
		status := http.StatusOK
		if !body.Ready {
			status = http.StatusServiceUnavailable
		}
		answer(w, deps.Logger, status, body)
	})
	mux.Handle("GET /metrics", deps.Metrics)
	return mux
}

// private keeps answers out of caches and from being taken for something else.
func private(answers http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		answers.ServeHTTP(w, r)
	})
}

func answer(w http.ResponseWriter, logger *slog.Logger, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil { // The asker went away.
		logger.Debug("answering a health check failed", slog.String("error", err.Error()))
	}
}

// notOurs reports whether listening failed because of the address itself: a name that does not resolve, or an address
// of another machine.
func notOurs(err error) bool {
	dns, unresolved := errors.AsType[*net.DNSError](err)
	_, malformed := errors.AsType[*net.AddrError](err)
	return unresolved && dns.IsNotFound || malformed || errors.Is(err, syscall.EADDRNOTAVAIL)
}

// Start listens and serves until Shutdown; ctx bounds the listening alone. It fails if the address cannot be had,
// with ErrAddress if trying again is of no use. It is called once.
func (s *Server) Start(ctx context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.addr)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("listening on %s for %s: another process has the address; end it or choose another with %s: %w",
				s.addr, s.serves, s.option, err)
		}
		if notOurs(err) {
			return fmt.Errorf("listening on %s for %s: %w; choose another with %s: %w", s.addr, s.serves, ErrAddress, s.option, err)
		}
		return fmt.Errorf("listening on %s for %s: %w", s.addr, s.serves, err)
	}
	done := make(chan struct{})
	s.mu.Lock()
	s.listener, s.done = l, done
	s.mu.Unlock()
	go func() {
		defer close(done)
		if err := s.server.Serve(limit(l, maxConns)); !errors.Is(err, http.ErrServerClosed) {
			s.logger.Error("serving ended", slog.String("serves", s.serves), slog.String("error", err.Error()))
		}
	}()
	return nil
}

// Addr is the address it listens on, with the real port; before Start the one it was made for.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return s.addr
	}
	return s.listener.Addr().String()
}

// Shutdown stops listening and waits until what is being answered is, or ctx ends; then it cuts off the rest. It
// may be called without Start and more than once.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.server.Close())
	}
	s.mu.Lock()
	done := s.done
	s.mu.Unlock()
	if done != nil {
		<-done
	}
	if err != nil {
		return fmt.Errorf("stopping to serve %s: %w", s.serves, err)
	}
	return nil
}
