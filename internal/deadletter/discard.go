package deadletter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/journal"
	"kexrelay/internal/update"
)

// takeOverAge is how long ago a replay must have been begun before a discard may take its claim: whoever began it
// is not at it any more.
const takeOverAge = 10 * time.Minute

// ErrClaimed says that somebody else has begun something else with a dead letter.
var ErrClaimed = errors.New("it is left as it is")

// DiscardOptions says how to discard.
type DiscardOptions struct {
	// Because is the operator's reason, for the audit event and the result event. It must not be empty.
	Because string
	// Force discards also what somebody began to replay more than ten minutes ago, if it is not known to be published.
	Force bool
}

// Discarded is what became of one dead letter. Err is nil if it is discarded now.
type Discarded struct {
	Seq            uint64
	UpdateID       string
	Vorgangsnummer string
	Kind           update.Kind
	TraceID        string
	Err            error
}

// Discard removes a dead letter for good: an audit event and a discarded event are confirmed first, then its body's
// object and it itself go. Interrupted, the next call goes on. A dead letter of which a replay was begun is not
// discarded.
//
// What concerns the one dead letter alone is in Discarded.Err; the error is of NATS or ctx.
func (s *Store) Discard(ctx context.Context, seq uint64, opts DiscardOptions) (Discarded, error) {
	done := Discarded{Seq: seq}
	msg, err := s.read(ctx, seq)
	if errors.Is(err, ErrNotFound) {
		done.Err = err
		return done, nil
	}
	if err != nil {
		return done, err
	}
	letter := summarize(msg.Subject, msg.Header, msg.Sequence, msg.Time, int64(len(msg.Data)))
	done.UpdateID, done.Vorgangsnummer, done.Kind, done.TraceID = letter.UpdateID, letter.Vorgangsnummer, letter.Kind, letter.TraceID
	err = s.discard(ctx, msg, letter, opts)
	if errors.Is(err, ErrClaimed) {
		done.Err, err = err, nil
	}
	return done, err
}

func (s *Store) discard(ctx context.Context, msg *jetstream.RawStreamMsg, letter Summary, opts DiscardOptions) error {
	if err := s.claim(ctx, letter, journal.PurposeDiscard, opts.Force); err != nil {
		return err
	}
	if err := s.done(stepClaimed); err != nil {
		return err
	}
	event := auditOf(journal.ActionDiscard, letter)
	event.Reason = opts.Because
	if err := s.audit.Audit(ctx, event); err != nil {
		return err
	}
	if known(letter) {
		if err := s.journal.Notice(ctx, noticeOf(update.Discarded, letter, opts.Because)); err != nil {
			return err
		}
	}
	if err := s.done(stepTold); err != nil {
		return err
	}
	for _, object := range objectsOf(letter, msg.Data) {
		if err := s.bodies.Remove(ctx, object); err != nil {
			return err
		}
	}
	if err := s.done(stepBodyRemoved); err != nil {
		return err
	}
	return s.remove(ctx, letter)
}

// claim makes the claim of a dead letter for a purpose. ErrClaimed says that it has another already.
func (s *Store) claim(ctx context.Context, letter Summary, purpose journal.Purpose, force bool) error {
	_, _, err := s.claims.Acquire(ctx, journal.Claim{
		DeadLetterSeq: letter.Seq, DeadLetterAt: letter.StoredAt,
		UpdateID: letter.UpdateID, TraceID: letter.TraceID, Replays: letter.Replays, Purpose: purpose,
	})
	other, claimed := errors.AsType[*journal.ClaimedError](err)
	if !claimed {
		return err
	}
	if !force {
		return fmt.Errorf("%w: %w", ErrClaimed, err)
	}
	theirs := other.Claim
	found, err := s.search(ctx, letter, theirs)
	switch {
	case err != nil:
		return err
	case theirs.Published() || found.updateSeq != 0:
		return fmt.Errorf("%w: it was sent again already: %w", ErrClaimed, other)
	case time.Since(theirs.WrittenAt()) < takeOverAge:
		return fmt.Errorf("%w: %w; --force takes it away after %s only", ErrClaimed, other, takeOverAge)
	}
	theirs.Purpose = purpose
	_, err = s.claims.Change(ctx, theirs)
	return err
}

// known reports whether a dead letter tells enough for an event about its update: one that somebody else published into
// the stream does not.
func known(letter Summary) bool {
	token, err := journal.VorgangToken(letter.Vorgangsnummer)
	return err == nil && token != "*" && update.ValidID(letter.UpdateID) &&
		slices.Contains(append(update.Kinds(), update.Invalid), letter.Kind)
}

// noticeOf is the event that tells of something done to a dead letter.
func noticeOf(outcome update.Outcome, letter Summary, because string) journal.Notice {
	return journal.Notice{
		Outcome: outcome,
		Key:     journal.Identity(letter.Seq, letter.StoredAt),
		Data: journal.EventData{
			UpdateID: letter.UpdateID, Vorgangsnummer: letter.Vorgangsnummer, Kind: letter.Kind, TraceID: letter.TraceID,
			Attempts: letter.Attempts, UpdateSeq: letter.UpdateSeq, DeadLetterSeq: letter.Seq, Detail: because,
		},
	}
}
