package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/lane"
	"kexrelay/internal/update"
)

const (
	// withdrawPatience is how long a successor waits for the result of an update that was being taken back when its
	// holder ended: longer than one publish of it may be under way.
	withdrawPatience = 10 * time.Second
	// withdrawMoment is when to look again at an update of which it is just being decided.
	withdrawMoment = 50 * time.Millisecond
)

// Why an update is not taken back.
var (
	// ErrInHand says that it is being sent, or settled, at this moment: how that ends decides.
	ErrInHand = errors.New("it is being sent at this moment")
	// ErrMayBeBooked says that the end of one of its requests is not known.
	ErrMayBeBooked = errors.New("a request of it may have been booked")
	// ErrSettled says that it has its result.
	ErrSettled = errors.New("it is settled")
	// ErrNotHeld says that the right to send it is somebody else's, or about to be.
	ErrNotHeld = errors.New("the right to send it is not held any more")
	// ErrUnconfirmed says that its result was being written, and may be there or not.
	ErrUnconfirmed = errors.New("its result may have been written")
)

// Withdrawal keeps an update from being sent while it is decided whether it is taken back. Commit or Release ends it, and
// LetGo after the Commit of an erasure.
type Withdrawal struct {
	// Past is what was done for the update so far, Answers what this process's requests came to.
	Past    update.Past
	Answers update.Answers

	relay    *Relay
	tenure   Tenure
	id       updateID
	key      string
	kind     update.Kind
	storedAt time.Time
}

// updateID is an update's identity.
type updateID struct {
	seq      uint64
	storedAt int64
}

func idOf(seq uint64, storedAt time.Time) updateID { return updateID{seq, storedAt.UnixNano()} }

// withdrawals are the updates that are being taken back, and those that were and have not come by since. The zero value
// is ready.
type withdrawals struct {
	some atomic.Bool // Nobody has to look as long as no update was ever taken back.
	mu   sync.Mutex
	of   map[updateID]*withdrawing
}

type withdrawing struct {
	tenure Tenure
	// settled says that it has its result, done that it may leave the stream as well.
	settled, done bool
}

// begin notes an update, unless it is noted already: ErrInHand or ErrSettled says as what.
func (w *withdrawals) begin(id updateID, t Tenure) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.some.Store(true)
	if w.of == nil {
		w.of = map[updateID]*withdrawing{}
	}
	for other, there := range w.of { // What is left of former tenures comes again as settled.
		if lost(there.tenure) {
			delete(w.of, other)
		}
	}
	switch there := w.of[id]; {
	case there == nil:
		w.of[id] = &withdrawing{tenure: t}
		return nil
	case there.settled:
		return ErrSettled
	}
	return ErrInHand
}

func (w *withdrawals) end(id updateID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.of, id)
}

// settle notes that an update has its result, and whether it may leave the stream.
func (w *withdrawals) settle(id updateID, done bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if there := w.of[id]; there != nil {
		there.settled, there.done = true, done
	}
}

