package relay

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/hold"
	"kexrelay/internal/lane"
	"kexrelay/internal/update"
)

// maxCrashes is how many processes may die with an update before it is a dead letter.
const maxCrashes = 3

// leaseMoment is when to look again at a lease that is neither held nor lost.
const leaseMoment = 100 * time.Millisecond

// recall takes over what former holders of the right to send left about an update, and reports whether it may go on
// now. If not, the turn is ended, or will be when the wait for another process's answer is over.
func (r *Relay) recall(stop, work context.Context, turn *lane.Turn[*item]) bool {
	it := turn.Item
	if lost(it.tenure) {
		if it.spent {
			r.spent.Add(-1)
		}
		// Somebody else sends for this Vorgang now, or will: it comes again, there or here.
		it.delivery.Forget()
		turn.Done()
		return false
	}
	if r.busy.hasEnded(it.tenure) { // Being handed over: a moment, and it is lost.
		it.delivery.Release()
		turn.Retry(leaseMoment)
		return false
	}
	if r.withdrawnTurn(work, turn) {
		return false
	}
	if it.recalled || it.delivery.Seq() > it.tenure.Bound() {
		return true
	}
	past := it.tenure.Past(it.delivery.Seq(), it.delivery.StoredAt())
	switch {
	case past.Settled:
		r.deps.Logger.Info("update was settled before; only its ack was missing", slog.Uint64("update_seq", it.delivery.Seq()))
		r.acknowledge(work, it)
		it.tenure.Settled(it.delivery.Seq(), it.delivery.StoredAt())
		turn.Done()
		return false
	case past.Left && time.Now().Before(past.Until):
		r.awaitAnswer(stop, turn, past)
		return false
	}
	it.recalled = true
	p := &it.progress
	p.attempts, p.unknowns, p.crashes = past.Attempts, past.Unknowns, past.Crashes
	it.crashed = (past.Left || past.Opened) && !past.Own
	it.left = past.Left
	if past.Left {
		p.unknowns++ // Nobody said how it ended, and now nobody will.
		r.deps.Logger.Warn("update was being sent by a process that is gone; it may have been booked",
			slog.Uint64("update_seq", it.delivery.Seq()), slog.Int("attempts", p.attempts), slog.Int("crashes", p.crashes))
	}
	return true
}

// finish settles an update as the process that was sending it had decided, if that had written the dead letter and not
// the result. It reports whether the turn has ended.
func (r *Relay) finish(stop, work context.Context, turn *lane.Turn[*item]) bool {
	it := turn.Item
	m, err := r.read(stop, it)
	if err != nil {
		r.notOpened(work, turn, nil, err)
		return true
	}
	u, invalid := update.Envelope(m, func() string { return r.traceID(it) })
	if invalid != nil {
		it.left = false // Never sent, and a dead letter in any case.
		return false
	}
	var s *update.Settlement
	_, err = r.persist(stop, func(ctx context.Context) (err error) {
		s, err = r.deps.Journal.Unfinished(ctx, u)
		return err
	})
	switch {
	case err != nil:
		r.notOpened(work, turn, nil, err)
		return true
	case s == nil:
		it.left = false
		return false
	}
	r.traced(it, u)
	r.deps.Logger.Warn("a process that is gone has made a dead letter of the update and not told of it; it is told now",
		append(identity(u), slog.String("reason", string(s.Reason)), slog.Uint64("dead_letter", s.DeadLetterSeq))...)
	r.settle(work, turn, s)
	return true
}

// lost reports whether the right to send is gone for good.
func lost(t Tenure) bool {
	select {
	case <-t.Lost():
		return true
	default:
		return false
	}
}

// awaitAnswer keeps the lane, without a worker, until another process's answer is known or can no longer come.
func (r *Relay) awaitAnswer(stop context.Context, turn *lane.Turn[*item], past update.Past) {
	r.deps.Logger.Info("update is being sent by another process; waiting for its result",
		slog.Uint64("update_seq", turn.Item.delivery.Seq()), slog.Duration("at_most", time.Until(past.Until)))
	r.waits.Go(func() {
		timer := time.NewTimer(time.Until(past.Until))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-past.Resolved:
		case <-turn.Item.tenure.Lost():
		case <-stop.Done():
		}
		turn.Return()
	})
}

