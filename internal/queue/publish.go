package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

const (
	// publishTimeout bounds one try; a cluster that elects a leader answers the next one.
	publishTimeout = 3 * time.Second
	// noStreamPatience is how long nobody may listen for updates: an election takes some 6 s.
	noStreamPatience = 10 * time.Second
	// noticeAfter is how long a publish is tried before somebody who waits for it is told why.
	noticeAfter = 1500 * time.Millisecond
)

// Why an update could not be published.
var (
	// ErrFull says that the stream, or its disk, has no room: the relay has to work some of it off first.
	ErrFull = errors.New("the stream of updates is full")
	// ErrTooLarge says that the update is larger than the server or the stream takes.
	ErrTooLarge = errors.New("the update is too large")
	// ErrNoStream says that nobody stores updates: there is no stream, or it has no leader.
	ErrNoStream = errors.New("there is no stream for updates")
)

// PublishRequest is an update to publish.
type PublishRequest struct {
	Vorgangsnummer string
	Kind           update.Kind
	// Body is what the API is to get, byte for byte.
	Body []byte
	// MsgID is the idempotency key, see [update.ValidID]; empty means a random one.
	MsgID string
	// TraceID is sent as X-TraceId, see [update.ValidTraceID]; empty leaves it to the relay.
	TraceID string
	// Header is sent as well. MsgID and TraceID go before it.
	Header map[string][]string
}

// PublishResult is what the stream said to a stored update.
type PublishResult struct {
	// MsgID is the idempotency key it was published with.
	MsgID string
	Seq   uint64
	// Duplicate reports that the stream held an update with this key already, so that this one was not stored.
	// Seq is then the other one's, which may be this call's own earlier try if Tries is above 1.
	Duplicate bool
	// Tries counts the publishes made, 1 if the first was answered.
	Tries int
}

// Publisher puts updates into the stream.
type Publisher struct {
	conn *Conn
	// OnWait, if not nil, is told why a publish is not through after about 2 s although it may still be: once for each
	// Publish, in whose goroutine it is called.
	OnWait func(why error)

	patience time.Duration
}

// NewPublisher makes a publisher. It needs the right to publish to the updates' subjects, no other.
func NewPublisher(conn *Conn) *Publisher {
	return &Publisher{conn: conn, patience: noStreamPatience}
}

// MaxSize is the most bytes body and headers of a message may have on the connected server.
func (p *Publisher) MaxSize() int64 { return p.conn.nc.MaxPayload() }

// Publish stores an update and returns when the stream has acknowledged it. What may pass by itself (no answer, no
// connection, no leader) is tried again with the same key until ctx ends. Errors say what to do and wrap ErrFull,
// ErrTooLarge, ErrNoStream, ErrPermission or ctx's error; after the last the update may have been stored, and
// publishing it again with the same key is safe.
func (p *Publisher) Publish(ctx context.Context, r PublishRequest) (PublishResult, error) {
	message, err := r.message()
	if err != nil {
		return PublishResult{}, err
	}
	result := PublishResult{MsgID: message.Header.Get(update.HeaderMsgID)}
	alone := time.Time{} // Since when nobody listens.
	begun, told := time.Now(), p.OnWait == nil
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		result.Tries++
		ack, err := p.try(ctx, message)
		switch {
		case err == nil && ack.Stream != topology.StreamUpdates:
			return result, fmt.Errorf("%w: %s was stored by the stream %s, where no relay looks; run kexrelay setup",
				ErrNoStream, message.Subject, ack.Stream)
		case err == nil:
			result.Seq, result.Duplicate = ack.Sequence, ack.Duplicate
			return result, nil
		case !transient(err), ctx.Err() != nil:
			return result, p.explain(err, message, result)
		case !nobodyListens(err):
			alone = time.Time{}
		case alone.IsZero():
			alone = time.Now()
		case time.Since(alone) > p.patience:
			return result, nobody(message, err)
		}
		if !told && time.Since(begun) > noticeAfter {
			told = true
			p.OnWait(reason(message, err))
		}
		if waitErr := p.pause(ctx, pause); waitErr != nil {
			return result, p.explain(errors.Join(waitErr, err), message, result)
		}
	}
}