// look reports whether an update is being taken back, and whether that is done.
func (w *withdrawals) look(id updateID, t Tenure) (noted, done bool) {
	if !w.some.Load() {
		return false, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	there := w.of[id]
	if there == nil || there.tenure != t {
		return false, false
	}
	return true, there.done
}

// Withdraw begins to take back an update, because it was published by mistake or is to be erased: from here on no request of
// it begins. It is refused if one was begun whose end is not known. The update need not have been fetched yet.
//
// It is safe against a worker that takes the update in the same moment: the update is noted before it is looked whether
// somebody has it, and whoever takes it looks among the noted ones after that.
func (r *Relay) Withdraw(t Tenure, subject string, seq uint64, storedAt time.Time) (*Withdrawal, error) {
	key, kind := laneOf(subject, seq)
	w := &Withdrawal{relay: r, tenure: t, id: idOf(seq, storedAt), key: key, kind: kind, storedAt: storedAt}
	if !t.Held() || r.busy.hasEnded(t) {
		return nil, ErrNotHeld
	}
	if err := r.withdrawn.begin(w.id, t); err != nil {
		return nil, err
	}
	it, place, found := r.lanes.Find(key, w.is)
	if found {
		w.Answers = it.answersTold()
	}
	w.Past = t.Known(seq, storedAt)
	var err error
	switch {
	case place.Taken:
		err = ErrInHand
	case w.Past.Settled:
		err = ErrSettled
	case w.Past.Left, w.Past.Unknowns > 0:
		err = ErrMayBeBooked
	}
	if err != nil {
		w.Release()
		return nil, err
	}
	return w, nil
}

func (w *Withdrawal) is(it *item) bool {
	return idOf(it.delivery.Seq(), it.delivery.StoredAt()) == w.id
}

// Release gives the update back: it is sent in its turn.
func (w *Withdrawal) Release() { w.relay.withdrawn.end(w.id) }

// Commit takes the update back, as Discarded or Erased: write writes its result down, with errors as of Journal.Settle, or ErrSettled if it has
// one. It goes the way of a request, with a record in the ledger before: a successor that takes over in this very moment
// waits for the result. While NATS refuses the result, writing it is repeated until ctx ends or the right to send is lost:
// then it may be there all the same, and the error is ErrUnconfirmed. With any other error nothing was written.
//
// An erased update stays in the stream, and its Vorgang waits, until LetGo: whoever erases it overwrites it there first,
// which its ack does not.
func (w *Withdrawal) Commit(ctx context.Context, outcome update.Outcome, write func(context.Context) error) error {
	r, t := w.relay, w.tenure
	r.busy.add(t, 1, 1) // A hand-over waits for it.
	defer r.busy.add(t, -1, -1)
	entry := update.Attempt{
		Seq: w.id.seq, StoredAt: w.storedAt, Timeout: withdrawPatience,
		Attempts: w.Past.Attempts, Unknowns: w.Past.Unknowns, Crashes: w.Past.Crashes, RequestID: w.Past.RequestID,
	}
	started := time.Now()
	err := t.Sending(ctx, entry)
	if err == nil && (!t.Held() || r.busy.hasEnded(t) || time.Since(started) > maxRecordAge) {
		err = ErrNotHeld
	}
	if err != nil {
		t.Answered(entry)
		w.Release()
		return err
	}
	var settled error
	_, err = r.persist(ctx, func(ctx context.Context) error {
		err := write(ctx)
		switch {
		case errors.Is(err, ErrSettled): // Its turn is over, and only its ack is on the way.
			settled = err
			return nil
		case err == nil:
			return nil
		case lost(t): // Whoever has the right now waits for the result no longer than the record says.
			return &fault.Error{Kind: fault.Interrupted, Err: ErrNotHeld}
		}
		return err
	})
	if err != nil { // Nothing of it is sent here any more; whoever comes next finds the record, and looks.
		return fmt.Errorf("%w: %w", ErrUnconfirmed, err)
	}
	t.Settled(w.id.seq, w.storedAt)
	if settled == nil {
		r.deps.Observer.Withdrawn(w.kind, outcome)
	}
	if settled == nil && outcome == update.Erased {
		r.withdrawn.settle(w.id, false)
		return nil
	}
	w.LetGo()
	return settled
}

// LetGo lets an update that has its result leave the stream, and what is behind it go on. A second call does nothing.
func (w *Withdrawal) LetGo() {
	w.relay.withdrawn.settle(w.id, true)
	w.relay.lanes.Hurry(w.key, w.is) // What is behind it need not wait for its next attempt.
}

// withdrawnTurn ends the turn of an update that was taken back, or of which that is just being decided.
func (r *Relay) withdrawnTurn(work context.Context, turn *lane.Turn[*item]) bool {
	it := turn.Item
	id := idOf(it.delivery.Seq(), it.delivery.StoredAt())
	noted, done := r.withdrawn.look(id, it.tenure)
	switch {
	case !noted:
		return false
	case !done:
		it.delivery.Release()
		turn.Retry(withdrawMoment)
		return true
	}
	if it.spent {
		r.spent.Add(-1)
	}
	r.acknowledge(work, it)
	turn.Done()
	r.withdrawn.end(id)
	return true
}

// Standing is what a relay knows of an update that it has in a lane.
type Standing struct {
	// Ahead counts the updates of the Vorgang before it.
	Ahead int
	// InHand says that it is being worked on.
	InHand bool
	// Next is when it is tried again, zero unless it waits for that.
	Next time.Time
	// Paused says that it waits for the end of a pause of its kind, or of the kind of the one before it.
	Paused bool
	// Answers are those of the requests that settled nothing.
	Answers update.Answers
}

// Standing tells how an update stands, false if it is in no lane.
func (r *Relay) Standing(subject string, seq uint64, storedAt time.Time) (Standing, bool) {
	key, _ := laneOf(subject, seq)
	id := idOf(seq, storedAt)
	it, place, found := r.lanes.Find(key, func(it *item) bool { return idOf(it.delivery.Seq(), it.delivery.StoredAt()) == id })
	if !found {
		return Standing{}, false
	}
	return Standing{Ahead: place.Ahead, InHand: place.Taken, Next: place.Due, Paused: place.Held, Answers: it.answersTold()}, true
}

// tell lets the answers so far be shown.
func (it *item) tell() {
	answers := slices.Clone(it.progress.answers)
	it.told.Store(&answers)
}

// answersTold are the answers that may be shown.
func (it *item) answersTold() update.Answers {
	if told := it.told.Load(); told != nil {
		return *told
	}
	return nil
}
