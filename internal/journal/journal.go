// Package journal is what is written down about updates: results, dead letters and the large bodies behind them,
// the claims that make a message a replay, and the holds that other processes see.
//
// It stands at the end of an update's way: relay decides how an update ended and hands the settlement to
// [Journal.Settle], which returns only after the server has confirmed the dead letter and the result, so that the
// update may leave its stream. On the reading side [Results] gives the events back, for `kexrelay results` and for
// whoever waits for an update to be settled.
//
// Everything written is idempotent: its Nats-Msg-Id is made of the update's identity (sequence and stored time),
// so a repeat after a lost answer is dropped by the server.
package journal

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// Config is what a Journal is made with.
type Config struct {
	// Source is the CloudEvents source of every event, urn:kexrelay:<name>.
	Source string
	// MaxPayload is the largest message the server takes, in bytes; it is asked before each dead letter, because it
	// can change with a reconnect. Nil means the connection's own.
	MaxPayload func() int64
	// PublishTimeout is how long one publish waits for its PubAck; 0 means 2 s.
	PublishTimeout time.Duration
	// Patience is how long a publish that may go through by itself (no leader, no answer, reconnecting) is repeated
	// before it counts as refused; 0 means 5 s.
	Patience time.Duration
	// OnRetry, if not nil, is called with what is being written before each repeat of a publish that did not go
	// through. It must return at once.
	OnRetry func(Record)
	// OnDoubleBooked, if not nil, hears of each update that turns out to have been booked a second time, once that is
	// told. It must return at once.
	OnDoubleBooked func(kind update.Kind)
	// OnAnswer, if not nil, hears what became of each publish.
	OnAnswer OnAnswer
}

// Record is what the Journal writes, in a word for metrics.
type Record string

// The records.
const (
	RecordResult     Record = "result" // Also a notice.
	RecordDeadLetter Record = "deadletter"
)

// publisher is the configuration of the Journal's publisher.
func (c Config) publisher() PublisherConfig {
	p := PublisherConfig{Timeout: c.PublishTimeout, Patience: c.Patience, OnAnswer: c.OnAnswer}
	if c.OnRetry == nil {
		return p
	}
	deadLetters := strings.TrimSuffix(topology.SubjectDeadLetters, ">")
	p.OnRetry = func(subject string) {
		record := RecordResult
		if strings.HasPrefix(subject, deadLetters) {
			record = RecordDeadLetter
		}
		c.OnRetry(record)
	}
	return p
}

// Journal writes settlements and notices down. Use New; its methods are safe for concurrent use, and concurrent
// calls share the connection without waiting for each other's answers.
type Journal struct {
	js        jetstream.JetStream
	cfg       Config
	publisher *Publisher
	results   *Results
	bodies    *Bodies
	index     *Index
}

// New makes a Journal on the connection of js. It makes no call; a missing stream shows at the first write.
func New(js jetstream.JetStream, cfg Config) *Journal {
	if cfg.MaxPayload == nil {
		cfg.MaxPayload = js.Conn().MaxPayload
	}
	index := NewIndex(js)
	publishing := cfg.publisher()
	publishing.OnStored = index.own.stored
	return &Journal{
		js:        js,
		cfg:       cfg,
		index:     index,
		publisher: NewPublisher(js, publishing),
		results:   NewResults(js),
		bodies:    NewBodies(js),
	}
}

// Index is the index of the results, for whoever maintains it beside this Journal: what the Journal writes itself need
// not be read for it.
func (j *Journal) Index() *Index { return j.index }

// Close ends the Journal's subscriptions. Writes that are under way are given up; the connection stays open.
func (j *Journal) Close() { j.publisher.Close() }

