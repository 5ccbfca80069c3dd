package simulator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Server timeouts. They only concern clients that do nothing; nothing here limits a scripted answer.
const (
	headerTimeout = 30 * time.Second
	idleTimeout   = 5 * time.Minute
)

// Server is a Simulator listening on an address. When one is closed, another can be started for the same Simulator
// on the same address, which is how an API that is down and comes back looks.
type Server struct {
	simulator *Simulator
	http      *http.Server
	host      string
	stopped   chan struct{}
	served    chan struct{} // Closed when nothing is listening any more.
	serveErr  error         // Read after served.
	release   func() bool   // Takes the stop back off the context.

	mu       sync.Mutex
	closing  bool
	handlers sync.WaitGroup
}

// Start listens on addr (host:port, port 0 for any free one) and serves until ctx ends or Close is called.
func (s *Simulator) Start(ctx context.Context, addr string) (*Server, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("starting the simulator: %w", err)
	}
	server := &Server{
		simulator: s, host: reachableHost(listener.Addr()),
		stopped: make(chan struct{}), served: make(chan struct{}),
	}
	server.http = &http.Server{
		Handler:           http.HandlerFunc(server.handle),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		// What net/http says concerns single connections, which scripts cut on purpose.
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	go func() {
		defer close(server.served)
		if err := server.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			server.serveErr = fmt.Errorf("serving the simulator: %w", err)
		}
	}()
	server.release = context.AfterFunc(ctx, server.stop)
	s.log.Info("simulator started", slog.String("base_url", server.BaseURL()), slog.String("token_url", server.TokenURL()))
	return server, nil
}

// reachableHost is host:port under which this machine reaches a listener, also one on all addresses.
func reachableHost(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// handle counts the requests in work, so that Close leaves nothing running.
func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	s.handlers.Add(1)
	s.mu.Unlock()
	defer s.handlers.Done()
	s.simulator.serve(w, r, s.stopped)
}

// Addr is host:port, on loopback if the server listens on all addresses.
func (s *Server) Addr() string { return s.host }

// BaseURL is what the relay knows as KEX_BASE_URL.
func (s *Server) BaseURL() string { return "http://" + s.host + BasePath }

// TokenURL is what the relay knows as KEX_TOKEN_URL.
func (s *Server) TokenURL() string { return "http://" + s.host + TokenPath }

// AdminURL is where the admin endpoints begin.
func (s *Server) AdminURL() string { return "http://" + s.host + AdminPath }

// Close stops at once, as a killed API would: connections end, what is not booked never will be. It returns when no
// request is being worked on any more. Closing twice is allowed; the ledger stays.
func (s *Server) Close() error {
	s.release()
	s.stop()
	return s.serveErr
}

func (s *Server) stop() {
	s.mu.Lock()
	first := !s.closing
	s.closing = true
	s.mu.Unlock()
	if first {
		close(s.stopped)
	}
	_ = s.http.Close() // It can only say that a listener was already closed.
	<-s.served
	s.handlers.Wait()
}

// Wait returns when the server has stopped: nil after Close or the end of Start's context, else why it stopped.
func (s *Server) Wait() error {
	<-s.served
	return s.serveErr
}
