package app

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"kexrelay/internal/journal"
	"kexrelay/internal/relay"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// maxCancelling bounds how many updates operators may keep back at once.
const maxCancelling = 64

// operators answers what only the replica with the right to send can: how an update stands, and that it is taken back.
type operators struct {
	process *relayProcess
	journal *journal.Journal
	updates *journal.Updates
	logger  *slog.Logger
	working context.Context //nolint:containedctx // Questions come with the connection, not with a call.

	mu sync.Mutex
	// kept are the updates that are kept back for a cancellation, by its token.
	kept map[string]*keptBack
}

// keptBack is an update that is kept from being sent, or, once it is erased, from leaving the stream.
type keptBack struct {
	update     journal.Waiting
	outcome    update.Outcome
	withdrawal *relay.Withdrawal
	settled    bool // As erased.
	expiry     *time.Timer
}

// let ends the keeping without a commit.
func (k *keptBack) let() {
	if k.settled {
		k.withdrawal.LetGo()
		return
	}
	k.withdrawal.Release()
}

// answerOperators listens for questions until the returned function is called, which waits for those that are being
// answered. What is being written because of them when ctx ends has as long as a request that is being sent: cut short,
// nobody could say whether the update is taken back.
func (p *relayProcess) answerOperators(ctx context.Context, written *journal.Journal) (stop func()) {
	working, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	unwatch := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(p.cfg.Relay.ShutdownTimeout, func() { cancel(relay.ErrStopping) })
		context.AfterFunc(working, func() { timer.Stop() })
	})
	conn := p.conn.Load()
	o := &operators{
		process: p, journal: written, updates: journal.NewUpdates(conn.JetStream()), logger: p.logger, working: working, kept: map[string]*keptBack{},
	}
	var stops []func()
	for _, question := range []struct {
		subject string
		answer  func([]byte) any
	}{
		{topology.StandingSubject(p.self.Process), o.standing},
		{topology.CancelSubject(p.self.Process), o.cancel},
	} {
		stop, err := conn.Answer(question.subject, question.answer)
		if err != nil {
			p.logger.Warn("questions of operators are not answered", slog.String("subject", question.subject), slog.Any("error", err))
			continue
		}
		stops = append(stops, stop)
	}
	return func() {
		timer := time.AfterFunc(p.cfg.Relay.ShutdownTimeout, func() { cancel(relay.ErrStopping) }) // Not every end is one of ctx.
		for _, stop := range stops {
			stop()
		}
		timer.Stop()
		unwatch()
		cancel(nil)
	}
}

// tenureOf is the time on a partition that this process has now, nil if it has none.
func (o *operators) tenureOf(partition int) *journal.Tenure {
	if partition < 0 || partition >= len(o.process.partitions) {
		return nil
	}
	return o.process.partitions[partition].tenure.Load()
}

func (o *operators) standing(data []byte) any {
	var q journal.StandingQuestion
	if json.Unmarshal(data, &q) != nil {
		return journal.Standing{}
	}
	s, known := o.process.relay.Standing(q.Subject, q.Seq, q.StoredAt)
	if !known {
		return journal.Standing{}
	}
	out := journal.Standing{Known: true, Ahead: s.Ahead, InHand: s.InHand, Paused: s.Paused, Answers: s.Answers}
	if !s.Next.IsZero() {
		out.NextAttempt = s.Next.UTC()
	}
	return out
}

// cancel is one step of a cancellation.
func (o *operators) cancel(data []byte) any {
	var r journal.CancelRequest
	if err := json.Unmarshal(data, &r); err != nil || r.Token == "" || len(r.Reason) > journal.MaxCancelReason {
		return journal.CancelAnswer{State: journal.CancelFailed, Detail: "the relay does not understand the request: it is of another version"}
	}
	var err error
	var state journal.CancelState
	switch r.Step {
	case journal.CancelBegin:
		state, err = journal.CancelReady, o.begin(r, update.Discarded)
	case journal.CancelErase:
		state, err = journal.CancelReady, o.begin(r, update.Erased)
	case journal.CancelCommit:
		state, err = o.commit(r)
	case journal.CancelRelease, journal.CancelEnd:
		state = journal.CancelReleased
		if kept := o.take(r.Token); kept != nil {
			kept.let()
		}
	default:
		return journal.CancelAnswer{State: journal.CancelFailed, Detail: "the relay does not know the step: it is of another version"}
	}
	if err != nil {
		return refusal(err)
	}
	return journal.CancelAnswer{State: state}
}

