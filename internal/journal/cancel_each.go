package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// maxUnconfirmed is after how many updates in a row of which nobody confirms anything the others are not tried.
const maxUnconfirmed = 3

// takingBack is one run of a Cancellation.
type takingBack struct {
	Cancellation

	js      jetstream.JetStream
	updates *Updates
	results *Results
	journal *Journal
	control *control
	tell    func(Waiting, error) error

	unconfirmed int // In a row.
}

// Each takes updates back, each with its settlement as the Outcome says. Only who has the right to send an update may say
// that it will not be sent: the relay that has it is asked; if none has, this process takes it, once for all updates of a
// partition, and reads what former holders left, exactly as a relay takes over. So nobody sends it meanwhile, and nobody
// has sent it with an unknown end.
//
// tell hears of each update once, in the order of the partitions: nil, or why it was left as it is, with ErrNoUpdate for
// one that is not there any more. Its error ends the run. The error of Each is of NATS, ctx or tell: then some updates
// were not told of, and one of them may be taken back; a repeat goes on.
//
// An erased update that was settled before, with only its ack missing, is taken out as well: its result stays as it is.
//
// Should this process be frozen after its last look at its own lease, for so long that a relay takes over and books an
// update, then one of the two results comes second to the same ID and is told as double_booked.
func (c Cancellation) Each(ctx context.Context, js jetstream.JetStream, updates []Waiting, tell func(Waiting, error) error) error {
	c.Outcome = cmp.Or(c.Outcome, update.Discarded)
	if c.Remove == nil {
		c.Remove = func(ctx context.Context, w Waiting) (bool, error) { return deleteUpdate(ctx, js, w) }
	}
	t := &takingBack{
		Cancellation: c, js: js, updates: NewUpdates(js), results: NewResults(js), journal: New(js, Config{Source: c.Source}),
		control: &control{js: js}, tell: tell,
	}
	defer t.journal.Close()
	byPartition := map[int][]Waiting{}
	for _, w := range updates {
		byPartition[w.Partition] = append(byPartition[w.Partition], w)
	}
	for _, partition := range slices.Sorted(maps.Keys(byPartition)) {
		if err := t.partition(ctx, partition, byPartition[partition]); err != nil {
			return err
		}
	}
	return nil
}

// partition takes back updates of one partition: through its relay, or alone, and once more if that changes meanwhile.
func (t *takingBack) partition(ctx context.Context, partition int, updates []Waiting) error {
	for again := false; len(updates) > 0; again = true {
		asked, err := t.ask(ctx, partition, updates)
		if updates = updates[asked:]; err != nil || len(updates) == 0 {
			return err
		}
		alone, err := t.alone(ctx, partition, updates)
		updates = updates[alone:]
		switch {
		case err == nil:
		case !errors.Is(err, ErrRelayRuns):
			return err
		case again && asked+alone == 0: // Else a relay may have started meanwhile.
			for _, w := range updates {
				if err := t.tell(w, err); err != nil {
					return err
				}
			}
			return nil
		}
	}
	return nil
}

// ended tells how it went with one update. An error of it means that the others are not tried.
func (t *takingBack) ended(w Waiting, refused error) error {
	w.Body, w.Header = nil, nil
	if !errors.Is(refused, ErrCancelUnknown) {
		t.unconfirmed = 0
		return t.tell(w, refused)
	}
	if err := t.tell(w, refused); err != nil {
		return err
	}
	if t.unconfirmed++; t.unconfirmed == maxUnconfirmed {
		return refused
	}
	return nil
}

// read reads an update again: what came since the first look counts.
func (t *takingBack) read(ctx context.Context, w Waiting) (Waiting, error) {
	now, err := t.updates.Get(ctx, w.Seq)
	if err == nil && !now.StoredAt.Equal(w.StoredAt) {
		err = fmt.Errorf("update %d: %w", w.Seq, ErrNoUpdate)
	}
	if err != nil {
		return w, err
	}
	return now, nil
}

// takeOut takes an update out of the stream that has its result now.
func (t *takingBack) takeOut(ctx context.Context, w Waiting) (refused, err error) {
	there, err := t.Remove(ctx, w)
	if err == nil && !there && t.Outcome == update.Erased {
		refused = fmt.Errorf("update %d: %w", w.Seq, ErrNotOverwritten)
	}
	return refused, err
}

// settledBefore deals with an update that has another settlement already. Its content is to go all the same when it is
// erased, once the result was seen with one's own eyes.
func (t *takingBack) settledBefore(ctx context.Context, w Waiting) (refused, err error) {
	refused = fmt.Errorf("update %d: %w", w.Seq, ErrSettled)
	if t.Outcome != update.Erased {
		return refused, nil
	}
	_, found, err := t.results.Settlement(ctx, w)
	if err != nil || !found {
		return refused, err
	}
	there, err := t.Remove(ctx, w)
	if !there {
		return fmt.Errorf("update %d: %w", w.Seq, ErrNoUpdate), err // Its relay took it out.
	}
	return nil, err
}

