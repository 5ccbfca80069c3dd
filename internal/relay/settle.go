package relay

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/lane"
	"kexrelay/internal/update"
)

// settle writes down how an update ended, then acks it and lets its lane go on. The order is the promise: an update
// leaves the stream only after the server has confirmed its result, and a dead letter comes before the result that
// tells of it. While NATS refuses, the publish is repeated (never the POST) and everything else is held.
func (r *Relay) settle(ctx context.Context, turn *lane.Turn[*item], s *update.Settlement) {
	it := turn.Item
	r.settledDown() // What is being settled may take long, and holds up no hand-over.
	defer r.unsent.Add(1)
	if _, err := r.persist(ctx, func(ctx context.Context) error { return r.deps.Journal.Settle(ctx, s) }); err != nil {
		r.deps.Logger.Error("update was not settled before the stop; it stays in the stream and is looked into at the next start",
			append(identity(s.Update), slog.Any("error", err))...)
		it.delivery.Release()
		turn.ReturnFirst()
		return
	}
	it.tenure.Settled(it.delivery.Seq(), it.delivery.StoredAt())
	r.acknowledge(ctx, it)
	r.deps.Observer.Settled(s.Update.Kind, s.Outcome, s.Reason)
	turn.Done()
}

// acknowledge lets a settled update leave the stream.
func (r *Relay) acknowledge(ctx context.Context, it *item) {
	if err := it.delivery.Ack(ctx); err != nil {
		// Not lost: it comes again, and its result says that it is settled.
		r.deps.Logger.Warn("settled update could not be acknowledged",
			slog.Uint64("update_seq", it.delivery.Seq()), slog.Any("error", err))
	}
}

// persist writes something down, repeating it while NATS refuses: meanwhile sending is held for everybody. refused
// reports that it had to be repeated. The error means that ctx ended first.
func (r *Relay) persist(ctx context.Context, write func(context.Context) error) (refused bool, err error) {
	delays := retryDelays(r.cfg.RetryInitial, r.cfg.RetryMaxInterval)
	for {
		err := write(ctx)
		if err == nil {
			break
		}
		f := fault.Of(err)
		if f.Kind == fault.Interrupted || ctx.Err() != nil {
			if refused {
				r.stuck.Add(-1)
			}
			return refused, err
		}
		if !refused {
			refused = true
			r.stuck.Add(1)
		}
		works := r.works.wait()
		r.deps.Gate.Raise(fault.Storage, 0, detail(f), true)
		waitForStorage(ctx, works, delays.NextBackOff())
	}
	if refused {
		r.works.send() // The others need not wait for their own turn to find out.
	}
	// The hold goes when the last refused write is through: results may be accepted while dead letters are not.
	if refused && r.stuck.Add(-1) == 0 {
		r.deps.Gate.Clear(fault.Storage)
	}
	return refused, nil
}

// waitForStorage waits for the delay, or until another write got through.
func waitForStorage(ctx context.Context, works <-chan struct{}, delay time.Duration) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-works:
	case <-ctx.Done():
	}
}

// broadcast wakes everybody who waits. The zero value is ready.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) send() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}

// observe logs and counts one attempt, or the refusal of an update that was never sent.
func (r *Relay) observe(ctx context.Context, u *update.Update, it *item, a attempted, v verdict) {
	if a.sent {
		r.deps.Observer.Attempt(u.Kind, a.err(), a.duration)
	}
	level := slog.LevelInfo
	switch {
	case v.action == deadLetter:
		level = slog.LevelWarn
	case !a.sent:
		level = slog.LevelDebug // nothing left the process: the hold's own line says why
	}
	if !r.deps.Logger.Enabled(ctx, level) {
		return
	}
	attrs := append(identity(u),
		slog.Int("attempt", it.progress.attempts), slog.Bool("sent", a.sent),
		slog.String("request_id", it.progress.requestID),
		slog.String("outcome", v.action.String()),
		slog.Int("status", a.status),
		slog.Duration("duration", a.duration))
	if v.reason != "" {
		attrs = append(attrs, slog.String("reason", string(v.reason)))
	}
	if a.fault != nil {
		attrs = append(attrs, slog.String("detail", detail(a.fault)))
	}
	if u.Note != "" {
		attrs = append(attrs, slog.String("note", u.Note))
	}
	r.deps.Logger.Log(ctx, level, "attempt", attrs...)
}

// identity are the attributes that name an update in every line about it.
func identity(u *update.Update) []any {
	return []any{
		slog.String("update_id", u.ID),
		slog.Uint64("update_seq", u.Seq),
		slog.String("vorgangsnummer", u.Vorgangsnummer),
		slog.String("kind", string(u.Kind)),
		slog.String("trace_id", u.TraceID),
	}
}
