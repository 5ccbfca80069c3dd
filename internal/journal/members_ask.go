package journal

import (
	"context"
	"errors"
	"time"
)

// deaf is how long the reader of the records may give none before they are asked for one by one: our own record is
// written each second.
func (m *Members) deaf() time.Duration { return 3 * m.leases.timing.renew / 2 }

// askWhileDeaf asks for the records each second while their reader gives none, until ctx ends. The reader needs a consumer,
// and so a leader of all of JetStream, which a cluster that has lost a server may have seconds later than one of the
// bucket: all the time in which nobody watches is added to the 5 s for which a lease must be watched.
func (m *Members) askWhileDeaf(ctx context.Context) {
	timing := m.leases.timing
	m.heard.Store(int64(m.leases.clock() - timing.renew)) // Who has just begun to read has heard nothing at all.
	for ctx.Err() == nil {
		if m.leases.clock()-time.Duration(m.heard.Load()) <= m.deaf() {
			pause(ctx, timing.poll)
			continue
		}
		wait := timing.renew
		if m.ask(ctx) != nil {
			wait = timing.poll // There may be a leader in the next moment.
		}
		pause(ctx, wait)
	}
}

// ask takes in the records as the bucket's leader has them now. An error ends it and is not logged: whoever writes the
// records tells of it.
func (m *Members) ask(ctx context.Context) error {
	// Whatever is read is at least as young as this. Our own record, which says how young everything is, must not claim
	// more.
	began := m.leases.clock()
	defer m.tellChanged()
	for n, known := 0, m.view.partitions(); ; n++ {
		var record leaseRecord
		seen, readable, err := m.askFor(ctx, leaseKey(n), &record)
		switch {
		case errors.Is(err, errNoKey) && n < known: // Nobody ever held it, or it was removed.
			continue
		case errors.Is(err, errNoKey):
		case err != nil:
			return err
		default:
			m.view.sawLease(n, seen, record, readable && record.Released)
			continue
		}
		break
	}
	for slot := 0; ; slot++ {
		var record replicaRecord
		seen, readable, err := m.askFor(ctx, replicaKey(slot), &record)
		if errors.Is(err, errNoKey) { // Slots are taken from the first on and never removed: there are no more.
			return nil
		}
		if err != nil {
			return err
		}
		if !readable {
			record = replicaRecord{Gone: true}
		}
		if record.Process == m.leases.process {
			seen.since = began
		}
		m.view.sawReplica(slot, seen, record)
	}
}

// askFor reads one record. One that is there and cannot be read is no error.
func (m *Members) askFor(ctx context.Context, key string, into any) (seen sighting, readable bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, m.leases.timing.call)
	defer cancel()
	w, err := m.leases.store.get(ctx, key, into)
	if err != nil && w.revision == 0 {
		return sighting{}, false, err
	}
	// Measured after the answer, and so after the sending of the renewal it shows.
	return sighting{revision: w.revision, since: m.leases.clock(), at: w.at}, err == nil, nil
}
