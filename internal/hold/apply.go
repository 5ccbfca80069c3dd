package hold

import (
	"slices"
	"time"

	"kexrelay/internal/fault"
)

// mark is what is known of a record at one moment.
type mark struct {
	on                      bool
	revision, version, gone uint64
}

// marks notes what is known now, for a list that is read after it: what changes meanwhile is newer than the list.
func (g *Gate) marks() map[fault.Reason]mark {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make(map[fault.Reason]mark)
	for _, reason := range shared() {
		all[reason] = g.markLocked(reason)
	}
	return all
}

func (g *Gate) markLocked(reason fault.Reason) mark {
	m := mark{gone: g.gone[reason]}
	if on, ok := g.holds[reason]; ok {
		m.on, m.revision, m.version = true, on.revision, on.version
	}
	return m
}

// listed brings the gate in line with all records there are, where nothing has changed since before they were read.
// Unlike single changes a list is believed also if its revisions are lower: the bucket may have been made anew. It
// gives the records of pauses that are over and that nobody has removed.
func (g *Gate) listed(records []Record, before map[fault.Reason]mark) (over []Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	found := make(map[fault.Reason]Record, len(records))
	for _, r := range records {
		found[r.Reason] = r
	}
	for _, reason := range shared() {
		if g.markLocked(reason) != before[reason] {
			continue
		}
		r, there := found[reason]
		switch {
		case !there:
			g.goneLocked(reason)
		case !before[reason].on && r.over():
			over = append(over, r)
		default:
			g.applyLocked(&r)
		}
	}
	return over
}

// over reports that the deadline of a pause has passed.
func (r *Record) over() bool {
	return r.Reason == fault.Operator && r.WaitMillis > 0 && r.remaining() == 0
}

// Change is a record that was written or removed.
type Change struct {
	Record
	// Gone says that the record was removed; then only its reason and revision are there.
	Gone bool
}

// happened takes over one change.
func (g *Gate) happened(c *Change) {
	g.mu.Lock()
	defer g.mu.Unlock()
	on, held := g.holds[c.Reason]
	switch {
	case c.Reason == fault.Storage, !slices.Contains(shared(), c.Reason):
	case held && c.Revision <= on.revision, !held && c.Revision <= g.gone[c.Reason]:
		// Older than what is known.
	case c.Gone:
		g.gone[c.Reason] = c.Revision
		g.goneLocked(c.Reason)
	default:
		g.applyLocked(&c.Record)
	}
}

// goneLocked ends a hold whose record is gone. One that was raised here and is not written yet stays: it is newer.
func (g *Gate) goneLocked(reason fault.Reason) {
	on, ok := g.holds[reason]
	switch {
	case !ok, on.revision == 0:
	case on.raised && !on.ending:
		on.forget()
		g.notifyLocked()
	default:
		g.clearLocked(reason)
	}
}

// applyLocked takes a record over that is another than the one that is known.
func (g *Gate) applyLocked(r *Record) {
	now := time.Now()
	on, ok := g.holds[r.Reason]
	if !ok {
		on = g.beginLocked(Hold{Reason: r.Reason, Detail: r.Detail, Booking: r.Booking, Probes: r.Failed}, now)
		on.NextProbe = r.due(now)
		g.takeOverLocked(on, r, r.Revision)
		g.logBeginLocked(on)
		g.notifyLocked()
		return
	}
	if r.Revision == on.revision {
		return
	}
	prolonged := r.Raises != on.raises
	g.takeOverLocked(on, r, r.Revision)
	if on.raised || on.ended {
		g.mergeLocked(on, r, now)
	} else {
		on.Detail, on.Booking, on.Probes, on.NextProbe = r.Detail, r.Booking, r.Failed, r.due(now)
	}
	mine := r.Prober == g.fleet.cfg.Process
	if on.ending { // Written by somebody else since our probe began: what it showed is no longer all there is.
		on.ending, on.ended = false, on.ended || mine && !on.claimed
	}
	on.claimed = on.claimed && mine
	if prolonged {
		g.rev++
		on.rev = g.rev
	}
	g.notifyLocked()
}

// mergeLocked joins what is to be written here with what somebody else wrote first: the longer wait wins.
func (g *Gate) mergeLocked(on *hold, r *Record, now time.Time) {
	on.Booking = on.Booking && r.Booking
	on.Probes = max(on.Probes, r.Failed)
	due := r.due(now)
	if on.NextProbe.IsZero() || due.IsZero() {
		on.NextProbe = due
		return
	}
	if on.raised && on.Reason == fault.Unauthorized && r.Writer != g.fleet.cfg.Process {
		// Each try with a rejected secret counts, and this record does not know of ours.
		due = due.Add(unauthorizedEvery)
		on.counted = true
	}
	on.NextProbe = later(on.NextProbe, due)
}