// afterCrash decides about an update that a process died with, before it is decoded or sent again; nil lets it go on.
func (r *Relay) afterCrash(it *item) *fault.Error {
	p := &it.progress
	switch {
	case p.crashes >= maxCrashes:
		return &fault.Error{
			Kind: fault.Permanent, Reason: fault.CrashLoop,
			Detail: "it was being decoded or sent when a process died, three times; look into the relay's logs before replaying it",
		}
	case p.unknowns > 0 && (r.cfg.ParkUnknown || p.unknowns > maxUnknown):
		return &fault.Error{
			Kind: fault.Permanent, Reason: fault.UnknownOutcome, Unknown: true,
			Detail: "a process died while it sent the request, so it may have been booked: ask with the request ID before replaying it",
		}
	}
	return nil
}

// handleSpent deals with an update that has been repeated as often as unknown outcomes allow. It is never sent again.
// While sending is held it is no dead letter either: others find out, by real requests, whether the API works, and
// only if there are no others an answer to a ping has to do.
func (r *Relay) handleSpent(stop, work context.Context, pass *hold.Pass, turn *lane.Turn[*item]) {
	it := turn.Item
	if !it.spent {
		it.spent = true
		r.spent.Add(1)
	}
	if pass.Probe() {
		err := r.deps.Sender.Ping(work, r.newTraceID())
		if err != nil || int(r.spent.Load()) < r.lanes.Stats().Lanes {
			it.delivery.Park()
			turn.Return()
			pass.Leave(hold.Signal{Kind: hold.Failed})
			return
		}
		pass.Leave(hold.Signal{Kind: hold.Failed})
	} else {
		pass.Leave(hold.Signal{})
	}
	r.spent.Add(-1)
	r.giveUp(stop, work, turn, &fault.Error{
		Kind: fault.Permanent, Reason: fault.UnknownOutcome, Unknown: true,
		Detail: "every request for it ended without a definite answer, so it may have been booked: ask with the request IDs before replaying it",
	})
}

// giveUp makes a dead letter of an update without looking at its body again.
func (r *Relay) giveUp(stop, work context.Context, turn *lane.Turn[*item], f *fault.Error) {
	it := turn.Item
	m, err := r.read(stop, it)
	if err != nil {
		r.notOpened(work, turn, nil, err)
		return
	}
	u, err := update.Envelope(m, func() string { return r.traceID(it) })
	r.traced(it, u)
	if err != nil { // It would not even have been sent.
		f = fault.Of(err)
	}
	if it.progress.attempts > 0 {
		it.progress.requestID = u.RequestTraceID(it.progress.attempts)
	}
	v := verdict{action: deadLetter, reason: f.Reason}
	r.observe(work, u, it, attempted{fault: f}, v)
	r.carryOut(work, turn, u, attempted{fault: f}, v)
}

// ledgerEntry is an item as the ledger knows it, with so many attempts.
func (r *Relay) ledgerEntry(it *item, attempts int, requestID string) update.Attempt {
	return update.Attempt{
		Seq: it.delivery.Seq(), StoredAt: it.delivery.StoredAt(),
		Attempts: attempts, Unknowns: it.progress.unknowns, Crashes: it.progress.crashes,
		Timeout: r.cfg.RequestTimeout, RequestID: requestID,
	}
}

// single lets one at a time of the updates pass that a process died with: so only the one that kills processes is
// being sent when the next one dies, and the others are not taken for it.
type single struct {
	mu      sync.Mutex
	busy    bool
	waiting []*lane.Turn[*item]
}

// enter takes the place, or keeps the turn until leave gives it back to its lane.
func (s *single) enter(turn *lane.Turn[*item]) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy {
		s.waiting = append(s.waiting, turn)
		return false
	}
	s.busy = true
	return true
}

// leave frees the place and gives all turns back that wait for it, in their order; the first that comes takes it. It is
// not enough to give one back: its turn may end otherwise, because the lease was lost meanwhile, and then nobody would
// give back the others, whose lanes would stand still for ever, with all that comes later for these Vorgänge behind them.
func (s *single) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = false
	for _, turn := range slices.Backward(s.waiting) {
		turn.ReturnFirst()
	}
	s.waiting = nil
}
