package deadletter

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/journal"
	"kexrelay/internal/update"
)

// What Edit says about a body that it does not send.
var (
	// ErrUnchanged says that it is what the dead letter has already.
	ErrUnchanged = errors.New("nothing was changed")
	// ErrInvalidBody says that it would only become a dead letter again.
	ErrInvalidBody = errors.New("the new content is not valid")
	// ErrTooLarge says that it is larger than a message may be.
	ErrTooLarge = errors.New("the new content is larger than the server takes (max_payload): publish it anew with kexrelay publish, then discard the dead letter")
)

// Editable gives a dead letter's body to be edited. With reveal it is going to be shown: an audit event says so first.
// A dead letter that can never be accepted at its subject is refused.
func (s *Store) Editable(ctx context.Context, letter Summary, reveal bool) (journal.Body, error) {
	if _, _, err := destination(letter); err != nil {
		return journal.Body{}, err
	}
	if reveal {
		return s.Reveal(ctx, letter)
	}
	msg, err := s.same(ctx, letter)
	if err != nil {
		return journal.Body{}, err
	}
	return s.body(ctx, msg)
}

// CheckEdit says whether a body could be sent in place of a dead letter's: nil or ErrInvalidBody with why.
func CheckEdit(letter Summary, body []byte) error {
	_, err := update.Decode(update.Message{Subject: letter.Subject, Body: body, Seq: letter.UpdateSeq, StoredAt: letter.UpdateAt},
		func() string { return letter.TraceID })
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidBody, err)
	}
	return nil
}

// Edit sends the update of a dead letter with another body, as its replay: under its update and trace ID, once, whoever
// else does something with it at the same time. An audit event with the digests of both bodies is confirmed before.
//
// ErrNotFound says that the dead letter was removed meanwhile; ErrClaimed that somebody began something else with it.
// The result is Duplicate if a former edit of it was sent already: then that one counts and not this.
func (s *Store) Edit(ctx context.Context, letter Summary, body []byte) (Item, error) {
	item := Item{
		Seq: letter.Seq, UpdateID: letter.UpdateID, TraceID: letter.TraceID, Vorgangsnummer: letter.Vorgangsnummer, Kind: letter.Kind,
	}
	msg, err := s.same(ctx, letter)
	if err != nil {
		return item, err
	}
	to := letter
	if to.Vorgangsnummer, to.Kind, err = destination(letter); err != nil {
		return item, err
	}
	if err := CheckEdit(letter, body); err != nil {
		return item, err
	}
	was, err := s.body(ctx, msg)
	if err != nil && !errors.Is(err, journal.ErrNoBody) { // One that lost its body can be given a new one.
		return item, err
	}
	before, after := digestOf(was.Data), digestOf(body)
	if err == nil && before == after {
		return item, ErrUnchanged
	}
	claim, told, err := s.claimEdit(ctx, to, after)
	if err != nil {
		return item, err
	}
	if err := s.done(stepClaimed); err != nil {
		return item, err
	}
	item.Result = Duplicate
	if !claim.Published() {
		event := auditOf(journal.ActionEdit, letter)
		event.ID += "-" + after
		event.DigestBefore, event.DigestAfter = before, after
		if err := s.audit.Audit(ctx, event); err != nil {
			return item, err
		}
		if claim, err = s.publishEdit(ctx, to, claim, msg, journal.Body{Data: body, Header: was.Header}); err != nil {
			return item, err
		}
		item.Result = Replayed
	}
	item.UpdateSeq = claim.UpdateSeq
	return item, s.conclude(ctx, to, claim, told)
}

// claimEdit makes the claim for a body, or goes on with an edit that was interrupted: if that one was published it
// counts, else this one takes its place.
func (s *Store) claimEdit(ctx context.Context, letter Summary, digest string) (claim journal.Claim, told bool, err error) {
	claim, created, err := s.claims.Acquire(ctx, journal.Claim{
		DeadLetterSeq: letter.Seq, DeadLetterAt: letter.StoredAt, UpdateID: letter.UpdateID, TraceID: letter.TraceID,
		Replays: letter.Replays + 1, MayBeBooked: letter.MayBeBooked, Purpose: journal.PurposeEdit, BodyDigest: digest,
	})
	if _, claimed := errors.AsType[*journal.ClaimedError](err); claimed {
		return claim, false, fmt.Errorf("%w: %w", ErrClaimed, err)
	}
	if err != nil || created {
		return claim, false, err
	}
	found, err := s.search(ctx, letter, claim)
	switch {
	case err != nil:
		return claim, false, err
	case claim.Published():
		return claim, found.told, nil
	case found.updateSeq != 0:
		claim, err = s.mark(ctx, claim, found.updateSeq)
		return claim, found.told, err
	case !found.certain:
		return claim, false, fmt.Errorf("dead letter %d: %w", letter.Seq, ErrUnsure)
	}
	claim.BodyDigest = digest
	claim, err = s.claims.Change(ctx, claim)
	return claim, false, err
}

// publishEdit publishes the new body and marks the claim.
func (s *Store) publishEdit(ctx context.Context, letter Summary, claim journal.Claim, msg *jetstream.RawStreamMsg, body journal.Body) (journal.Claim, error) {
	ack, err := s.publisher.Publish(ctx, replayMessage(msg, letter, claim, body, true))
	if tooLarge(err) {
		ack, err = s.publisher.Publish(ctx, replayMessage(msg, letter, claim, body, false))
	}
	if tooLarge(err) {
		return claim, fmt.Errorf("dead letter %d: %w", letter.Seq, ErrTooLarge)
	}
	if err != nil {
		return claim, err
	}
	if err := s.done(stepPublished); err != nil {
		return claim, err
	}
	return s.mark(ctx, claim, ack.Sequence)
}
