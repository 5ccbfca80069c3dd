package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrConnectionClosed says that the connection to NATS is closed for good; only a new process helps.
var ErrConnectionClosed = errors.New("the connection to NATS is closed for good")

// maxLogged bounds what a connection remembers to have logged since its state last changed.
const maxLogged = 256

// Conn is a connection to NATS with JetStream. It reconnects by itself; everything it does while disconnected
// fails at once instead of being buffered.
type Conn struct {
	nc        *nats.Conn
	js        jetstream.JetStream
	apiPrefix string
	timeout   time.Duration
	hooks     Hooks
	logger    *slog.Logger
	closed    chan struct{}
	denials   denials
	silence   silence
	dialler   dialler
	role      string // As whom it is connected, for logs.

	slowConsumers atomic.Uint64
	permissions   atomic.Uint64

	mu sync.Mutex
	// logged holds what was logged since the state last changed: a line per change, not per try.
	logged map[string]struct{}
	lastUp string
	// left is how a server was left that JetStream did not answer through, until the next one is connected.
	left departure
}

// ConnStats counts what happened on a connection since it was made.
type ConnStats struct {
	Reconnects           uint64
	SlowConsumers        uint64 // Times messages were dropped in this process.
	PermissionViolations uint64 // Publishes and subscriptions the server refused.
}

func newConn(timeout time.Duration, hooks Hooks) *Conn {
	c := &Conn{
		timeout: timeout,
		hooks:   hooks,
		logger:  hooks.Logger,
		closed:  make(chan struct{}),
		logged:  make(map[string]struct{}),
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// NATS is the connection itself, for what the other packages do with it.
func (c *Conn) NATS() *nats.Conn { return c.nc }

// JetStream is the JetStream context of the connection, with its domain or API prefix and timeout.
//
//nolint:ireturn // jetstream has no other type for it.
func (c *Conn) JetStream() jetstream.JetStream { return c.js }

// Connected reports whether a server is connected right now.
func (c *Conn) Connected() bool { return c.nc.IsConnected() }

// Server is the connected server's URL without credentials, or "" while there is none.
func (c *Conn) Server() string { return redactURLs(c.nc.ConnectedUrl()) }

// Closed is closed when the connection is closed for good, by Drain or because it cannot go on.
func (c *Conn) Closed() <-chan struct{} { return c.closed }

// Err says why the connection is closed for good; nil while it is not.
func (c *Conn) Err() error {
	if !c.nc.IsClosed() {
		return nil
	}
	if err := c.nc.LastError(); err != nil {
		return fmt.Errorf("%w: %w", ErrConnectionClosed, err)
	}
	return ErrConnectionClosed
}

// Stats counts what happened so far.
func (c *Conn) Stats() ConnStats {
	return ConnStats{
		Reconnects:           c.reconnects(),
		SlowConsumers:        c.slowConsumers.Load(),
		PermissionViolations: c.permissions.Load(),
	}
}

func (c *Conn) reconnects() uint64 { return c.nc.Stats().Reconnects }

// Drain sends what is still buffered (acks above all), waits until the server has read it, and closes the
// connection; [Queue.AwaitAcks] before it waits for what the server makes of the acks. When ctx ends first, or no server is connected, the connection is closed as it is and an error is
// returned: acks may be lost, and their updates come again.
func (c *Conn) Drain(ctx context.Context) error {
	defer c.nc.Close()
	if c.nc.IsClosed() {
		return nil
	}
	if !c.Connected() {
		return fmt.Errorf("draining the connection to NATS: %w", nats.ErrDisconnected)
	}
	// A flush is a round trip: the server has read everything sent before it.
	if err := c.flush(ctx); err != nil {
		return fmt.Errorf("flushing the connection to NATS: %w", err)
	}
	if err := c.nc.Drain(); err != nil {
		return fmt.Errorf("draining the connection to NATS: %w", err)
	}
	select {
	case <-c.closed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("draining the connection to NATS: %w", ctx.Err())
	}
}

// flush waits for a round trip, at most the connection's timeout.
func (c *Conn) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.nc.FlushWithContext(ctx)
}

// AwaitConnected returns nil as soon as a server is connected, the reason once the connection is closed for good,
// or ctx's error.
func (c *Conn) AwaitConnected(ctx context.Context) error {
	status := c.nc.StatusChanged(nats.CONNECTED)
	defer c.nc.RemoveStatusListener(status)
	for !c.Connected() {
		select {
		case <-status:
		case <-c.closed:
			return c.Err()
		case <-ctx.Done():
			return fmt.Errorf("waiting for NATS: %w", ctx.Err())
		}
	}
	return nil
}

func (c *Conn) onConnect(nc *nats.Conn) {
	if c.backAgain(nc) {
		c.dialler.hangUp()
		return
	}
	server := redactURLs(nc.ConnectedUrl())
	c.denials.reset()
	c.mu.Lock()
	clear(c.logged)
	again := c.lastUp != ""
	c.lastUp = server
	c.mu.Unlock()
	if again {
		c.logger.Info("reconnected to nats", slog.String("server", server))
		return
	}
	c.logger.Info("connected to nats", slog.String("server", server))
}

func (c *Conn) onDisconnect(nc *nats.Conn, err error) {
	if nc.IsClosed() || nc.IsDraining() || c.leaving() {
		return
	}
	if c.hooks.OnDisconnect != nil {
		c.hooks.OnDisconnect()
	}
	attrs := []slog.Attr{slog.String("server", c.lastServer())}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	c.logger.LogAttrs(context.Background(), slog.LevelWarn, "disconnected from nats, reconnecting", attrs...)
}

func (c *Conn) lastServer() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastUp
}

func (c *Conn) onReconnectFailed(_ *nats.Conn, err error) {
	if err != nil && c.firstTime("reconnect") {
		c.logger.Warn("nats does not answer, trying on", slog.String("error", err.Error()))
	}
}

func (c *Conn) onClosed(*nats.Conn) { close(c.closed) }

func (c *Conn) onError(_ *nats.Conn, sub *nats.Subscription, err error) {
	switch {
	case errors.Is(err, nats.ErrSlowConsumer):
		c.slowConsumers.Add(1)
		if c.hooks.OnSlowConsumer != nil {
			c.hooks.OnSlowConsumer()
		}
		subject := ""
		if sub != nil {
			subject = sub.Subject
		}
		if c.firstTime("slow " + subject) {
			c.logger.Error("nats messages were dropped in this process", slog.String("subject", subject))
		}
	case errors.Is(err, nats.ErrPermissionViolation):
		c.permissions.Add(1)
		denial := parseDenial(err)
		c.denials.tell(denial)
		c.silence.forget()
		if c.hooks.OnPermission != nil {
			c.hooks.OnPermission(denial.Subject)
		}
		if c.firstTime(denial.Operation + denial.Subject) {
			c.logger.Warn("nats refused a permission", slog.String("operation", denial.Operation),
				slog.String("subject", denial.Subject), slog.String("role", c.role))
		}
	default:
		if c.firstTime(err.Error()) {
			c.logger.Warn("nats connection error", slog.String("error", err.Error()))
		}
	}
}

// firstTime reports whether key was not seen since the connection's state last changed.
func (c *Conn) firstTime(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, seen := c.logged[key]; seen || len(c.logged) >= maxLogged {
		return false
	}
	c.logged[key] = struct{}{}
	return true
}