func (p *Publisher) try(ctx context.Context, message *nats.Msg) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, min(publishTimeout, p.conn.timeout))
	defer cancel()
	ctx, deny := context.WithCancelCause(ctx)
	defer deny(nil)
	defer p.conn.denials.watch(message.Subject, p.conn.inboxPrefix(), deny)()
	// The retries of nats.go know only one of the reasons; ours know them all.
	ack, err := p.conn.js.PublishMsg(ctx, message, jetstream.WithRetryAttempts(0))
	p.conn.Heard("publishing an update", err)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, ErrPermission) {
		return nil, cause
	}
	return ack, err
}

// pause waits for the next try: a while, with jitter, and for the connection.
func (p *Publisher) pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d/2 + rand.N(d/2)) //nolint:gosec // G404: jitter.
	defer timer.Stop()
	select {
	case <-timer.C:
		return p.conn.AwaitConnected(ctx)
	case <-p.conn.closed:
		return p.conn.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reason is why a publish that is tried again has failed so far.
func reason(message *nats.Msg, err error) error {
	if nobodyListens(err) {
		return nobody(message, err)
	}
	return fmt.Errorf("NATS does not answer: %w", err)
}

func nobody(message *nats.Msg, err error) error {
	return fmt.Errorf("%w: nobody takes %s; run kexrelay setup, or check the account and --js-domain: %w",
		ErrNoStream, message.Subject, err)
}

func nobodyListens(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse)
}

func (r PublishRequest) message() (*nats.Msg, error) {
	subject := update.SubjectPrefix + r.Vorgangsnummer + "." + string(r.Kind)
	if _, _, err := update.ParseSubject(subject); err != nil {
		return nil, fmt.Errorf("publishing an update: %w", err)
	}
	if r.MsgID == "" {
		r.MsgID = nuid.Next()
	}
	if !update.ValidID(r.MsgID) {
		return nil, fmt.Errorf("publishing an update: its ID must be 1 to %d printable ASCII characters, no space first or last", update.MaxIDLength)
	}
	if r.TraceID != "" && !update.ValidTraceID(r.TraceID) {
		return nil, fmt.Errorf("publishing an update: its trace ID must be 1 to %d printable ASCII characters without spaces", update.MaxTraceIDLength)
	}
	message := nats.NewMsg(subject)
	maps.Copy(message.Header, r.Header)
	message.Header.Set(update.HeaderMsgID, r.MsgID)
	if r.TraceID != "" {
		message.Header.Set(update.HeaderTraceID, r.TraceID)
	}
	message.Data = r.Body
	return message, nil
}

// explain says what to do about a publish that failed.
func (p *Publisher) explain(err error, message *nats.Msg, result PublishResult) error {
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: it has %d bytes with its headers and the server takes %d (max_payload): %w",
			ErrTooLarge, message.Size(), p.conn.nc.MaxPayload(), err)
	case isAPI(err, jetstream.JSErrCodeStreamMessageExceedsMaximum):
		return fmt.Errorf("%w: it has %d bytes with its headers, more than the stream %s takes (max_msg_size): %w",
			ErrTooLarge, message.Size(), topology.StreamUpdates, err)
	case isAPI(err, errCodeStoreFailed, errCodeInsufficientResources, errCodeStorageResources):
		return fmt.Errorf("%w: %s takes nothing more until the relay has worked some off (kexrelay status), or its limit is raised (kexrelay setup --max-bytes): %w",
			ErrFull, topology.StreamUpdates, err)
	case isAPI(err, jetstream.JSErrCodeJetStreamNotEnabled, jetstream.JSErrCodeJetStreamNotEnabledForAccount):
		return fmt.Errorf("%w: JetStream is not enabled on the NATS server or for this account: %w", ErrNoStream, err)
	case !transient(err) && !errors.Is(err, context.Canceled):
		return fmt.Errorf("publishing to %s: %w", message.Subject, err)
	}
	return fmt.Errorf("publishing to %s: no answer after %d tries, so it may be stored or not; publish it again with the same ID %s: %w",
		message.Subject, result.Tries, result.MsgID, err)
}
