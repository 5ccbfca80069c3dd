package deadletter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// step is a step of a replay after which it may be interrupted.
type step string

// The steps in their order. Before published nothing has happened to the update; after marked everybody knows that
// it is published; between the two only its message or its result can tell.
const (
	stepClaimed     step = "claimed"
	stepPublished   step = "published"
	stepMarked      step = "marked"
	stepTold        step = "told"
	stepBodyRemoved step = "body removed"
)

// ErrUnsure says that a replay was interrupted so long ago that nobody can know whether it was published: its result,
// if it had one, has expired.
var ErrUnsure = errors.New("an interrupted replay may have been published: look in the Vorgang, " +
	"then replay it as unsure or leave it")

// What concerns one dead letter alone: the run goes on.
var (
	// errNoWay: sending it back can do no good.
	errNoWay = errors.New("it is not replayed")
	// errUnfit: it went wrong, and somebody has to look after it.
	errUnfit = errors.New("it cannot be replayed as it is")
)

// replay takes one dead letter through the steps, beginning where the last try ended. The error is of NATS and would
// hit every dead letter alike; what concerns this one is in the item.
func (s *Store) replay(ctx context.Context, which planned, unsure bool) (Item, error) {
	seq := which.seq
	msg, err := s.read(ctx, seq)
	if err == nil && msg.Time.UnixNano() != which.storedAt { // Of a stream that was made anew.
		err = fmt.Errorf("dead letter %d: %w", seq, ErrNotFound)
	}
	if errors.Is(err, ErrNotFound) {
		return Item{Seq: seq, Result: Skipped, Err: err}, nil
	}
	if err != nil {
		return Item{}, err
	}
	letter := summarize(msg.Subject, msg.Header, msg.Sequence, msg.Time, int64(len(msg.Data)))
	item := Item{
		Seq: seq, UpdateID: letter.UpdateID, TraceID: letter.TraceID,
		Vorgangsnummer: letter.Vorgangsnummer, Kind: letter.Kind,
	}
	letter.Vorgangsnummer, letter.Kind, err = destination(letter)
	if err == nil {
		err = s.replayLetter(ctx, msg, letter, unsure, &item)
	}
	_, claimed := errors.AsType[*journal.ClaimedError](err)
	switch {
	case claimed, errors.Is(err, errNoWay), errors.Is(err, ErrUnsure):
		item.Result, item.Err = Skipped, err
	case errors.Is(err, ErrNotFound): // Somebody else was faster and has finished it.
		item.Result, item.Err = Skipped, err
	case errors.Is(err, errUnfit):
		item.Result, item.Err = Failed, err
	case err != nil:
		return Item{}, fmt.Errorf("replaying dead letter %d: %w", seq, err)
	}
	return item, nil
}

// destination is where the update goes again. What would only become the same dead letter once more, or go
// somewhere else (a subject that was cut or made printable), is refused.
func destination(letter Summary) (vorgangsnummer string, kind update.Kind, err error) {
	if letter.Subject == "" || letter.UpdateID == "" {
		return "", "", fmt.Errorf("message %d is no dead letter of the relay, %s or %s is missing: %w",
			letter.Seq, topology.HeaderUpdateSubject, topology.HeaderUpdateID, errNoWay)
	}
	vorgangsnummer, kind, err = update.ParseSubject(letter.Subject)
	if err != nil {
		return "", "", fmt.Errorf("dead letter %d can never be accepted at its subject, publish it anew to a right one: %w: %w",
			letter.Seq, errNoWay, err)
	}
	return vorgangsnummer, kind, nil
}

func (s *Store) replayLetter(ctx context.Context, msg *jetstream.RawStreamMsg, letter Summary, unsure bool, item *Item) error {
	claim, created, err := s.claims.Acquire(ctx, journal.Claim{
		DeadLetterSeq: letter.Seq, DeadLetterAt: letter.StoredAt,
		UpdateID: letter.UpdateID, TraceID: letter.TraceID, Replays: letter.Replays + 1, MayBeBooked: letter.MayBeBooked,
	})
	if err != nil {
		return err
	}
	if err := s.done(stepClaimed); err != nil {
		return err
	}
	told := false
	item.Result = Duplicate
	if !created {
		var found evidence
		if found, err = s.search(ctx, letter, claim); err != nil {
			return err
		}
		told, item.End = found.told, found.end
		switch {
		case claim.Published():
		case found.updateSeq != 0:
			claim, err = s.mark(ctx, claim, found.updateSeq)
		case !found.certain && !unsure:
			return fmt.Errorf("dead letter %d: %w", letter.Seq, ErrUnsure)
		}
		if err != nil {
			return err
		}
	}
	if !claim.Published() {
		if claim, err = s.publish(ctx, msg, letter, claim, item); err != nil {
			return err
		}
	}
	item.UpdateSeq = claim.UpdateSeq
	return s.conclude(ctx, letter, claim, told)
}