// refusal is why an update is not taken back, in the words of the protocol.
func refusal(err error) journal.CancelAnswer {
	if errors.Is(err, relay.ErrUnconfirmed) { // Whatever else it is.
		return journal.CancelAnswer{State: journal.CancelUnconfirmed, Detail: err.Error()}
	}
	for _, known := range []struct {
		err   error
		state journal.CancelState
	}{
		{relay.ErrInHand, journal.CancelBeingSent},
		{relay.ErrMayBeBooked, journal.CancelMayBeBooked},
		{relay.ErrSettled, journal.CancelSettled},
		{relay.ErrNotHeld, journal.CancelNotHeld},
		{journal.ErrNoUpdate, journal.CancelGone},
	} {
		if errors.Is(err, known.err) {
			return journal.CancelAnswer{State: known.state}
		}
	}
	return journal.CancelAnswer{State: journal.CancelFailed, Detail: err.Error()}
}

// errExpired says that a cancellation was not finished in time; the update goes its way.
var errExpired = errors.New("the relay kept the update back for too short a time, and it goes its way: try again")

// begin keeps an update back.
func (o *operators) begin(r journal.CancelRequest, outcome update.Outcome) error {
	w, err := o.updates.Get(o.working, r.Seq)
	if err != nil {
		return err
	}
	if !w.StoredAt.Equal(r.StoredAt) {
		return journal.ErrNoUpdate
	}
	tenure := o.tenureOf(w.Partition)
	if tenure == nil {
		return relay.ErrNotHeld
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.kept) >= maxCancelling || o.kept[r.Token] != nil {
		return relay.ErrInHand
	}
	withdrawal, err := o.process.relay.Withdraw(tenure, w.Subject, w.Seq, w.StoredAt)
	if err != nil {
		return err
	}
	w.Body, w.Header = nil, nil
	o.keepLocked(r.Token, &keptBack{update: w, outcome: outcome, withdrawal: withdrawal}, journal.CancelHeld)
	return nil
}

// keepLocked keeps an update until somebody takes it, for so long at most.
func (o *operators) keepLocked(token string, kept *keptBack, atMost time.Duration) {
	o.kept[token] = kept
	kept.expiry = time.AfterFunc(atMost, func() {
		if kept := o.take(token); kept != nil {
			kept.let()
		}
	})
}

// take ends the keeping: whoever gets it has to commit or release it.
func (o *operators) take(token string) *keptBack {
	o.mu.Lock()
	defer o.mu.Unlock()
	kept := o.kept[token]
	if kept != nil {
		delete(o.kept, token)
		kept.expiry.Stop()
	}
	return kept
}

// commit settles an update that is kept back. One that is erased now is kept in the stream, for whoever overwrites it.
func (o *operators) commit(r journal.CancelRequest) (journal.CancelState, error) {
	kept := o.take(r.Token)
	switch {
	case kept == nil:
		return "", errExpired
	case kept.settled: // Asked again.
		return o.keepErased(r.Token, kept), nil
	}
	w := kept.update
	err := kept.withdrawal.Commit(o.working, kept.outcome, func(ctx context.Context) error {
		err := o.journal.Withdraw(ctx, w, kept.outcome, kept.withdrawal.Past, kept.withdrawal.Answers, r.Reason)
		if errors.Is(err, journal.ErrSettled) {
			return relay.ErrSettled
		}
		return err
	})
	if err != nil {
		return "", err
	}
	o.logger.Info("update was taken back by an operator",
		slog.Uint64("update_seq", w.Seq), slog.String("update_id", w.UpdateID), slog.String("trace_id", w.TraceID),
		slog.String("outcome", string(kept.outcome)))
	if kept.outcome != update.Erased {
		return journal.CancelDone, nil
	}
	return o.keepErased(r.Token, kept), nil
}

// keepErased keeps an erased update in the stream.
func (o *operators) keepErased(token string, kept *keptBack) journal.CancelState {
	o.mu.Lock()
	defer o.mu.Unlock()
	kept.settled = true
	o.keepLocked(token, kept, journal.EraseHeld)
	return journal.CancelErased
}
