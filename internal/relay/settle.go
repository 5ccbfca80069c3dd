package relay

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"

	"kexrelay/internal/fault"
	"kexrelay/internal/lane"
	"kexrelay/internal/update"
)

// deliver settles a delivered update without keeping its worker: what follows the result's PubAck is done where that is
// read. As many settlements as there are workers may be open so; beyond that, workers wait for their own, so that
// requests never run ahead of what is written down.
func (r *Relay) deliver(ctx context.Context, turn *lane.Turn[*item], s *update.Settlement) {
	it := turn.Item
	over := func() {
		r.busy.add(it.tenure, -1, 0)
		r.settling.Add(-1)
		r.waits.Done()
	}
	r.waits.Add(1)
	r.busy.add(it.tenure, 1, 0)
	begun := r.settling.Add(1) <= int64(r.cfg.Concurrency) && s.Update.Object == nil &&
		r.deps.Journal.Begin(s, func(err error) {
			if err == nil {
				r.settled(ctx, turn, s)
				over()
				return
			}
			go func() {
				defer over()
				r.writeDown(ctx, turn, s)
			}()
		})
	if !begun {
		over()
		r.settle(ctx, turn, s)
	}
}

// settle writes down how an update ended, then acks it and lets its lane go on.
func (r *Relay) settle(ctx context.Context, turn *lane.Turn[*item], s *update.Settlement) {
	it := turn.Item
	r.busy.add(it.tenure, 0, -1) // What is being settled may take long, and holds up no hand-over.
	defer r.busy.add(it.tenure, 0, 1)
	r.writeDown(ctx, turn, s)
}

// writeDown settles with patience. The order is the promise: an update leaves the stream only after the server has
// confirmed its result, and a dead letter comes before the result that tells of it. While NATS refuses, the publish is
// repeated (never the POST) and everything else is held.
func (r *Relay) writeDown(ctx context.Context, turn *lane.Turn[*item], s *update.Settlement) {
	it := turn.Item
	if _, err := r.persist(ctx, func(ctx context.Context) error { return r.deps.Journal.Settle(ctx, s) }); err != nil {
		r.deps.Logger.Error("update was not settled before the stop; it stays in the stream and is looked into at the next start",
			append(identity(s.Update), slog.Any("error", err))...)
		it.delivery.Release()
		turn.ReturnFirst()
		return
	}
	r.settled(ctx, turn, s)
}

// settled ends the turn of an update whose result is confirmed.
func (r *Relay) settled(ctx context.Context, turn *lane.Turn[*item], s *update.Settlement) {
	it := turn.Item
	it.tenure.Settled(it.delivery.Seq(), it.delivery.StoredAt())
	r.acknowledge(ctx, it)
	r.removeObject(ctx, s)
	r.deps.Observer.Settled(s)
	if r.deps.Tracer != nil {
		r.deps.Tracer.Settled(s)
	}
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
	var delays *backoff.ExponentialBackOff // Made when the first is needed.
	for {
		err := write(ctx)
		if err == nil {
			break
		}
		f := fault.Of(err)
		if f.Kind == fault.Interrupted || ctx.Err() != nil {
			if refused && r.stuck.Add(-1) == 0 {
				// Whoever writes next finds out for himself; with nobody waiting any more, nobody would.
				r.deps.Gate.Clear(fault.Storage)
			}
			return refused, err
		}
		if !refused {
			refused = true
			r.stuck.Add(1)
			delays = retryDelays(r.cfg.RetryInitial, r.cfg.RetryMaxInterval)
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
	var space [15]slog.Attr // Once per update: nothing is boxed, nothing allocated.
	attrs := append(appendIdentity(space[:0], u),
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
	if id := otelTraceID(u); id.Key != "" {
		attrs = append(attrs, id)
	}
	if u.Note != "" {
		attrs = append(attrs, slog.String("note", u.Note))
	}
	// As the logger's LogAttrs does, without looking for the line of code: no handler tells it.
	record := slog.NewRecord(time.Now(), level, "attempt", 0)
	record.AddAttrs(attrs...)
	_ = r.deps.Logger.Handler().Handle(ctx, record) // The logger, too, has nobody to tell.
}

// identity are the attributes that name an update in every line about it.
func identity(u *update.Update) []any {
	var attrs []any
	for _, a := range appendIdentity(nil, u) {
		attrs = append(attrs, a)
	}
	if id := otelTraceID(u); id.Key != "" {
		attrs = append(attrs, id)
	}
	return attrs
}

func appendIdentity(attrs []slog.Attr, u *update.Update) []slog.Attr {
	return append(attrs,
		slog.String("update_id", u.ID),
		slog.Uint64("update_seq", u.Seq),
		slog.String("vorgangsnummer", u.Vorgangsnummer),
		slog.String("kind", string(u.Kind)),
		slog.String("trace_id", u.TraceID),
	)
}
