package journal

import (
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Doing is what the ledger says a relay was doing with an update.
type Doing string

// What a relay was doing.
const (
	// DoingOpening: it began to decode the update.
	DoingOpening Doing = "opening"
	// DoingSending: a request was begun of which no answer is recorded.
	DoingSending Doing = "sending"
	// DoingWaiting: the last request had an answer that settled nothing; the next one follows.
	DoingWaiting Doing = "waiting"
)

// InFlight is the ledger's last record of an update that is not settled, or was settled a moment ago.
type InFlight struct {
	Seq      uint64    `json:"updateSeq"`
	StoredAt time.Time `json:"storedAt"`
	Doing    Doing     `json:"doing"`
	// Attempts, Unknowns and Crashes are those of [update.Attempt].
	Attempts  int    `json:"attempts"`
	Unknowns  int    `json:"unknowns,omitempty"`
	Crashes   int    `json:"crashes,omitempty"`
	RequestID string `json:"requestId,omitempty"`
	// WrittenAt is when NATS stored the record, for one that was carried over from a former holder later than what it
	// tells of.
	WrittenAt time.Time `json:"writtenAt"`
	Partition int       `json:"partition"`
}

// ReadLedger gives the last record of each update in the ledger, by the update's sequence. It is for showing: what it
// says may be old before it is read, and nothing that sends may rest on it.
func ReadLedger(ctx context.Context, js jetstream.JetStream) (map[uint64]InFlight, error) {
	type seen struct {
		found

		at time.Time
	}
	last := map[key]seen{}
	scan := Scan{Stream: ledgerStream, Filters: []string{ledgerPrefix + ">"}}
	for msg, err := range scan.Messages(ctx, js) {
		if err != nil {
			return nil, err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return nil, err
		}
		writer, ok := parseLedgerSubject(msg.Subject())
		batch, err := decodeBatch(msg.Data())
		if !ok || err != nil {
			continue // Not ours: the relay tells of it.
		}
		for _, r := range batch.records {
			f := found{record: r, writer: writer, number: batch.number}
			if there, ok := last[r.key]; !ok || f.after(there.found) {
				last[r.key] = seen{found: f, at: meta.Timestamp}
			}
		}
	}
	out := make(map[uint64]InFlight, len(last))
	for k, s := range last {
		if there, ok := out[k.seq]; ok && there.StoredAt.UnixNano() > k.at {
			continue // Of an earlier stream of the same name.
		}
		out[k.seq] = InFlight{
			Seq: k.seq, StoredAt: time.Unix(0, k.at).UTC(), Doing: doing(s.record),
			Attempts: s.attempts, Unknowns: s.unknowns, Crashes: s.crashes, RequestID: strings.Clone(s.requestID),
			WrittenAt: utc(s.at), Partition: s.writer.partition,
		}
	}
	return out, nil
}

func doing(r record) Doing {
	switch r.state {
	case stateSending, stateReopening:
		return DoingSending
	case stateOpening:
		return DoingOpening
	case stateIdle:
	}
	return DoingWaiting
}