// Settle writes a settlement down and returns when the server has confirmed it: the dead letter first, if it is
// one, then the result event that tells of it. Repeating it with the same settlement stores nothing twice.
//
// A result that was already there for another request means that the update was booked a second time, or although
// it lies among the dead letters: that is told by a double_booked event before Settle returns.
//
// The error is a *fault.Error. Systemic with reason storage: NATS refused or did not answer, the update must stay in its
// stream and the call be repeated with the same settlement. Interrupted: ctx ended. What concerns this one message
// alone (its size, its headers) is solved here and never an error while NATS takes messages at all.
func (j *Journal) Settle(ctx context.Context, s *update.Settlement) error {
	deadLetterSeq := s.DeadLetterSeq
	if s.Outcome == update.DeadLettered && deadLetterSeq == 0 {
		ack, err := j.DeadLetter(ctx, s)
		if err != nil {
			return err
		}
		deadLetterSeq = ack.Sequence
	}
	event := j.settlementEvent(s, deadLetterSeq)
	ack, err := j.writeEvent(ctx, event)
	if err != nil {
		return storageFault(ctx, fmt.Sprintf("writing the result of update %d", s.Update.Seq), err)
	}
	if !ack.Duplicate {
		return nil
	}
	if err := j.tellDoubleBooking(ctx, s, event, ack.Sequence); err != nil {
		return storageFault(ctx, fmt.Sprintf("comparing the result of update %d with the stored one", s.Update.Seq), err)
	}
	return nil
}

// errNotTold says that a result came back as a duplicate, which Settle looks into.
var errNotTold = errors.New("a result was there before")

// Begin is Settle for the usual case, a delivered update whose result is the first, without the wait: done is called
// once, within the publish timeout, from a goroutine that must not be kept waiting. Nil means that the result is
// confirmed. An error means that it may or may not be: call Settle with the same settlement. False means that nothing
// was begun and done is not called: call Settle.
func (j *Journal) Begin(s *update.Settlement, done func(error)) bool {
	if s.Outcome != update.Delivered {
		return false
	}
	event := j.settlementEvent(s, 0)
	msg, err := event.message()
	if err != nil {
		return false
	}
	return j.publisher.begin(msg, func(ack jetstream.PubAck, err error) {
		if err == nil && ack.Duplicate {
			err = errNotTold
		}
		done(err)
	}) == nil
}

// tellDoubleBooking compares a result that came back as duplicate with the stored one. A repeat of the same
// settlement is equal in request and time; anything else is a second end of the same update, and if that one was
// booked, somebody has to know.
func (j *Journal) tellDoubleBooking(ctx context.Context, s *update.Settlement, event Event, storedSeq uint64) error {
	if s.Outcome != update.Delivered {
		return nil
	}
	stored, err := j.results.At(ctx, storedSeq)
	if errors.Is(err, ErrNoEvent) {
		return nil // Erased or expired since: nothing is left to compare with.
	}
	if err != nil {
		return err
	}
	if stored.ID != event.ID || sameRequest(stored, event) {
		return nil
	}
	data := event.Data
	data.Outcome = update.DoubleBooked
	data.DeadLetterSeq = stored.Data.DeadLetterSeq
	data.Detail = "booked by request " + stored.Data.RequestID + " and again by request " + data.RequestID
	switch stored.Data.Outcome {
	case update.Delivered, update.Replayed, update.DoubleBooked:
	case update.Discarded, update.Erased:
		data.Detail = fmt.Sprintf("booked by request %s although an operator had taken it back before: it is %s, and it is in the Vorgang",
			data.RequestID, stored.Data.Outcome)
	case update.DeadLettered:
		data.Detail = fmt.Sprintf("booked by request %s although settled before as dead letter %d (%s): discard that one, do not replay it",
			data.RequestID, stored.Data.DeadLetterSeq, stored.Data.Reason)
	}
	id := fmt.Sprintf("%s-%s-%d", update.DoubleBooked, identity(s.Update), event.Data.SettledAt.UnixNano())
	ack, err := j.writeEvent(ctx, j.event(id, data, event.Traceparent))
	if err == nil && !ack.Duplicate && j.cfg.OnDoubleBooked != nil {
		j.cfg.OnDoubleBooked(s.Update.Kind)
	}
	return err
}

