package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/hold"
	"kexrelay/internal/journal"
	"kexrelay/internal/update"
)

// probeMargin is how much longer than a request another replica's probe may take before it counts as dead.
const probeMargin = 5 * time.Second

// holdsTimeout is how long, at most, the holds are asked for before a partition that was taken over is given back.
const holdsTimeout = 12 * time.Second

// shareHolds joins the gate with those of all replicas. ctx's end is the process's: what its last requests showed is
// told although the leases are given back by then.
func (p *relayProcess) shareHolds(ctx context.Context) {
	p.fleet = p.gate.Share(hold.Sharing{
		Store:    holdStore{journal.NewHolds(p.conn.Load().JetStream())},
		Process:  rand.Text(),
		Takeover: p.cfg.KEX.RequestTimeout + probeMargin,
		Active:   func() bool { return p.leased.Load() > 0 || ctx.Err() != nil },
	})
}

// inheritHolds takes over what is held before anything is sent: a replica must not find out about a throttle by being
// throttled. A cluster that has lost a server may need as long as an election takes to say it; to give up earlier would
// only mean to take the partition over from the beginning.
func (p *relayProcess) inheritHolds(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, holdsTimeout)
	defer cancel()
	for {
		err := p.fleet.Refresh(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		pause(ctx, takeAgain)
	}
}

// showHolds keeps the metrics of holds in line with the gate until ctx ends.
func (p *relayProcess) showHolds(ctx context.Context) {
	for {
		changed := p.gate.Changed()
		since := make(map[fault.Reason]time.Time)
		for _, h := range p.gate.Holds() {
			since[h.Reason] = h.Since
		}
		for _, reason := range fault.HoldReasons() {
			at, on := since[reason]
			p.metrics.Hold(reason, on, at)
		}
		for _, kind := range update.Kinds() {
			p.metrics.KindPaused(kind, p.gate.KindPaused(string(kind)))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// holdStore is journal's holds in the gate's terms: the two do not know each other.
type holdStore struct{ keys *journal.Holds }

// Create writes a record for a reason that has none.
func (s holdStore) Create(ctx context.Context, r hold.Record) (uint64, error) {
	revision, err := s.keys.Create(ctx, journal.Hold(r))
	return revision, holdError(err)
}

// Update replaces a record that is at revision.
func (s holdStore) Update(ctx context.Context, r hold.Record, revision uint64) (uint64, error) {
	revision, err := s.keys.Update(ctx, journal.Hold(r), revision)
	return revision, holdError(err)
}

// Remove removes a record that is at revision.
func (s holdStore) Remove(ctx context.Context, reason fault.Reason, revision uint64) error {
	return holdError(s.keys.Remove(ctx, reason, revision))
}

// Get reads one record.
func (s holdStore) Get(ctx context.Context, reason fault.Reason) (hold.Record, error) {
	h, err := s.keys.Get(ctx, reason)
	return hold.Record(h), holdError(err)
}

// List reads all records.
func (s holdStore) List(ctx context.Context) ([]hold.Record, error) {
	holds, err := s.keys.List(ctx)
	if err == nil {
		var kinds []journal.Hold
		kinds, err = s.keys.Kinds(ctx)
		holds = append(holds, kinds...)
	}
	records := make([]hold.Record, len(holds))
	for i, h := range holds {
		records[i] = hold.Record(h)
	}
	return records, err
}

// Watch follows all records.
func (s holdStore) Watch(ctx context.Context, tell func(hold.Change)) error {
	return s.keys.Watch(ctx, func(c journal.HoldChange) {
		tell(hold.Change{Record: hold.Record(c.Hold), Gone: c.Gone})
	})
}

// holdError is an error of journal in the gate's terms.
func holdError(err error) error {
	switch {
	case errors.Is(err, journal.ErrHoldChanged):
		return fmt.Errorf("%w: %w", hold.ErrConflict, err)
	case errors.Is(err, journal.ErrNoHold):
		return fmt.Errorf("%w: %w", hold.ErrGone, err)
	}
	return err
}
