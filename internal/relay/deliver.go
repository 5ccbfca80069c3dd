package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/hold"
	"kexrelay/internal/lane"
	"kexrelay/internal/update"
)

// maxRecordAge is how old the ledger's record may be when the POST starts. What a successor waits for counts from
// when it read the record.
const maxRecordAge = time.Second

// smallBody is up to which size the time of an answer tells how busy the API is, and not how large the document was.
const smallBody = 64 << 10

// handle brings the head of a lane one attempt further, and settles it if that was its last. stop ends waiting,
// work ends sending and settling.
func (r *Relay) handle(stop, work context.Context, pass *hold.Pass, turn *lane.Turn[*item]) {
	if !r.recall(stop, work, turn) {
		pass.Leave(hold.Signal{})
		return
	}
	if turn.Item.left && r.finish(stop, work, turn) {
		pass.Leave(hold.Signal{})
		return
	}
	if !pass.Claim(stop) { // Another replica probes, or the hold is over: back in line.
		turn.Item.delivery.Release()
		turn.ReturnFirst()
		pass.Leave(hold.Signal{})
		return
	}
	if !pass.Booking() {
		r.ping(work, pass, turn)
		return
	}
	it := turn.Item
	if it.progress.unknowns > maxUnknown && !it.crashed {
		r.handleSpent(stop, work, pass, turn)
		return
	}
	if it.crashed {
		if !r.single.enter(turn) {
			pass.Leave(hold.Signal{})
			return
		}
		defer r.single.leave()
		if f := r.afterCrash(it); f != nil {
			pass.Leave(hold.Signal{})
			r.giveUp(stop, work, turn, f)
			return
		}
	}
	u, err := r.open(stop, it)
	if err != nil {
		pass.Leave(hold.Signal{})
		r.notOpened(work, turn, u, err)
		return
	}
	r.send(stop, work, pass, turn, u)
}

// send makes attempts until one of them decides: one, or two if the first only showed that the token was old.
func (r *Relay) send(stop, work context.Context, pass *hold.Pass, turn *lane.Turn[*item], u *update.Update) {
	it := turn.Item
	for renewed := false; ; renewed = true {
		a := r.attempt(stop, work, pass, it, u)
		v := r.decide(it, u, &a, renewed)
		r.observe(work, u, it, a, v)
		switch {
		case !a.sent, v.action == retry, v.action == repeat, v.action == keep:
			// A definite end of this attempt, also if it never began. What was sent and interrupted has none.
			it.tenure.Answered(r.ledgerEntry(it, it.progress.attempts, it.progress.requestID))
		}
		if v.action == repeat {
			continue
		}
		if v.hold != "" {
			r.deps.Gate.Raise(v.hold, v.wait, detail(a.fault), !a.rows.unknown)
		}
		said := signal(a.fault, a.sent)
		if a.sent && len(u.Body) <= smallBody && u.Object == nil {
			said.Took = a.duration
		}
		pass.Leave(said)
		r.carryOut(work, turn, u, a, v)
		return
	}
}

// open reads and decodes the update of an item. The update is usable also beside a fault that says it is invalid.
// For an update that former processes may have had, a record precedes the decoding, so that one which kills the
// decoder is counted too.
func (r *Relay) open(ctx context.Context, it *item) (*update.Update, error) {
	m, err := r.read(ctx, it)
	if err != nil {
		return nil, err
	}
	if !it.opened && it.delivery.Seq() <= it.tenure.Bound() {
		if _, err := r.persist(ctx, func(ctx context.Context) error {
			return it.tenure.Opening(ctx, r.ledgerEntry(it, it.progress.attempts, ""))
		}); err != nil {
			it.tenure.Answered(r.ledgerEntry(it, it.progress.attempts, ""))
			return nil, err
		}
	}
	it.opened = true
	return r.decode(ctx, it, m)
}

// notOpened ends the turn of an update that could not be read, or that can never be right.
func (r *Relay) notOpened(work context.Context, turn *lane.Turn[*item], u *update.Update, err error) {
	f := fault.Of(err)
	switch {
	case u != nil && f.Kind == fault.Permanent:
		v := verdict{action: deadLetter, reason: f.Reason}
		r.observe(work, u, turn.Item, attempted{fault: f}, v)
		r.carryOut(work, turn, u, attempted{fault: f}, v)
	case errors.Is(err, update.ErrRemoved):
		r.removed(work, turn.Item.delivery.Seq())
		turn.Item.delivery.Forget()
		turn.Done()
	case f.Kind == fault.Interrupted: // Our own stop, or the end of the lease: recall drops it in the second case.
		turn.Item.delivery.Release()
		turn.ReturnFirst()
	default:
		after := turn.Item.progress.delay(r.cfg.RetryInitial, r.cfg.RetryMaxInterval)
		r.deps.Logger.Warn("update could not be read; it is tried again",
			slog.Uint64("update_seq", turn.Item.delivery.Seq()), slog.Any("error", err), slog.Duration("retry_after", after))
		turn.Item.delivery.Release()
		turn.Retry(after)
	}
}

