package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// cancelPatience is how long the right to send is tried for: longer than a dead relay's lease stays in the way.
const cancelPatience = 8 * time.Second

// Why an update was not taken back.
var (
	// ErrRelayRuns says that a relay has the right to send it, might do so at this very moment, and does not answer.
	ErrRelayRuns = errors.New("a relay has the right to send it and does not answer: either it has been without NATS for a moment, then try again; " +
		"or it, or you, lack a right to kex.replica.cancel.>, or it is of an older version: grant it, or stop every relay of the partition, try again, start them again")
	// ErrBeingSent says that a request of it is under way, or its result is being written.
	ErrBeingSent = errors.New("it is being sent at this moment, and how that ends decides: kexrelay trace tells it; try again if it is still waiting then")
	// ErrMayBeBooked says that a request of the update was made of which nobody knows how it ended.
	ErrMayBeBooked = errors.New("a request of it was begun and its answer is not known, so it may have been booked: look into the Vorgang; a relay decides about it when it runs")
	// ErrSettled says that the update has its result already, and only its ack is missing.
	ErrSettled = errors.New("it is settled already, and only still in the stream: a relay takes it out when it runs")
	// ErrCancelUnknown says that nobody knows yet whether it was taken back.
	ErrCancelUnknown = errors.New("it may be taken back or not, as nobody has confirmed it: kexrelay trace tells whether it is discarded or erased; else try again")
	// ErrNotOverwritten says that an update has its erased result and left the stream as a delivered one does.
	ErrNotOverwritten = errors.New("it is erased and is not sent, but it left the stream before it was overwritten: " +
		"its bytes may stay in the servers' files until they are compacted")
)

// Cancellation is the wish to take back updates that wait: they were published by mistake, or their content is to be
// erased.
type Cancellation struct {
	// Seq is the one that [Cancel] takes back.
	Seq uint64
	// Outcome is what the results say: update.Discarded, also if it is empty, or update.Erased.
	Outcome update.Outcome
	// Reason is for the results and the audit events, at most MaxCancelReason bytes.
	Reason string
	// Source is the CloudEvents source of the results.
	Source  string
	Auditor *Auditor
	// Name is who holds the lease meanwhile, as status shows it.
	Name string
	// Remove takes an update that has its result out of the stream, and reports whether it was there still. Nil deletes
	// it, which leaves its bytes in the servers' files for a while.
	Remove func(ctx context.Context, w Waiting) (there bool, err error)

	timing leaseTiming
}

// Cancel takes one update back, see [Cancellation.Each].
func Cancel(ctx context.Context, js jetstream.JetStream, c Cancellation) (Waiting, error) {
	w, err := NewUpdates(js).Get(ctx, c.Seq)
	if err != nil {
		return w, err
	}
	var refused error
	err = c.Each(ctx, js, []Waiting{w}, func(now Waiting, err error) error {
		w, refused = now, err
		return nil
	})
	return w, cmp.Or(err, refused)
}

// audit tells who takes it back. Told again it is the same event.
func (c Cancellation) audit(ctx context.Context, w Waiting) error {
	action := ActionCancel
	if c.Outcome == update.Erased {
		action = ActionErase
	}
	return c.Auditor.Audit(ctx, AuditEvent{
		ID: string(action) + "-" + Identity(w.Seq, w.StoredAt), Action: action, Reason: c.Reason,
		UpdateSeq: w.Seq, UpdateID: w.UpdateID, TraceID: w.TraceID, Vorgangsnummer: w.Vorgangsnummer, Kind: string(w.Kind),
	})
}

// unconfirmed is ErrCancelUnknown, and why.
func unconfirmed(why error) error { return fmt.Errorf("%w (%w)", ErrCancelUnknown, why) }

// deleteUpdate removes a settled update from its stream.
func deleteUpdate(ctx context.Context, js jetstream.JetStream, w Waiting) (there bool, err error) {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	stream, err := js.Stream(ctx, topology.StreamUpdates)
	if err == nil {
		err = stream.DeleteMsg(ctx, w.Seq)
	}
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		if _, gone := NewUpdates(js).Get(ctx, w.Seq); errors.Is(gone, ErrNoUpdate) {
			return false, nil // The relay was faster.
		}
	}
	return err == nil, Explain(fmt.Sprintf("taking update %d, which is settled now, out of %s", w.Seq, topology.StreamUpdates), js, err)
}

// Withdraw writes down that an update was taken back, as Discarded or Erased: its settlement. Repeating it writes nothing
// twice; ErrSettled says that the update has another one. Whoever calls it has the right to send the update and does not
// use it; answers are what its own requests came to. Other errors are those of Settle.
func (j *Journal) Withdraw(
	ctx context.Context, w Waiting, outcome update.Outcome, past update.Past, answers update.Answers, reason string,
) error {
	doing := fmt.Sprintf("writing the result of update %d", w.Seq)
	// The server's memory of the result's ID answers too, but not for ever.
	settled, there, err := j.results.Settlement(ctx, w)
	switch {
	case err != nil:
		return storageFault(ctx, doing, err)
	case there && settled.Data.Outcome == outcome:
		return nil
	case there:
		return fmt.Errorf("update %d: %w", w.Seq, ErrSettled)
	}
	if outcome == update.Discarded {
		reason = "cancelled: " + reason
	}
	ack, err := j.writeEvent(ctx, j.event(settlementID(w), EventData{
		UpdateID: w.UpdateID, Vorgangsnummer: w.Vorgangsnummer, Kind: w.Kind, Outcome: outcome, TraceID: w.TraceID,
		RequestID: past.RequestID, Attempts: past.Attempts, Detail: reason,
		Answers: answers, AnswersLeftOut: answers.LeftOut(),
		UpdateSeq: w.Seq, ReplayOf: w.ReplayOf, ReceivedAt: w.StoredAt, SettledAt: time.Now(),
	}, ""))
	if err != nil {
		return storageFault(ctx, doing, err)
	}
	if ack.Duplicate {
		stored, err := j.results.At(ctx, ack.Sequence)
		if err != nil {
			return storageFault(ctx, doing, err)
		}
		if stored.Data.Outcome != outcome {
			return fmt.Errorf("update %d: %w", w.Seq, ErrSettled)
		}
	}
	return nil
}

// settlementID is the ID of an update's one settlement, whatever it is.
func settlementID(w Waiting) string { return resultIDPrefix + Identity(w.Seq, w.StoredAt) }

// Settlement finds the result that settled an update, false if there is none, or none any more.
func (r *Results) Settlement(ctx context.Context, w Waiting) (e Event, found bool, err error) {
	filter := ResultFilter{
		Since: w.StoredAt.Add(-clockSlack), Vorgangsnummer: w.Vorgangsnummer, UpdateID: w.UpdateID,
		Outcomes: []update.Outcome{update.Delivered, update.DeadLettered, update.Discarded, update.Erased},
	}
	for e, err := range r.List(ctx, filter) {
		if err != nil || e.ID == settlementID(w) {
			return e, err == nil, err
		}
	}
	return Event{}, false, nil
}