// publish publishes the update again and marks the claim.
func (s *Store) publish(ctx context.Context, msg *jetstream.RawStreamMsg, letter Summary, claim journal.Claim, item *Item) (journal.Claim, error) {
	body, err := s.body(ctx, msg)
	if errors.Is(err, journal.ErrNoBody) {
		return claim, s.bodyGone(ctx, claim, err)
	}
	if err != nil {
		return claim, err
	}
	ack, err := s.publisher.Publish(ctx, replayMessage(msg, letter, claim, body, true))
	if tooLarge(err) {
		ack, err = s.publisher.Publish(ctx, replayMessage(msg, letter, claim, body, false))
	}
	if tooLarge(err) {
		return claim, fmt.Errorf("dead letter %d with the headers of a replay is larger than the server takes, "+
			"raise max_payload by 1 KiB and replay it then: %w: %w", letter.Seq, errUnfit, err)
	}
	if err != nil {
		return claim, err
	}
	if !ack.Duplicate {
		item.Result = Replayed
	}
	if err := s.done(stepPublished); err != nil {
		return claim, err
	}
	return s.mark(ctx, claim, ack.Sequence)
}

// bodyGone tells a body that somebody else removed while finishing the same replay from one that is lost.
func (s *Store) bodyGone(ctx context.Context, claim journal.Claim, err error) error {
	theirs, found, getErr := s.claims.Get(ctx, claim.DeadLetterSeq, claim.DeadLetterAt)
	if getErr != nil {
		return getErr
	}
	if found && theirs.Published() {
		return fmt.Errorf("dead letter %d: %w", claim.DeadLetterSeq, ErrNotFound)
	}
	return fmt.Errorf("dead letter %d has lost its body: %w: %w", claim.DeadLetterSeq, errUnfit, err)
}

func tooLarge(err error) bool {
	refused, ok := errors.AsType[*journal.PublishError](err)
	return ok && refused.Refusal == journal.RefusedMessage
}

func (s *Store) mark(ctx context.Context, claim journal.Claim, updateSeq uint64) (journal.Claim, error) {
	claim, err := s.claims.Mark(ctx, claim, updateSeq)
	if err != nil {
		return claim, err
	}
	return claim, s.done(stepMarked)
}

// conclude tells of a published replay and removes the dead letter. The body object goes before it: an interruption
// in between leaves no object that nothing names, and the body is no longer needed.
func (s *Store) conclude(ctx context.Context, letter Summary, claim journal.Claim, told bool) error {
	if !told {
		if err := s.tell(ctx, letter, claim); err != nil {
			return err
		}
	}
	if err := s.done(stepTold); err != nil {
		return err
	}
	if letter.BodyObject != "" {
		if err := s.bodies.Remove(ctx, letter.BodyObject); err != nil {
			return err
		}
	}
	if err := s.done(stepBodyRemoved); err != nil {
		return err
	}
	return s.remove(ctx, letter)
}

func (s *Store) tell(ctx context.Context, letter Summary, claim journal.Claim) error {
	return s.journal.Notice(ctx, journal.Notice{
		Outcome: update.Replayed,
		Key:     journal.Identity(letter.Seq, letter.StoredAt),
		Data: journal.EventData{
			UpdateID:       letter.UpdateID,
			Vorgangsnummer: letter.Vorgangsnummer,
			Kind:           letter.Kind,
			TraceID:        letter.TraceID,
			Attempts:       letter.Attempts,
			UpdateSeq:      claim.UpdateSeq,
			DeadLetterSeq:  letter.Seq,
			ReplayOf:       letter.Seq,
		},
	})
}

// remove removes the dead letter. One that is gone already was removed by somebody who continued the same claim.
func (s *Store) remove(ctx context.Context, letter Summary) error {
	call, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	stream, err := s.stream(call, topology.StreamDeadLetters)
	if err != nil {
		return err
	}
	err = stream.DeleteMsg(call, letter.Seq)
	if err == nil {
		return nil
	}
	if _, there := s.read(ctx, letter.Seq); errors.Is(there, ErrNotFound) {
		return nil
	}
	return journal.Explain("removing the replayed dead letter", s.js, err)
}

func (s *Store) done(at step) error {
	if s.interrupt == nil {
		return nil
	}
	return s.interrupt(at)
}

// replayMessage is the update as it is published again: its body, the publisher's headers, and what makes it a
// replay. What the claim says too is left away unless full: a body that filled its first message leaves little room.
func replayMessage(msg *jetstream.RawStreamMsg, letter Summary, claim journal.Claim, body journal.Body, full bool) *nats.Msg {
	header := nats.Header{
		jetstream.MsgIDHeader:   {claim.MsgID},
		topology.HeaderReplayOf: {strconv.FormatUint(claim.DeadLetterSeq, 10)},
	}
	if full {
		header[topology.HeaderUpdateID] = []string{claim.UpdateID}
		header[topology.HeaderReplays] = []string{strconv.Itoa(claim.Replays)}
	}
	theirs := maps.Clone(msg.Header)
	maps.Copy(theirs, body.Header)
	for name, values := range theirs {
		if journal.PublishersOwn(name) && (full || name != update.HeaderTraceID) {
			header[name] = values
		}
	}
	return &nats.Msg{Subject: letter.Subject, Header: header, Data: body.Data}
}