// attempted is one attempt and its answer.
type attempted struct {
	// sent reports whether a POST was made.
	sent     bool
	status   int
	at       time.Time
	duration time.Duration
	// fault is nil if the request was booked.
	fault *fault.Error
	rows  rows
}

// err is the fault as an error: nil, not a typed nil, if the request was booked.
func (a *attempted) err() error {
	if a.fault == nil {
		return nil
	}
	return a.fault
}

// attempt makes one POST, or says why none was made.
func (r *Relay) attempt(stop, work context.Context, pass *hold.Pass, it *item, u *update.Update) attempted {
	free, err := r.room(stop, it, u)
	if err != nil {
		return attempted{fault: &fault.Error{Kind: fault.Interrupted, Err: err}}
	}
	defer free()
	if err := r.deps.Sender.Authorize(stop); err != nil {
		return attempted{fault: fault.Of(err)}
	}
	slot, err := r.pace.prepare(stop, func() (bool, [2]<-chan struct{}) { return r.wanted(it.tenure) })
	if err != nil {
		return attempted{fault: &fault.Error{Kind: fault.Interrupted, Err: err}}
	}
	defer slot.release()
	p := &it.progress
	id := u.RequestTraceID(p.attempts + 1)
	if f := r.record(stop, pass, it, id, slot); f != nil {
		return attempted{fault: f}
	}
	start := time.Now()
	slot.release()
	r.inFlight.Add(1)
	r.busy.add(it.tenure, 0, -1)
	traceparent, answered := u.Traceparent, func(int, *fault.Error) {}
	if r.deps.Tracer != nil {
		traceparent, answered = r.deps.Tracer.Attempt(u, id, p.attempts+1)
	}
	answer, err := r.deps.Sender.Send(work, update.Request{
		Vorgangsnummer: u.Vorgangsnummer, Kind: u.Kind,
		TraceID: id, Traceparent: traceparent, Tracestate: u.Tracestate,
		Body: u.Body, Content: r.content(u),
	})
	r.busy.add(it.tenure, 0, 1)
	r.inFlight.Add(-1)
	a := attempted{status: answer.Status, at: start, duration: time.Since(start), sent: true, fault: fault.Of(err)}
	if a.fault != nil {
		a.status = a.fault.Status
	}
	answered(a.status, a.fault)
	if a.fault != nil && neverLeft(a.fault) {
		a.sent = false
		return a
	}
	p.attempts++
	p.requestID = id
	if p.firstAttemptAt.IsZero() {
		p.firstAttemptAt = start
	}
	if a.fault != nil && a.fault.Unknown {
		p.unknowns++
	}
	return a
}

// neverLeft reports that a request was refused or given up before anything was sent: no attempt was made, and nothing
// was learned about the API.
func neverLeft(f *fault.Error) bool {
	return f.Kind == fault.Interrupted && !f.Unknown || f.Kind == fault.Permanent && f.Reason == fault.Invalid
}

// wanted reports whether attempts of a tenure may begin, and what tells that this may have changed.
func (r *Relay) wanted(t Tenure) (bool, [2]<-chan struct{}) {
	ended := r.busy.ended.wait()
	return !lost(t) && !r.busy.hasEnded(t), [2]<-chan struct{}{t.Lost(), ended}
}

// record writes down that a POST is about to be made, and says why it must not be. Everything before it may have
// waited long; after it are left a moment's wait, so that the request keeps its distance from the one before, and the
// checks: that the record is young, that nothing was raised, and that the right to send is still ours. A successor that
// found the record waits for us; one that did not must have come later than the lease allows.
func (r *Relay) record(stop context.Context, pass *hold.Pass, it *item, requestID string, slot *paced) *fault.Error {
	interrupted := func(why string) *fault.Error {
		return &fault.Error{Kind: fault.Interrupted, Detail: "not sent: " + why}
	}
	if !pass.MayStart() || r.paused(it) || stop.Err() != nil || r.busy.hasEnded(it.tenure) {
		return interrupted("sending was held or stopped before the request")
	}
	attempts := it.progress.attempts
	written := time.Now()
	refused, err := r.persist(stop, func(ctx context.Context) error {
		written = time.Now()
		return it.tenure.Sending(ctx, r.ledgerEntry(it, attempts+1, requestID))
	})
	if err != nil {
		return interrupted("the ledger was not written")
	}
	if wanted, unwanted := r.wanted(it.tenure); !wanted || !pass.Place(stop, unwanted) {
		return interrupted("sending was held or stopped before the request")
	}
	if err := slot.start(stop); err != nil {
		return interrupted("sending was stopped before the request")
	}
	switch {
	case time.Since(written) > maxRecordAge, refused:
	case !pass.MayStart(), r.paused(it), stop.Err() != nil, r.busy.hasEnded(it.tenure), !it.tenure.Held():
	default:
		return nil
	}
	return interrupted("the right to send, or the record of it, was no longer good")
}

