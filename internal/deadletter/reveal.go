package deadletter

import (
	"context"
	"fmt"
	"strconv"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/journal"
)

// Reveal gives a dead letter's content, after an audit event that says so was confirmed: nothing is shown of which
// nobody would know.
func (s *Store) Reveal(ctx context.Context, letter Summary) (journal.Body, error) {
	msg, err := s.same(ctx, letter)
	if err != nil {
		return journal.Body{}, err
	}
	if err := s.tellReveal(ctx, letter); err != nil {
		return journal.Body{}, err
	}
	return s.body(ctx, msg)
}

func (s *Store) tellReveal(ctx context.Context, letter Summary) error {
	event := auditOf(journal.ActionReveal, letter)
	event.ID += "-" + uuid.NewString() // Each look is one of its own.
	return s.audit.Audit(ctx, event)
}

// same reads the dead letter that a summary was made of. ErrNotFound says that it is gone, also if another lies there.
func (s *Store) same(ctx context.Context, letter Summary) (*jetstream.RawStreamMsg, error) {
	msg, err := s.read(ctx, letter.Seq)
	if err != nil {
		return nil, err
	}
	if !msg.Time.Equal(letter.StoredAt) {
		return nil, fmt.Errorf("dead letter %d: %w", letter.Seq, ErrNotFound)
	}
	return msg, nil
}

// auditOf is the audit event of an action on a dead letter. The same action on the same one has the same ID.
func auditOf(action journal.Action, letter Summary) journal.AuditEvent {
	return journal.AuditEvent{
		ID:     string(action) + "-" + journal.Identity(letter.Seq, letter.StoredAt),
		Action: action, DeadLetterSeq: letter.Seq, UpdateSeq: letter.UpdateSeq, UpdateID: letter.UpdateID,
		TraceID: letter.TraceID, Vorgangsnummer: letter.Vorgangsnummer, Kind: string(letter.Kind),
		Details: map[string]string{"reason": string(letter.Reason), "replays": strconv.Itoa(letter.Replays)},
	}
}
