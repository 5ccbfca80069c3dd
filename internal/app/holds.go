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

// holdBoard shows the gate's holds to others: as metrics, and in KEX_CONTROL for `kexrelay status` on any machine.
type holdBoard struct {
	gate    *hold.Gate
	keys    *journal.Holds
	metrics *telemetry.Metrics
	replica string
	logger  *slog.Logger
	shown   map[fault.Reason]hold.Hold
}

func newHoldBoard(gate *hold.Gate, keys *journal.Holds, metrics *telemetry.Metrics, replica string, logger *slog.Logger) *holdBoard {
	return &holdBoard{gate: gate, keys: keys, metrics: metrics, replica: replica, logger: logger, shown: make(map[fault.Reason]hold.Hold)}
}

// run writes every change down until ctx ends, then takes off what it wrote: a relay that is not running holds
// nothing. What a killed predecessor left is taken off at the start.
func (b *holdBoard) run(ctx context.Context) {
	for _, reason := range fault.HoldReasons() {
		b.shown[reason] = hold.Hold{Reason: reason}
	}
	failed := false
	for {
		changed := b.gate.Changed()
		ok := b.write(ctx, b.gate.Holds())
		if !ok && !failed {
			b.logger.Warn("holds could not be written to nats; status does not show them until they can")
		}
		failed = !ok
		var again <-chan time.Time
		if failed {
			again = time.After(5 * time.Second)
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			b.write(context.WithoutCancel(ctx), nil)
			return
		}
	}
}

// write shows exactly the given holds and reports whether all of it could be written.
func (b *holdBoard) write(ctx context.Context, holds []hold.Hold) bool {
	ctx, cancel := context.WithTimeout(ctx, boardTimeout)
	defer cancel()
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
