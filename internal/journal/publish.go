package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// Defaults of PublisherConfig, and the pace of repeats.
const (
	defaultPublishTimeout = 2 * time.Second
	defaultPatience       = 5 * time.Second
	firstRepeat           = 50 * time.Millisecond
	slowestRepeat         = time.Second
	// maxPending bounds the publishes without an answer; beyond it one is refused for now. It is far above any concurrency
	// of the relay: it is there so that a caller's mistake waits instead of eating memory.
	maxPending = 4096
)

// Error codes of the server that decide what becomes of a refused publish. All others of class 503 may pass.
const (
	codeMessageTooLarge   jetstream.ErrorCode = 10054 // Above the stream's MaxMsgSize.
	codeHeaderTooLarge    jetstream.ErrorCode = 10097 // Headers above 64 KiB.
	codeStreamStoreFailed jetstream.ErrorCode = 10077 // Full: "maximum bytes exceeded", or the disk refuses.
	codeMaxConsumers      jetstream.ErrorCode = 10026 // The stream has as many as it, the account or the server allows.
	codeMsgIDInProcess    jetstream.ErrorCode = 10158 // The same ID is waiting for its quorum: neither stored nor a duplicate.
)

// PublisherConfig is what a Publisher is made with.
type PublisherConfig struct {
	// Timeout is how long one publish waits for its PubAck; 0 means 2 s.
	Timeout time.Duration
	// Patience is how long a publish is repeated that may go through by itself; 0 means 5 s. The last repeat may
	// begin at its end, so a call takes up to Patience + Timeout.
	Patience time.Duration
	// OnRetry, if not nil, is called with the subject before each repeat. It must return at once.
	OnRetry func(subject string)
	// OnAnswer, if not nil, hears what became of each publish.
	OnAnswer OnAnswer
	// OnStored, if not nil, is called with each message and its PubAck. It must return at once.
	OnStored func(m *nats.Msg, ack jetstream.PubAck)
}

// OnAnswer is told what became of a request to NATS, by whose kind of words it was and with what error: nil for what
// its leader has confirmed. It must return at once.
type OnAnswer func(request string, err error)

func (f OnAnswer) tell(request string, err error) {
	if f != nil {
		f(request, err)
	}
}

// publishing names a publish for OnAnswer by the stream, which the first two tokens of the subject stand for.
func publishing(subject string) string {
	first, rest, _ := strings.Cut(subject, ".")
	second, _, _ := strings.Cut(rest, ".")
	return "publishing to " + first + "." + second
}

// Publisher publishes to streams and waits for the PubAck. Many callers share one pipeline: nobody's wait for an
// answer delays another's publish.
type Publisher struct {
	cfg   PublisherConfig
	nc    *nats.Conn
	begun *begun
}

// NewPublisher makes a Publisher on the connection of js, with its domain or API prefix.
func NewPublisher(js jetstream.JetStream, cfg PublisherConfig) *Publisher {
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultPublishTimeout
	}
	if cfg.Patience <= 0 {
		cfg.Patience = defaultPatience
	}
	return &Publisher{cfg: cfg, nc: js.Conn(), begun: newBegun(js.Conn(), cfg.Timeout)}
}

// Close ends the subscription for answers; publishes under way end with their timeout. The connection stays open.
func (p *Publisher) Close() { p.begun.close() }

