package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// cancelPatience is how long the right to send is tried for: longer than a dead relay's lease stays in the way.
const cancelPatience = 8 * time.Second

// Why an update was not cancelled.
var (
	// ErrRelayRuns says that a relay has the right to send it, might do so at this very moment, and does not answer.
	ErrRelayRuns = errors.New("a relay has the right to send it and does not answer: either it has been without NATS for a moment, then cancel again; " +
		"or it, or you, lack a right to kex.replica.cancel.>, or it is of an older version: grant it, or stop every relay of the partition, cancel, start them again")
	// ErrBeingSent says that a request of it is under way, or its result is being written.
	ErrBeingSent = errors.New("it is being sent at this moment, and how that ends decides: kexrelay trace tells it; cancel again if it is still waiting then")
	// ErrMayBeBooked says that a request of the update was made of which nobody knows how it ended.
	ErrMayBeBooked = errors.New("a request of it was begun and its answer is not known, so it may have been booked: look into the Vorgang; a relay decides about it when it runs")
	// ErrSettled says that the update has its result already, and only its ack is missing.
	ErrSettled = errors.New("it is settled already, and only still in the stream: a relay takes it out when it runs")
	// ErrCancelUnknown says that nobody knows yet whether it was taken back.
	ErrCancelUnknown = errors.New("it may be taken back or not, as nobody has confirmed it: kexrelay trace tells whether it is discarded; else cancel again")
)

// Cancellation is the wish to take back an update that was published by mistake.
type Cancellation struct {
	Seq    uint64
	Reason string
	// Source is the CloudEvents source of the result.
	Source  string
	Auditor *Auditor
	// Name is who holds the lease meanwhile, as status shows it.
	Name string

	timing leaseTiming
}

// Cancel takes an update out of the stream, with a discarded result as its settlement. Only who has the right to send the
// update may say that it will not be sent: the relay that has it is asked; if none has, this process takes it, and reads
// what former holders left, exactly as a relay takes over. So nobody sends it meanwhile, and nobody has sent it with an
// unknown end.
//
// Should this process be frozen after its last look at its own lease, for so long that a relay takes over and books the
// update, then one of the two results comes second to the same ID and is told as double_booked.
func Cancel(ctx context.Context, js jetstream.JetStream, c Cancellation) (Waiting, error) {
	w, err := NewUpdates(js).Get(ctx, c.Seq)
	if err != nil {
		return w, err
	}
	for _, last := range []bool{false, true} {
		asked, err := c.askRelay(ctx, js, w)
		if asked || err != nil {
			return w, err
		}
		w, err := c.alone(ctx, js, w)
		if err == nil || last || !errors.Is(err, ErrRelayRuns) { // A relay may have started meanwhile.
			return w, err
		}
	}
	return w, nil
}

// alone cancels while no relay has the right to send.
func (c Cancellation) alone(ctx context.Context, js jetstream.JetStream, w Waiting) (Waiting, error) {
	updates := NewUpdates(js)
	quiet := slog.New(slog.DiscardHandler)
	leases := NewLeases(js, c.Name, quiet)
	if c.timing != (leaseTiming{}) {
		leases.timing = c.timing
	}
	lease, err := campaignBriefly(ctx, leases, w.Partition)
	if err != nil {
		return w, err
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		_ = lease.Release(ending) // Else the next holder waits until it has expired.
	}()
	tenure, err := TakeOver(ctx, js, lease, TenureConfig{Logger: quiet})
	if err != nil {
		return w, err
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		_ = tenure.Close(ending) // What could not be stored is still there as the former holder left it.
	}()
	// What came between the first look and the lease counts.
	if w, err = updates.Get(ctx, c.Seq); err != nil {
		return w, err
	}
	past := tenure.Past(w.Seq, w.StoredAt)
	switch {
	case past.Settled:
		return w, fmt.Errorf("update %d: %w", w.Seq, ErrSettled)
	case past.Left, past.Unknowns > 0:
		return w, fmt.Errorf("update %d (last request %s): %w", w.Seq, past.RequestID, ErrMayBeBooked)
	}
	return w, c.remove(ctx, js, tenure, w, past)
}

func campaignBriefly(ctx context.Context, leases *Leases, partition int) (*Lease, error) {
	limited, cancel := context.WithTimeout(ctx, cancelPatience)
	defer cancel()
	lease, err := leases.Campaign(limited, partition)
	if err == nil || ctx.Err() != nil || limited.Err() == nil {
		return lease, err
	}
	name := ""
	if h, err := holderOf(ctx, leases.js, partition); err == nil && h.Replica != "" {
		name = " (" + printable(h.Replica, maxIDs) + ")"
	}
	return nil, fmt.Errorf("partition %d%s: %w", partition, name, ErrRelayRuns)
}

