package app

import (
	"context"
	"log/slog"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/hold"
	"kexrelay/internal/journal"
	"kexrelay/internal/telemetry"
)

// boardTimeout bounds writing one hold down.
const boardTimeout = 3 * time.Second

// boardPause is how often it is looked whether this process has begun to send.
const boardPause = time.Second

// holdBoard shows the gate's holds to others: as metrics, and in KEX_CONTROL for `kexrelay status` on any machine.
type holdBoard struct {
	gate    *hold.Gate
	keys    *journal.Holds
	metrics *telemetry.Metrics
	replica string
	logger  *slog.Logger
	// active reports whether this process sends: only then its holds are everybody's.
	active func() bool
	shown  map[fault.Reason]hold.Hold
}

func newHoldBoard(gate *hold.Gate, keys *journal.Holds, metrics *telemetry.Metrics, replica string, logger *slog.Logger, active func() bool) *holdBoard {
	return &holdBoard{gate: gate, keys: keys, metrics: metrics, replica: replica, logger: logger, active: active}
}

// run writes every change down until ctx ends. What is on then stays written: the next holder goes on with it. What
// a predecessor left and this process has not taken over is taken off at the start.
func (b *holdBoard) run(ctx context.Context) {
	failed := false
	for {
		changed := b.gate.Changed()
		wait := boardPause
		switch {
		case !b.active():
			b.shown = nil // The keys are another replica's.
		case b.write(ctx, b.gate.Holds()):
			failed = false
		default:
			if !failed {
				b.logger.Warn("holds could not be written to nats; status does not show them until they can")
			}
			failed, wait = true, 5*boardPause
		}
		timer := time.NewTimer(wait)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// write shows exactly the given holds and reports whether all of it could be written.
func (b *holdBoard) write(ctx context.Context, holds []hold.Hold) bool {
	ctx, cancel := context.WithTimeout(ctx, boardTimeout)
	defer cancel()
	if b.shown == nil {
		b.shown = make(map[fault.Reason]hold.Hold)
		for _, reason := range fault.HoldReasons() {
			b.shown[reason] = hold.Hold{Reason: reason}
		}
	}
	on := make(map[fault.Reason]bool, len(holds))
	complete := true
	for _, h := range holds {
		on[h.Reason] = true
		b.metrics.Hold(h.Reason, true, h.Since)
		if b.shown[h.Reason] == h {
			continue
		}
		if err := b.keys.Put(ctx, journal.Hold{
			Reason: h.Reason, Since: h.Since, NextProbe: h.NextProbe, Detail: h.Detail, Replica: b.replica,
		}); err != nil {
			complete = false
			continue
		}
		b.shown[h.Reason] = h
	}
	for reason := range b.shown {
		if on[reason] {
			continue
		}
		b.metrics.Hold(reason, false, time.Time{})
		if err := b.keys.Remove(ctx, reason); err != nil {
			complete = false
			continue
		}
		delete(b.shown, reason)
	}
	return complete
}

// inheritHolds goes on with the holds that the former holder of a lease has written down: a new process must not
// find out about a throttle by being throttled. What is left of a wait is told by durations of the writer's clock,
// so that a wrong clock here does no harm.
func (p *relayProcess) inheritHolds(ctx context.Context) error {
	holds, err := journal.NewHolds(p.conn.Load().JetStream()).List(ctx)
	if err != nil {
		return err
	}
	for _, h := range holds {
		// Storage speaks for itself; what this process holds already it knows better.
		if h.Reason == fault.Storage || p.gate.Held(h.Reason) {
			continue
		}
		// Whether outcomes were unknown is not written down: the first probe of an outage books nothing.
		p.gate.Raise(h.Reason, max(h.NextProbe.Sub(h.UpdatedAt), 0), h.Detail, h.Reason != fault.Outage)
	}
	return nil
}
