// Package update is the message kexrelay carries: a document or comments for one Vorgang.
//
// It stands at the beginning of an update's way: queue hands a [Message] as it lay in the stream, [Decode]
// makes an [Update] of it without copying the content, or says with a permanent fault why it can never be
// booked. The package owns the words of the published side (subject, kinds, header names); everything behind it
// uses them from here.
package update

import (
	"errors"
	"strconv"
	"time"
)

// ErrRemoved says that an update is not in the stream any more: an operator removed it while it was held.
var ErrRemoved = errors.New("the update is no longer in the stream")

// SubjectPrefix begins every subject an update is published to: kex.vorgang.<vorgangsnummer>.<kind>.
const SubjectPrefix = "kex.vorgang."

// NoVorgangsnummer stands in outgoing subjects for a Vorgangsnummer that failed validation.
const NoVorgangsnummer = "~"

// Kind is the last token of the subject and, in German, of the API's URL.
type Kind string

// The kinds. Invalid stands for any other token.
const (
	Document Kind = "dokument"
	Comments Kind = "kommentare"
	Invalid  Kind = "invalid"
)

// Kinds lists the kinds the API takes.
func Kinds() []Kind { return []Kind{Document, Comments} }

// Headers of an update as published. They are read in any case (HTTP-minded clients write X-Traceid).
const (
	HeaderMsgID       = "Nats-Msg-Id"   // The publisher's idempotency key, the update ID.
	HeaderTraceID     = "X-TraceId"     // The update's trace ID.
	HeaderTraceparent = "traceparent"   // W3C trace context.
	HeaderTracestate  = "tracestate"    // W3C trace context.
	HeaderReplayOf    = "Kex-Replay-Of" // Sequence of the dead letter; counts only with a claim.
	HeaderReplays     = "Kex-Replays"   // How many replays there have been, this one included.
	HeaderUpdateID    = "Kex-Update-Id" // The original update ID on a replay.
)

// Message is an update as it lies in the stream.
type Message struct {
	// Subject is the subject it was published to, before the stream's transform.
	Subject string
	Header  map[string][]string
	Body    []byte
	// Seq and StoredAt together are the update's identity: a stream re-created or restored repeats sequences.
	Seq      uint64
	StoredAt time.Time
	// Replay is set if a claim for a replay of a dead letter backs this message.
	Replay *Replay
}

// Replay says which dead letter an update is a replay of. It comes from the claim in KEX_CONTROL, never from the
// publisher's headers.
type Replay struct {
	DeadLetterSeq uint64 `json:"deadLetterSeq"`
	UpdateID      string `json:"updateId"`
	TraceID       string `json:"traceId"`
	// Replays counts the replays of the update so far, this one included.
	Replays int `json:"replays"`
	// MayBeBooked reports that the dead letter may have been booked: what is sent now may be the second time.
	MayBeBooked bool `json:"mayBeBooked,omitempty"`
}

// Update is a decoded update. Body still points into the message: nothing was copied.
type Update struct {
	// ID is the publisher's Nats-Msg-Id, or KEX_UPDATES-<sequence> without one; the original's on a replay.
	ID       string
	Seq      uint64
	StoredAt time.Time
	// Subject is the subject as published.
	Subject string
	// Vorgangsnummer is NoVorgangsnummer if the subject's token is not valid.
	Vorgangsnummer string
	Kind           Kind
	// TraceID is the publisher's, or made here; PublisherTraceID holds an invalid one (bounded, made printable).
	TraceID          string
	PublisherTraceID string
	Traceparent      string
	Tracestate       string
	Header           map[string][]string
	Body             []byte
	// Object is set if the document is carried by reference: then its bytes lie there, and Body only names them.
	Object *Object
	Replay *Replay
	// Note is what the publisher should be told although the update is valid (a misspelt nats-msg-id), or "".
	Note string
}

// RequestTraceID is the X-TraceId of the n-th request (n from 1) made for the update: the first carries the
// update's trace ID itself, later ones get a suffix, because the API wants it unique per request.
func (u *Update) RequestTraceID(n int) string {
	id := u.TraceID
	if u.Replay != nil {
		id += "-r" + strconv.Itoa(u.Replay.Replays)
	}
	if n > 1 {
		id += "-" + strconv.Itoa(n)
	}
	return id
}

// Request is one attempt's request: what kex sends.
type Request struct {
	Vorgangsnummer string
	Kind           Kind
	// TraceID is unique per request.
	TraceID     string
	Traceparent string
	Tracestate  string
	// Body is sent as it is, unless Content is set.
	Body []byte
	// Content, if not nil, is the body of a document by reference.
	Content *Content
}

// Answer is what the API said to a delivered request.
type Answer struct {
	// Status is the API's status code, for the record only.
	Status int
	// Duration is how long the request took until its answer was read.
	Duration time.Duration
}