// decide gathers the circumstances of an answer and lets judge decide.
func (r *Relay) decide(it *item, u *update.Update, a *attempted, renewed bool) verdict {
	p, f, now := &it.progress, a.fault, time.Now()
	c := circumstances{sent: a.sent, renewed: renewed}
	if a.sent {
		unknown := f != nil && f.Unknown
		a.rows = r.answers.record(u.Vorgangsnummer, signal(f, true).Kind, f == nil, unknown, r.movable(), now)
	}
	if f != nil {
		if a.sent {
			p.answered(a)
		}
		c.rows = a.rows
		c.held = r.deps.Gate.Held(heldFor(f))
		if f.Kind == fault.Throttled {
			p.throttles++
		}
		if a.sent && (f.Kind == fault.Transient || f.Kind == fault.Throttled) {
			since := p.firstFailureAt
			if since.IsZero() {
				since = now
			}
			c.othersWork = r.answers.othersWorkSince(u.Vorgangsnummer, since)
			p.failed(now, r.deps.Gate.HeldFor()+r.deps.Gate.KindHeldFor(string(it.kind)), c.othersWork)
		}
		c.unknowns, c.throttles, c.spent = p.unknowns, p.throttles, p.spent
	}
	return judge(r.cfg, f, c)
}

// heldFor is the hold that an answer is in the class of.
func heldFor(f *fault.Error) fault.Reason {
	if f.Kind == fault.Transient {
		return fault.Outage
	}
	return f.Reason
}

// carryOut does what was decided. Exactly one call ends the turn.
func (r *Relay) carryOut(work context.Context, turn *lane.Turn[*item], u *update.Update, a attempted, v verdict) {
	it := turn.Item
	switch v.action {
	case deliver:
		r.deliver(work, turn, r.settlement(it, u, a, update.Delivered, ""))
	case deadLetter:
		r.settle(work, turn, r.settlement(it, u, a, update.DeadLettered, v.reason))
	case retry:
		it.tell()
		it.delivery.Park()
		turn.Retry(max(it.progress.delay(r.cfg.RetryInitial, r.cfg.RetryMaxInterval), v.wait))
	case keep:
		it.tell()
		it.delivery.Park()
		turn.Return()
	case leave, repeat:
		it.delivery.Release()
		turn.ReturnFirst()
	}
}

// settlement is how the update ended, for the journal.
func (r *Relay) settlement(it *item, u *update.Update, a attempted, outcome update.Outcome, reason fault.Reason) *update.Settlement {
	p := &it.progress
	s := &update.Settlement{
		Update: u, Outcome: outcome, Reason: reason, Status: a.status,
		Attempts: p.attempts, RequestID: p.requestID, FirstAttemptAt: p.firstAttemptAt,
		SettledAt: time.Now(),
	}
	if p.attempts > 1 {
		if a.sent {
			p.answered(&a)
		}
		s.Answers = p.answers
	}
	earlier := p.unknowns
	if a.fault != nil {
		s.Detail = detail(a.fault)
		if a.fault.Unknown {
			earlier-- // its own unknown outcome is the reason, not a possible duplicate
		}
	}
	if reason == fault.Exhausted {
		s.Detail = fmt.Sprintf("retried for %s (KEXRELAY_RETRY_BUDGET) while others got through; the last answer: %s", r.cfg.RetryBudget, s.Detail)
	}
	replayed := u.Replay != nil && u.Replay.MayBeBooked
	s.PossibleDuplicate = earlier > 0 || replayed
	s.MayBeBooked = outcome == update.DeadLettered && (p.unknowns > 0 || replayed)
	return s
}

// detail is the text of a failure for results, holds and logs: scrubbed by whoever made the fault.
func detail(f *fault.Error) string {
	if f.Detail == "" && f.Err != nil {
		return f.Err.Error()
	}
	return f.Detail
}

// ping probes an outage that unknown outcomes caused with a request that books nothing.
func (r *Relay) ping(ctx context.Context, pass *hold.Pass, turn *lane.Turn[*item]) {
	err := r.deps.Sender.Ping(ctx, r.newTraceID())
	attrs := []any{slog.Bool("answered", err == nil)}
	if err != nil {
		attrs = append(attrs, slog.String("detail", detail(fault.Of(err))))
	}
	r.deps.Logger.Info("probed without booking", attrs...)
	turn.Return()
	pass.Answered(err == nil)
}
