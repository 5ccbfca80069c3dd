package deadletter

import (
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// headerMsgSize has the size of a body that the server left away.
const headerMsgSize = "Nats-Msg-Size"

// Summary is what the headers of a dead letter tell. Members whose header is missing or not readable are zero: a list
// shows also what somebody else published into the stream.
type Summary struct {
	// Seq and StoredAt are the dead letter's own.
	Seq      uint64    `json:"seq"`
	StoredAt time.Time `json:"storedAt"`
	// Reason, Vorgangsnummer and Kind are the tokens of its subject.
	Reason         fault.Reason `json:"reason"`
	Vorgangsnummer string       `json:"vorgangsnummer"`
	Kind           update.Kind  `json:"kind"`
	// Subject is where the update was published to, at most 256 bytes of it.
	Subject   string    `json:"subject"`
	UpdateID  string    `json:"updateId"`
	UpdateSeq uint64    `json:"updateSeq,omitempty"`
	UpdateAt  time.Time `json:"updateAt,omitzero"`
	TraceID   string    `json:"traceId,omitempty"`
	// RequestID is the X-TraceId of the last request, empty if none was made.
	RequestID string `json:"requestId,omitempty"`
	// Status is the API's last status code, 0 where no answer came.
	Status   int    `json:"status,omitempty"`
	Detail   string `json:"detail,omitempty"`
	Attempts int    `json:"attempts"`
	// Answers are what the requests came to, if there was more than one: see [update.Answers].
	Answers        update.Answers `json:"answers,omitempty"`
	FirstAttemptAt time.Time      `json:"firstAttemptAt,omitzero"`
	DeadLetteredAt time.Time      `json:"deadLetteredAt,omitzero"`
	// MayBeBooked reports that the API may have booked the update: a request was sent and nobody knows what became of
	// it. A replay may book it a second time.
	MayBeBooked bool `json:"mayBeBooked,omitempty"`
	// Replays counts the replays the update has had.
	Replays int `json:"replays"`
	// Size is the body's, in bytes, wherever it lies.
	Size int64 `json:"size"`
	// BodyObject is <bucket>/<name> of the object that holds the body, empty if the dead letter itself does.
	BodyObject string `json:"bodyObject,omitempty"`
}

// summarize reads the headers. size is that of the message's own body, negative if only the header knows.
func summarize(subject string, header nats.Header, seq uint64, storedAt time.Time, size int64) Summary {
	s := Summary{
		Seq:            seq,
		StoredAt:       storedAt.UTC(),
		Subject:        header.Get(topology.HeaderUpdateSubject),
		UpdateID:       header.Get(topology.HeaderUpdateID),
		UpdateSeq:      uint64(max(0, integer(header, topology.HeaderUpdateSeq))),
		UpdateAt:       moment(header, topology.HeaderUpdateAt),
		TraceID:        header.Get(update.HeaderTraceID),
		RequestID:      header.Get(topology.HeaderRequestID),
		Status:         int(integer(header, topology.HeaderStatus)),
		Detail:         header.Get(topology.HeaderDetail),
		Attempts:       int(integer(header, topology.HeaderAttempts)),
		FirstAttemptAt: moment(header, topology.HeaderFirstAttemptAt),
		DeadLetteredAt: moment(header, topology.HeaderDeadLetteredAt),
		Replays:        int(integer(header, topology.HeaderReplays)),
		Size:           size,
		BodyObject:     header.Get(topology.HeaderBodyObject),
	}
	if tokens := strings.Split(subject, "."); len(tokens) == 5 {
		s.Reason, s.Vorgangsnummer, s.Kind = fault.Reason(tokens[2]), tokens[3], update.Kind(tokens[4])
	}
	s.Answers = update.ParseAnswers(header.Get(topology.HeaderAnswers), s.RequestID, s.Attempts)
	s.MayBeBooked = header.Get(topology.HeaderMayBeBooked) == "true" ||
		s.Reason == fault.UnknownOutcome || s.Reason == fault.CrashLoop && s.Attempts > 0
	switch {
	case s.BodyObject != "":
		s.Size = integer(header, topology.HeaderBodySize)
	case size < 0:
		s.Size = integer(header, headerMsgSize)
	}
	return s
}

func integer(header nats.Header, name string) int64 {
	n, err := strconv.ParseInt(header.Get(name), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func moment(header nats.Header, name string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, header.Get(name))
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}
