package topology

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ErrDenied says that the server does not permit a call. It is also a deadline that is exceeded: without it the call would
// have waited for one.
var ErrDenied = errors.New("NATS does not permit it")

// deniedError is ErrDenied with the subject.
type deniedError struct{ subject string }

func (e *deniedError) Error() string {
	return ErrDenied.Error() + ": this user has no right to " + e.subject
}

func (e *deniedError) Unwrap() []error { return []error{ErrDenied, context.DeadlineExceeded} }

// Denials ends calls that wait for nothing: a call without the right to it is not answered, only the connection hears of
// it. It is for commands, which make one call after the other: what is refused is what they wait for. The zero value is
// ready.
type Denials struct {
	listens atomic.Bool
	mu      sync.Mutex
	waiting map[*deniable]struct{}
}

type denialsKey struct{}

// Into gives a context whose calls, made with Call, end when they are denied.
func (d *Denials) Into(ctx context.Context) context.Context {
	return context.WithValue(ctx, denialsKey{}, d)
}

// Listen gives what a connection is to tell of its refusals. Until it is called, calls are made as if there were no
// Denials: a relay has its own ways.
func (d *Denials) Listen() func(subject string) {
	d.listens.Store(true)
	return d.tell
}

// tell says that the server has refused a subject.
func (d *Denials) tell(subject string) {
	// What a command has read is read, also if it may not clean up after itself.
	if strings.Contains(subject, ".CONSUMER.DELETE.") {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.waiting {
		c.deny(&deniedError{subject})
	}
}

// Call is context.WithTimeout for one call to NATS. Beneath a context of Denials it also ends, with ErrDenied, when the
// server refuses it.
func Call(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	limited, cancel := context.WithTimeout(ctx, timeout)
	d, ok := ctx.Value(denialsKey{}).(*Denials)
	if !ok || !d.listens.Load() {
		return limited, cancel
	}
	inner, deny := context.WithCancelCause(limited)
	c := &deniable{Context: inner, deny: deny, done: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waiting == nil {
		d.waiting = map[*deniable]struct{}{}
	}
	d.waiting[c] = struct{}{}
	context.AfterFunc(inner, func() { close(c.done) })
	return c, func() {
		d.mu.Lock()
		delete(d.waiting, c)
		d.mu.Unlock()
		deny(context.Canceled)
		cancel()
	}
}

// deniable is a context that says itself why it ended: contexts made of it, and the client, ask for nothing but Err. Its
// channel is its own, because beneath that of another context package context would look past it.
type deniable struct {
	context.Context //nolint:containedctx // It is one.

	deny context.CancelCauseFunc
	done chan struct{}
}

// Done is closed when the call is over or denied.
func (c *deniable) Done() <-chan struct{} { return c.done }

// Err says why.
func (c *deniable) Err() error {
	select {
	case <-c.done:
	default:
		return nil
	}
	if cause := context.Cause(c.Context); errors.Is(cause, ErrDenied) {
		return cause
	}
	return c.Context.Err()
}
