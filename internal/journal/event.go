package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// The fixed words of an event.
const (
	cloudEventsVersion = "1.0"
	eventContentType   = "application/cloudevents+json"
	dataContentType    = "application/json"
	eventTypePrefix    = "kexrelay.update."
	eventTypeSuffix    = ".v1"
	deliveredType      = eventTypePrefix + string(update.Delivered) + eventTypeSuffix // The usual one.
	// dataSchema is the $id of the schema of an event's data.
	dataSchema = "urn:kexrelay:schema:result-data:v1"

	headerContentType = "Content-Type"
	// maxDetail bounds the detail in an event and in a dead letter's header, in bytes.
	maxDetail = 1024
)

// ErrNoEvent says that there is no result event where one was looked for.
var ErrNoEvent = errors.New("no result event")

// Event is a result event: a CloudEvents 1.0 envelope around what happened to one update. Optional members are
// absent, not empty.
type Event struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"` // Also the message's Nats-Msg-Id.
	Source          string    `json:"source"`
	Type            string    `json:"type"` // kexrelay.update.<outcome>.v1.
	Subject         string    `json:"subject"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	DataSchema      string    `json:"dataschema"`
	TraceID         string    `json:"traceid,omitempty"`
	Traceparent     string    `json:"traceparent,omitempty"`
	Data            EventData `json:"data"`
	// Seq is the event's sequence in KEX_RESULTS, 0 for one that was not read from there.
	Seq uint64 `json:"-"`
}

// EventData is what an event tells. It never holds content, file names, comments or secrets.
type EventData struct {
	UpdateID string `json:"updateId"`
	// Vorgangsnummer is update.NoVorgangsnummer if the update's subject had no valid one.
	Vorgangsnummer string         `json:"vorgangsnummer"`
	Kind           update.Kind    `json:"kind"`
	Outcome        update.Outcome `json:"outcome"`
	TraceID        string         `json:"traceId,omitempty"`
	// PublisherTraceID is what the publisher wrote as X-TraceId if that could not be used.
	PublisherTraceID string `json:"publisherTraceId,omitempty"`
	// RequestID is the X-TraceId of the last request, absent if none was made.
	RequestID string `json:"requestId,omitempty"`
	// Status is the API's last status code, absent where no answer came.
	Status int `json:"status,omitempty"`
	// Attempts counts the requests made for the update.
	Attempts int `json:"attempts"`
	// Answers are what the requests came to, if there was more than one: the first ones and the last, those of the
	// process that settled the update. AnswersLeftOut counts those in between.
	Answers           update.Answers `json:"answers,omitempty"`
	AnswersLeftOut    int            `json:"answersLeftOut,omitempty"`
	PossibleDuplicate bool           `json:"possibleDuplicate,omitempty"`
	Reason            fault.Reason   `json:"reason,omitempty"`
	Detail            string         `json:"detail,omitempty"`
	// UpdateSeq is the update's sequence in KEX_UPDATES; in a replayed event that of the new message.
	UpdateSeq uint64 `json:"updateSeq,omitempty"`
	// DeadLetterSeq is the sequence in KEX_DEADLETTERS of the dead letter the event is about.
	DeadLetterSeq uint64 `json:"deadLetterSeq,omitempty"`
	// ReplayOf is the sequence of the dead letter the update is a replay of.
	ReplayOf uint64 `json:"replayOf,omitempty"`
	// ReceivedAt is when NATS stored the update.
	ReceivedAt time.Time `json:"receivedAt,omitzero"`
	SettledAt  time.Time `json:"settledAt"`
	// DurationMs is the time between the two in whole milliseconds, nil without ReceivedAt.
	DurationMs *int64 `json:"durationMs,omitempty"`
}

// settlementEvent is the result event of a settlement. Its ID depends on the update's identity alone, not on how it
// ended: an update has one settlement.
func (j *Journal) settlementEvent(s *update.Settlement, deadLetterSeq uint64) Event {
	u := s.Update
	data := EventData{
		UpdateID:          u.ID,
		Vorgangsnummer:    u.Vorgangsnummer,
		Kind:              u.Kind,
		Outcome:           s.Outcome,
		TraceID:           u.TraceID,
		PublisherTraceID:  u.PublisherTraceID,
		RequestID:         s.RequestID,
		Status:            s.Status,
		Attempts:          s.Attempts,
		Answers:           s.Answers,
		AnswersLeftOut:    s.Answers.LeftOut(),
		PossibleDuplicate: s.PossibleDuplicate,
		Reason:            s.Reason,
		Detail:            s.Detail,
		UpdateSeq:         u.Seq,
		DeadLetterSeq:     deadLetterSeq,
		ReceivedAt:        u.StoredAt,
		SettledAt:         s.SettledAt,
	}
	if u.Replay != nil {
		data.ReplayOf = u.Replay.DeadLetterSeq
	}
	return j.event(resultID(u), data, u.Traceparent)
}

// event puts data into its envelope and bounds what others have written into it.
func (j *Journal) event(id string, data EventData, traceparent string) Event {
	data.Detail = printable(data.Detail, maxDetail)
	data.ReceivedAt = utc(data.ReceivedAt)
	data.SettledAt = utc(data.SettledAt)
	if !data.ReceivedAt.IsZero() {
		data.DurationMs = new(max(0, data.SettledAt.Sub(data.ReceivedAt).Milliseconds()))
	}
	kind := deliveredType
	if data.Outcome != update.Delivered {
		kind = eventTypePrefix + string(data.Outcome) + eventTypeSuffix
	}
	return Event{
		SpecVersion:     cloudEventsVersion,
		ID:              id,
		Source:          j.cfg.Source,
		Type:            kind,
		Subject:         data.Vorgangsnummer + "/" + string(data.Kind),
		Time:            data.SettledAt,
		DataContentType: dataContentType,
		DataSchema:      dataSchema,
		TraceID:         data.TraceID,
		Traceparent:     traceparent,
		Data:            data,
	}
}

// utc drops the location and the monotonic clock, so that an event read back equals the one that was written.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.Round(0).UTC()
}

// message is the event as it is published. The headers repeat what filters and indexes need without decoding.
func (e *Event) message() (*nats.Msg, error) {
	body, err := e.encode()
	if err != nil {
		return nil, fmt.Errorf("encoding the %s event: %w", e.Data.Outcome, err)
	}
	// One array for all values, and a map that need not grow: this runs once per update.
	values := make([]string, 0, 8)
	header := make(nats.Header, cap(values))
	put := func(name, value string) {
		if value != "" {
			n := len(values)
			values = append(values, value)
			header[name] = values[n : n+1 : n+1]
		}
	}
	put(jetstream.MsgIDHeader, e.ID)
	put(headerContentType, eventContentType)
	put(topology.HeaderOutcome, string(e.Data.Outcome))
	put(topology.HeaderUpdateID, e.Data.UpdateID)
	put(update.HeaderTraceID, e.TraceID)
	put(update.HeaderTraceparent, e.Traceparent)
	if e.Data.UpdateSeq != 0 {
		put(topology.HeaderUpdateSeq, strconv.FormatUint(e.Data.UpdateSeq, 10))
	}
	if !e.Data.ReceivedAt.IsZero() {
		put(topology.HeaderUpdateAt, e.Data.ReceivedAt.Format(time.RFC3339Nano))
	}
	return &nats.Msg{
		Subject: topology.ResultSubject(e.Data.Outcome, e.Data.Vorgangsnummer, e.Data.Kind),
		Header:  header,
		Data:    body,
	}, nil
}

// decodeEvent reads an event as it lies in KEX_RESULTS.
func decodeEvent(body []byte, seq uint64) (Event, error) {
	var e Event
	if err := json.Unmarshal(body, &e); err != nil {
		return Event{}, fmt.Errorf("decoding message %d of %s: %w", seq, topology.StreamResults, err)
	}
	if e.SpecVersion != cloudEventsVersion || e.Data.Outcome == "" {
		return Event{}, fmt.Errorf("decoding message %d of %s: %w", seq, topology.StreamResults, ErrNoEvent)
	}
	e.Seq = seq
	return e, nil
}