// holderOf is who has the right to send a partition's updates, or had it when he died; zero if nobody has.
func holderOf(ctx context.Context, js jetstream.JetStream, partition int) (Holder, error) {
	holders, err := NewLeases(js, "", slog.New(slog.DiscardHandler)).Holders(ctx)
	for _, h := range holders {
		if h.Partition == partition && !h.Released {
			return h, err
		}
	}
	return Holder{}, err
}

// remove tells it first, then settles, then lets the update go: interrupted anywhere, a repeat goes on, and a relay that
// comes in between finds it settled.
func (c Cancellation) remove(ctx context.Context, js jetstream.JetStream, tenure *Tenure, w Waiting, past update.Past) error {
	ctx, cancel := whileHeld(ctx, tenure.lease)
	defer cancel()
	if err := c.audit(ctx, w); err != nil {
		return err
	}
	j := New(js, Config{Source: c.Source})
	defer j.Close()
	if !tenure.Held() {
		return fmt.Errorf("update %d: %w", w.Seq, ErrRelayRuns)
	}
	if err := j.Discard(ctx, w, past, nil, c.Reason); err != nil {
		if _, refused := errors.AsType[*jetstream.APIError](err); !refused && !errors.Is(err, ErrSettled) && !errors.Is(err, topology.ErrDenied) {
			err = fmt.Errorf("update %d: %w", w.Seq, unconfirmed(err))
		}
		return err
	}
	if err := c.takeOut(ctx, js, w); err != nil {
		return err
	}
	tenure.Settled(w.Seq, w.StoredAt)
	return nil
}

// unconfirmed is ErrCancelUnknown, and why.
func unconfirmed(why error) error { return fmt.Errorf("%w (%w)", ErrCancelUnknown, why) }

// audit tells who takes it back. Told again it is the same event.
func (c Cancellation) audit(ctx context.Context, w Waiting) error {
	return c.Auditor.Audit(ctx, AuditEvent{
		ID: string(ActionCancel) + "-" + Identity(w.Seq, w.StoredAt), Action: ActionCancel, Reason: c.Reason,
		UpdateSeq: w.Seq, UpdateID: w.UpdateID, TraceID: w.TraceID, Vorgangsnummer: w.Vorgangsnummer, Kind: string(w.Kind),
	})
}

// takeOut removes a settled update from its stream.
func (c Cancellation) takeOut(ctx context.Context, js jetstream.JetStream, w Waiting) error {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	stream, err := js.Stream(ctx, topology.StreamUpdates)
	if err == nil {
		err = stream.DeleteMsg(ctx, w.Seq)
	}
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		if _, gone := NewUpdates(js).Get(ctx, w.Seq); errors.Is(gone, ErrNoUpdate) {
			return nil // The relay was faster.
		}
	}
	return Explain(fmt.Sprintf("taking update %d, which is settled now, out of %s", w.Seq, topology.StreamUpdates), js, err)
}

// Discard writes down that an update was taken back: its settlement. ErrSettled says that it has another. Whoever calls it
// has the right to send the update and does not use it; answers are what its own requests came to. Other errors are those
// of Settle.
func (j *Journal) Discard(ctx context.Context, w Waiting, past update.Past, answers update.Answers, reason string) error {
	doing := fmt.Sprintf("writing the result of update %d", w.Seq)
	settled := ResultFilter{
		Since: w.StoredAt.Add(-clockSlack), Vorgangsnummer: w.Vorgangsnummer, UpdateID: w.UpdateID,
		Outcomes: []update.Outcome{update.Delivered, update.DeadLettered},
	}
	// The server's memory of the result's ID answers too, but not for ever.
	for e, err := range j.results.List(ctx, settled) {
		if err != nil {
			return storageFault(ctx, doing, err)
		}
		if e.Data.UpdateSeq == w.Seq && e.Data.ReceivedAt.Equal(w.StoredAt) {
			return fmt.Errorf("update %d: %w", w.Seq, ErrSettled)
		}
	}
	ack, err := j.writeEvent(ctx, j.event(resultIDPrefix+Identity(w.Seq, w.StoredAt), EventData{
		UpdateID: w.UpdateID, Vorgangsnummer: w.Vorgangsnummer, Kind: w.Kind, Outcome: update.Discarded, TraceID: w.TraceID,
		RequestID: past.RequestID, Attempts: past.Attempts, Detail: "cancelled: " + reason,
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
		if stored.Data.Outcome != update.Discarded {
			return fmt.Errorf("update %d: %w", w.Seq, ErrSettled)
		}
	}
	return nil
}