// alone takes back while no relay has the right to send. done counts the updates that were told of. ErrRelayRuns says that
// another has the right, or had it meanwhile.
func (t *takingBack) alone(ctx context.Context, partition int, updates []Waiting) (done int, err error) {
	quiet := slog.New(slog.DiscardHandler)
	leases := NewLeases(t.js, t.Name, quiet)
	if t.timing != (leaseTiming{}) {
		leases.timing = t.timing
	}
	lease, err := t.campaign(ctx, leases, partition)
	if err != nil {
		return 0, err
	}
	ending := func(end func(context.Context) error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		_ = end(ctx)
	}
	defer ending(lease.Release) // Else the next holder waits until it has expired.
	tenure, err := TakeOver(ctx, t.js, lease, TenureConfig{Logger: quiet})
	if err != nil {
		return 0, err
	}
	defer ending(tenure.Close) // What could not be stored is still there as the former holder left it.
	for _, w := range updates {
		now, refused, err := t.holding(ctx, tenure, w)
		if err == nil {
			err = t.ended(now, refused)
		}
		if err != nil {
			return done, err
		}
		done++
	}
	return done, nil
}

// holding takes one update back with the right to send. It tells it first, then settles, then lets the update go:
// interrupted anywhere, a repeat goes on, and a relay that comes in between finds it settled.
func (t *takingBack) holding(ctx context.Context, tenure *Tenure, w Waiting) (now Waiting, refused, err error) {
	outer := ctx
	ctx, cancel := whileHeld(ctx, tenure.lease)
	defer cancel()
	lost := func(err error) error { // What the loss of the lease cut short goes another way.
		if err != nil && outer.Err() == nil && !tenure.Held() {
			return fmt.Errorf("update %d: %w", w.Seq, ErrRelayRuns)
		}
		return err
	}
	now, err = t.read(ctx, w)
	switch {
	case errors.Is(err, ErrNoUpdate):
		return now, err, nil
	case err != nil:
		return now, nil, lost(err)
	}
	past := tenure.Past(now.Seq, now.StoredAt)
	switch {
	case past.Settled:
		refused, err = t.settledBefore(ctx, now)
		return now, refused, lost(err)
	case past.Left, past.Unknowns > 0:
		return now, fmt.Errorf("update %d (last request %s): %w", now.Seq, past.RequestID, ErrMayBeBooked), nil
	}
	if err := t.audit(ctx, now); err != nil {
		return now, nil, lost(err)
	}
	if !tenure.Held() {
		return now, nil, fmt.Errorf("update %d: %w", now.Seq, ErrRelayRuns)
	}
	err = t.journal.Withdraw(ctx, now, t.Outcome, past, nil, t.Reason)
	_, answered := errors.AsType[*jetstream.APIError](err)
	switch {
	case err == nil:
	case errors.Is(err, ErrSettled):
		refused, err = t.settledBefore(ctx, now)
		return now, refused, lost(err)
	case answered, errors.Is(err, topology.ErrDenied): // Nothing was written.
		return now, nil, err
	default:
		if err = fmt.Errorf("update %d: %w", now.Seq, unconfirmed(err)); outer.Err() == nil && !tenure.Held() {
			return now, err, nil // Of this one alone: who has the right now says more about the others.
		}
		return now, nil, err
	}
	// It is settled: whoever has the right to send now does not send it, and takes it out if this does not.
	if refused, err = t.takeOut(outer, now); err == nil {
		tenure.Settled(now.Seq, now.StoredAt)
	}
	return now, refused, err
}

// campaign takes the right to send if that is free, or becomes so within cancelPatience.
func (t *takingBack) campaign(ctx context.Context, leases *Leases, partition int) (*Lease, error) {
	limited, cancel := context.WithTimeout(ctx, cancelPatience)
	defer cancel()
	var denied error // A candidate waits it out; an operator is to hear of it.
	leases.OnAnswer(func(_ string, err error) {
		if errors.Is(err, topology.ErrDenied) {
			denied = err
			cancel()
		}
	})
	lease, err := leases.Campaign(limited, partition)
	switch {
	case err == nil, ctx.Err() != nil, limited.Err() == nil:
		return lease, err
	case denied != nil:
		return nil, denied
	}
	name := ""
	if h, err := t.holder(ctx, partition); err == nil && h.Replica != "" {
		name = " (" + printable(h.Replica, maxIDs) + ")"
	}
	return nil, fmt.Errorf("partition %d%s: %w", partition, name, ErrRelayRuns)
}

// holder is who has the right to send a partition's updates, or had it when he died; zero if nobody has.
func (t *takingBack) holder(ctx context.Context, partition int) (leaseRecord, error) {
	var there leaseRecord
	w, err := t.control.get(ctx, leaseKey(partition), &there)
	switch {
	case errors.Is(err, errNoKey), err != nil && w.revision != 0, err == nil && there.Released:
		return leaseRecord{}, nil // Nobody can have it by a record that says nothing.
	}
	return there, err
}
