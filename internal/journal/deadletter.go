package journal

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

const (
	// maxDeadLetterHeaders is how many bytes of headers a dead letter carries; more go with its body into an object.
	maxDeadLetterHeaders = 8 << 10
	// maxSubject bounds Kex-Update-Subject. No valid subject is near it, so a cut one can never pass for one.
	maxSubject = 256
	maxIDs     = 512 // Of an update or request ID, which are bounded where they are made.
)

// DeadLetterID is the Nats-Msg-Id of an update's dead letter.
func DeadLetterID(u *update.Update) string { return "deadletter-" + identity(u) }

// DeadLetter writes the dead letter of a settlement alone, as one that was exported comes back. Errors are those of
// Settle.
func (j *Journal) DeadLetter(ctx context.Context, s *update.Settlement) (*jetstream.PubAck, error) {
	ack, err := j.writeDeadLetter(ctx, s)
	if err != nil {
		return nil, storageFault(ctx, fmt.Sprintf("writing the dead letter of update %d", s.Update.Seq), err)
	}
	return ack, nil
}

// writeDeadLetter publishes the dead letter of a settlement. Of a repeat the acknowledgement has the sequence of the
// one already there.
func (j *Journal) writeDeadLetter(ctx context.Context, s *update.Settlement) (*jetstream.PubAck, error) {
	msg, left := deadLetterMessage(s)
	if len(left) == 0 && int64(headerSize(msg.Header)+len(msg.Data)) <= j.cfg.MaxPayload() {
		ack, err := j.publisher.Publish(ctx, msg)
		if err == nil {
			return ack, nil
		}
		if !messageRefused(err) {
			return nil, err
		}
		// The server takes less than it says, e.g. by the stream's MaxMsgSize: the same way out as above max_payload.
	}
	ref, err := j.bodies.store(ctx, s.Update, left, j.cfg.MaxPayload())
	if err != nil {
		return nil, err
	}
	msg.Data = nil
	ref.describe(msg.Header)
	return j.publisher.Publish(ctx, msg)
}

// deadLetterMessage is the dead letter with the whole body, and the publisher's headers that found no room in it.
func deadLetterMessage(s *update.Settlement) (msg *nats.Msg, left nats.Header) {
	u := s.Update
	header := nats.Header{
		jetstream.MsgIDHeader:         {DeadLetterID(u)},
		topology.HeaderReason:         {string(s.Reason)},
		topology.HeaderAttempts:       {strconv.Itoa(s.Attempts)},
		topology.HeaderUpdateSeq:      {strconv.FormatUint(u.Seq, 10)},
		topology.HeaderUpdateAt:       {timestamp(u.StoredAt)},
		topology.HeaderDeadLetteredAt: {timestamp(s.SettledAt)},
		topology.HeaderReplays:        {"0"},
	}
	if u.Replay != nil {
		header[topology.HeaderReplays] = []string{strconv.Itoa(u.Replay.Replays)}
	}
	set(header, topology.HeaderUpdateID, printable(u.ID, maxIDs))
	set(header, topology.HeaderUpdateSubject, printable(u.Subject, maxSubject))
	set(header, topology.HeaderDetail, printable(s.Detail, maxDetail))
	set(header, topology.HeaderRequestID, printable(s.RequestID, maxIDs))
	set(header, update.HeaderTraceID, printable(u.TraceID, maxIDs))
	set(header, topology.HeaderAnswers, s.Answers.String())
	if s.Status != 0 {
		header[topology.HeaderStatus] = []string{strconv.Itoa(s.Status)}
	}
	if s.MayBeBooked || s.PossibleDuplicate {
		header[topology.HeaderMayBeBooked] = []string{"true"}
	}
	if !s.FirstAttemptAt.IsZero() {
		header[topology.HeaderFirstAttemptAt] = []string{timestamp(s.FirstAttemptAt)}
	}
	if !carries(u.Header, update.HeaderTraceparent) {
		set(header, update.HeaderTraceparent, u.Traceparent) // Of a trace that began here: a replay is linked to it.
	}
	left = addPublishers(header, u.Header)
	return &nats.Msg{
		Subject: topology.DeadLetterSubject(s.Reason, u.Vorgangsnummer, u.Kind),
		Header:  header,
		Data:    u.Body,
	}, left
}

// addPublishers adds the publisher's headers while there is room, in the order of their names, so that a repeat
// makes the same message, and returns the rest. The trace ID is the update's, which is already there: the publisher's
// may have been unusable.
func addPublishers(header nats.Header, theirs map[string][]string) (left nats.Header) {
	size := headerSize(header)
	for _, name := range slices.Sorted(maps.Keys(theirs)) {
		if !PublishersOwn(name) || strings.EqualFold(name, update.HeaderTraceID) {
			continue
		}
		if size += linesSize(name, theirs[name]); size <= maxDeadLetterHeaders {
			header[name] = theirs[name]
			continue
		}
		size -= linesSize(name, theirs[name])
		if left == nil {
			left = nats.Header{}
		}
		left[name] = theirs[name]
	}
	return left
}

// carries reports whether the publisher wrote a header, in any case.
func carries(theirs map[string][]string, name string) bool {
	for other := range theirs {
		if strings.EqualFold(other, name) {
			return true
		}
	}
	return false
}

// timestamp writes a time as every header has it: RFC 3339 in UTC with nanoseconds.
func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