// Publish publishes a message that carries a Nats-Msg-Id and returns its PubAck. What may pass by itself (no leader,
// no answer, a reconnect, an ID in process) is repeated within the patience; the ID makes the repeat harmless. A
// PubAck that says duplicate is success: Sequence is then that of the message stored before.
//
// The error is ctx's cause, or a *PublishError that says why the server did not take the message.
func (p *Publisher) Publish(ctx context.Context, m *nats.Msg) (*jetstream.PubAck, error) {
	until := time.Now().Add(p.cfg.Patience)
	for wait := firstRepeat; ; wait = min(2*wait, slowestRepeat) {
		ack, err := p.attempt(ctx, m)
		if err == nil {
			return ack, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		refusal := refusalOf(err)
		if refusal != RefusedForNow || closedForGood(err) || errors.Is(err, topology.ErrDenied) || time.Until(until) < wait {
			return nil, &PublishError{Subject: m.Subject, Refusal: refusal, Err: err}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
		if p.cfg.OnRetry != nil {
			p.cfg.OnRetry(m.Subject)
		}
	}
}

// begin publishes a message that carries a Nats-Msg-Id, once, and returns without waiting: done is called, once, with
// the PubAck or with why there is none, within the publish timeout. An error means that nothing was begun and done is not
// called. No repeat is made: whoever hears an error calls Publish with the same message.
func (p *Publisher) begin(m *nats.Msg, done answered) error {
	return p.begun.publish(m, func(ack jetstream.PubAck, err error) {
		p.cfg.OnAnswer.tell(publishing(m.Subject), err)
		if err == nil && p.cfg.OnStored != nil {
			p.cfg.OnStored(m, ack)
		}
		done(ack, err)
	})
}

// attempt is one publish. It ends with the answer, with the publish timeout or with ctx; an answer that comes
// later is dropped.
func (p *Publisher) attempt(ctx context.Context, m *nats.Msg) (*jetstream.PubAck, error) {
	type answer struct {
		ack jetstream.PubAck
		err error
	}
	answers := make(chan answer, 1) // Nobody may be waiting any more.
	err := p.begin(m, func(ack jetstream.PubAck, err error) { answers <- answer{ack, err} })
	if err != nil && p.nc.IsClosed() {
		return nil, nats.ErrConnectionClosed // The client does not always say so.
	}
	if err != nil {
		return nil, err
	}
	watched, done := topology.Call(ctx, p.cfg.Timeout+callTimeout) // The answer, or its lack, comes before.
	defer done()
	select {
	case a := <-answers:
		if a.err != nil {
			return nil, withDenial(p.nc, m.Subject, a.err)
		}
		return &a.ack, nil
	case <-watched.Done():
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", nats.ErrPermissionViolation, watched.Err())
	}
}

// withDenial adds to a missing answer that the server does not permit the publish, which it tells the connection alone.
func withDenial(nc *nats.Conn, subject string, err error) error {
	denied := nc.LastError()
	silent := errors.Is(err, jetstream.ErrAsyncPublishTimeout) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded)
	if silent && errors.Is(denied, nats.ErrPermissionViolation) &&
		strings.Contains(denied.Error(), `"`+subject+`"`) {
		return fmt.Errorf("%w: %w", nats.ErrPermissionViolation, err)
	}
	return err
}

// Refusal says what a failed publish means.
type Refusal uint8

const (
	// RefusedForNow means no answer, no leader, no connection: it may pass by itself.
	RefusedForNow Refusal = iota
	// RefusedMessage means that this one message can never be taken as it is: too large, or a header or subject
	// that NATS does not allow.
	RefusedMessage
	// RefusedByStream means that the stream takes nothing now: it is full, sealed, or its disk is.
	RefusedByStream
)

// PublishError is a message that the server did not take, or did not confirm.
type PublishError struct {
	Subject string
	Refusal Refusal
	Err     error
}

// Error says what happened and what to do next.
func (e *PublishError) Error() string {
	return fmt.Sprintf("publishing to %s: %v (%s)", e.Subject, e.Err, e.advice())
}

// Unwrap gives the client's or the server's own error.
func (e *PublishError) Unwrap() error { return e.Err }

func (e *PublishError) advice() string {
	switch e.Refusal {
	case RefusedMessage:
		return "the message is too large or not well formed for this server: see max_payload and the stream's MaxMsgSize"
	case RefusedByStream:
		return "the stream takes nothing more: make room in it, or raise its limit or the server's disk space"
	case RefusedForNow:
	}
	switch {
	case errors.Is(e.Err, nats.ErrPermissionViolation):
		return "NATS does not permit it: grant this user the right to publish to it"
	case errors.Is(e.Err, nats.ErrReconnectBufExceeded):
		return disconnected
	case errors.Is(e.Err, jetstream.ErrNoStreamResponse):
		return "no stream takes this subject, or it has no leader: run kexrelay setup, or look at the cluster"
	case errors.Is(e.Err, jetstream.ErrAsyncPublishTimeout):
		return "no answer: check the connection to NATS and the user's rights, a denied publish is not answered"
	case closedForGood(e.Err):
		return "the connection to NATS is closed for good"
	}
	return "check the connection to NATS"
}

// disconnected explains what the client calls an exceeded buffer: none is used.
const disconnected = "NATS is not connected at the moment, and nothing is buffered meanwhile"

func closedForGood(err error) bool {
	return errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrConnectionDraining)
}

func refusalOf(err error) Refusal {
	if errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadHeaderMsg) || errors.Is(err, nats.ErrBadSubject) {
		return RefusedMessage
	}
	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok {
		return RefusedForNow
	}
	switch {
	case api.ErrorCode == codeMessageTooLarge, api.ErrorCode == codeHeaderTooLarge:
		return RefusedMessage
	case api.ErrorCode == codeStreamStoreFailed:
		return RefusedByStream
	case api.ErrorCode == codeMsgIDInProcess, api.Code == 503:
		return RefusedForNow
	}
	return RefusedByStream
}

// messageRefused reports whether err concerns the one message it was returned for.
func messageRefused(err error) bool {
	p, ok := errors.AsType[*PublishError](err)
	return ok && p.Refusal == RefusedMessage
}