func sameRequest(a, b Event) bool {
	return a.Data.RequestID == b.Data.RequestID && a.Data.Outcome == b.Data.Outcome && a.Data.SettledAt.Equal(b.Data.SettledAt)
}

// Notice says that something happened to an update after it was settled.
type Notice struct {
	// Outcome is Replayed, Discarded or Erased. double_booked is told by Settle itself.
	Outcome update.Outcome
	// Key makes the notice's Nats-Msg-Id together with the outcome: the same key never gives a second event within
	// the duplicate window. It is the [Identity] of what the notice is about.
	Key string
	// Data is told as it is, except for Outcome and, if it is zero, SettledAt (now).
	Data EventData
	// Traceparent is the update's W3C trace context, or "".
	Traceparent string
}

// Notice writes a notice down as an event of the same form as a result. Errors are those of Settle.
func (j *Journal) Notice(ctx context.Context, n Notice) error {
	data := n.Data
	data.Outcome = n.Outcome
	if data.SettledAt.IsZero() {
		data.SettledAt = time.Now()
	}
	if _, err := j.writeEvent(ctx, j.event(string(n.Outcome)+"-"+n.Key, data, n.Traceparent)); err != nil {
		return storageFault(ctx, fmt.Sprintf("writing the %s event of update %s", n.Outcome, n.Data.UpdateID), err)
	}
	return nil
}

// writeEvent publishes an event and waits for its PubAck. An event that the server finds too large loses its
// detail and the
// answers: better a result without its explanation than none.
func (j *Journal) writeEvent(ctx context.Context, e Event) (*jetstream.PubAck, error) {
	msg, err := e.message()
	if err != nil {
		return nil, err
	}
	ack, err := j.publisher.Publish(ctx, msg)
	if e.Data.Detail == "" && e.Data.Answers == nil || !messageRefused(err) {
		return ack, err
	}
	e.Data.Detail, e.Data.Answers, e.Data.AnswersLeftOut = "", nil, 0
	if msg, err = e.message(); err != nil {
		return nil, err
	}
	return j.publisher.Publish(ctx, msg)
}

// storageFault classifies what a write returned for relay: either our own stop, or a fault of NATS.
func storageFault(ctx context.Context, doing string, err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	if ctx.Err() != nil {
		return &fault.Error{Kind: fault.Interrupted, Err: fmt.Errorf("%s: %w", doing, context.Cause(ctx))}
	}
	return &fault.Error{
		Kind:   fault.Systemic,
		Reason: fault.Storage,
		Detail: doing + ": " + err.Error(),
		Err:    err,
	}
}

// identity names an update for ever: its sequence alone comes again when a stream is re-created or restored.
func identity(u *update.Update) string { return Identity(u.Seq, u.StoredAt) }

// Identity names a message of a stream for ever, by its sequence and the time it was stored, in characters that
// both a Nats-Msg-Id and the key of a bucket take.
func Identity(seq uint64, storedAt time.Time) string {
	return string(appendIdentity(make([]byte, 0, maxIdentity), seq, storedAt))
}

// maxIdentity is the length of the longest identity.
const maxIdentity = len("18446744073709551615-") + len("-9223372036854775808")

func appendIdentity(b []byte, seq uint64, storedAt time.Time) []byte {
	b = append(strconv.AppendUint(b, seq, 10), '-')
	return strconv.AppendInt(b, storedAt.UnixNano(), 10)
}

// resultID is the Nats-Msg-Id of an update's result.
func resultID(u *update.Update) string {
	b := append(make([]byte, 0, len(resultIDPrefix)+maxIdentity), resultIDPrefix...)
	return string(appendIdentity(b, u.Seq, u.StoredAt))
}
