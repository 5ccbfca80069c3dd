package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// callTimeout bounds every call to NATS that is not a publish; a caller's longer deadline is for its whole work.
const callTimeout = 5 * time.Second

// electionTimeout bounds a question without which a partition cannot be served: a cluster whose server has died takes up
// to 9 s to elect the next leader, and to give up earlier would only make another replica ask the same.
const electionTimeout = 12 * time.Second

// lazy is a handle that is opened at the first need and kept; a failure is not. The zero value is ready.
type lazy[T any] struct {
	mu     sync.Mutex
	handle T
	opened bool
}

// open gives the handle. The call is made outside the mutex, so that nobody waits for somebody else's hanging call;
// two that open at the same time both work.
//
//nolint:ireturn // Handles of jetstream are interfaces.
func (l *lazy[T]) open(call func() (T, error)) (T, error) {
	l.mu.Lock()
	handle, opened := l.handle, l.opened
	l.mu.Unlock()
	if opened {
		return handle, nil
	}
	handle, err := call()
	if err != nil {
		var none T
		return none, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handle, l.opened = handle, true
	return handle, nil
}

// Explain wraps the error of a call to NATS with what was being done and, where the cause is known, what to do
// next. Explain of nil is nil.
func Explain(doing string, js jetstream.JetStream, err error) error {
	if err == nil {
		return nil
	}
	if advice := advise(js, err); advice != "" {
		return fmt.Errorf("%s: %w (%s)", doing, err, advice)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func advise(js jetstream.JetStream, err error) string {
	switch {
	case errors.Is(err, topology.ErrDenied):
		return "grant it, or take another user (--user, --creds, --context)"
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrBucketNotFound),
		errors.Is(err, jetstream.ErrNoStreamResponse):
		return "run kexrelay setup"
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return "start nats-server with JetStream, or give this account a share of it"
	case errors.Is(err, nats.ErrReconnectBufExceeded):
		return disconnected
	case errors.Is(err, nats.ErrConnectionClosed):
		return "the connection to NATS is closed for good"
	case errors.Is(err, nats.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		// A denied call is not answered at all; the server tells the connection, not the caller.
		if denied := js.Conn().LastError(); errors.Is(denied, nats.ErrPermissionViolation) {
			return "NATS denies it to this user: " + denied.Error()
		}
		return "NATS did not answer: check the connection, and the user's rights"
	}
	return ""
}
