package hold

import (
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"kexrelay/internal/fault"
)

// An operator may pause one kind of updates alone. Such a pause is no hold: everything else is sent, nothing is probed,
// and only a command or its deadline ends it. Its record lies beside the holds' under a reason of its own
// (fault.OperatorFor), which processes that do not know of kinds pass over.

// kindPause is one that is on.
type kindPause struct {
	Hold
	revision uint64
	// began is when this process began to keep it.
	began time.Time
}

// kinds is what a gate knows of them; guarded by the gate's mutex.
type kinds struct {
	on map[string]kindPause
	// gone is the revision up to which a record is known to be gone, version counts what changed.
	gone    map[string]uint64
	version uint64
	// total is how long each kind was paused before.
	total   map[string]time.Duration
	changed func()
}

// KindPaused reports whether an operator paused this kind of updates. It is asked for every update, and costs nothing
// worth speaking of while none is.
func (g *Gate) KindPaused(kind string) bool {
	paused := g.pausedKinds.Load()
	return paused != nil && slices.Contains(*paused, kind)
}

// Kinds lists the pauses of one kind that are on.
func (g *Gate) Kinds() []Hold {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []Hold
	for _, kind := range slices.Sorted(maps.Keys(g.kinds.on)) {
		list = append(list, g.kinds.on[kind].Hold)
	}
	return list
}

// KindHeldFor is how long a kind has been paused in all since the gate was made: no retry budget is charged for it.
func (g *Gate) KindHeldFor(kind string) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	total := g.kinds.total[kind]
	if on, ok := g.kinds.on[kind]; ok {
		total += time.Since(on.began)
	}
	return total
}

// OnKinds names what is called after each change of what is paused. It must be quick, and come before the gate is used.
func (g *Gate) OnKinds(changed func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.kinds.changed = changed
}

// kindOf is the kind that a record is about.
func kindOf(reason fault.Reason) (kind string, ok bool) {
	return strings.CutPrefix(string(reason), string(fault.OperatorFor("")))
}

// KindChanged takes over a pause of one kind that was written or removed.
func (g *Gate) KindChanged(c Change) {
	kind, ok := kindOf(c.Reason)
	if !ok {
		return
	}
	g.changeKinds(func() bool {
		on, paused := g.kinds.on[kind]
		switch {
		case paused && c.Revision <= on.revision, !paused && c.Revision <= g.kinds.gone[kind]:
			return false // Older than what is known.
		case c.Gone:
			g.kinds.gone[kind] = c.Revision
			return g.kindGoneLocked(kind)
		}
		g.kindOnLocked(kind, &c.Record)
		return true
	})
}

// kindsVersion is what is known now, for a list that is read after it.
func (g *Gate) kindsVersion() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.kinds.version
}

// kindsListed takes over all pauses there are, if nothing has changed since the version. It gives those that are over.
func (g *Gate) kindsListed(records []Record, version uint64) (over []Record) {
	g.changeKinds(func() (changed bool) {
		if g.kinds.version != version {
			return false
		}
		found := make(map[string]bool)
		for _, r := range records {
			kind, ok := kindOf(r.Reason)
			switch {
			case !ok:
			case r.WaitMillis > 0 && r.remaining() == 0:
				over = append(over, r)
			default:
				found[kind] = true
				if g.kinds.on[kind].revision != r.Revision {
					g.kindOnLocked(kind, &r)
					changed = true
				}
			}
		}
		for kind := range g.kinds.on {
			if !found[kind] {
				changed = g.kindGoneLocked(kind) || changed
			}
		}
		return changed
	})
	return over
}

// expireKinds ends the pauses whose deadline has come.
func (g *Gate) expireKinds(now time.Time) {
	g.changeKinds(func() (changed bool) {
		for kind, on := range g.kinds.on {
			if !on.NextProbe.IsZero() && !on.NextProbe.After(now) {
				g.kinds.gone[kind] = on.revision
				changed = g.kindGoneLocked(kind) || changed
			}
		}
		return changed
	})
}

// untilKindExpiryLocked is how long it is until the next deadline, or the wait if that is sooner.
func (g *Gate) untilKindExpiryLocked(wait time.Duration) time.Duration {
	for _, on := range g.kinds.on {
		if !on.NextProbe.IsZero() {
			wait = min(wait, time.Until(on.NextProbe))
		}
	}
	return wait
}

// changeKinds makes a change and tells of it, the latter without the mutex.
func (g *Gate) changeKinds(change func() bool) {
	g.mu.Lock()
	if !change() {
		g.mu.Unlock()
		return
	}
	g.kinds.version++
	if len(g.kinds.on) == 0 {
		g.pausedKinds.Store(nil)
	} else {
		paused := slices.Sorted(maps.Keys(g.kinds.on))
		g.pausedKinds.Store(&paused)
	}
	g.notifyLocked()
	tell := g.kinds.changed
	g.mu.Unlock()
	if tell != nil {
		tell()
	}
}

func (g *Gate) kindOnLocked(kind string, r *Record) {
	now := time.Now()
	on, paused := g.kinds.on[kind]
	if !paused {
		on.began = now
	}
	on.revision = r.Revision
	on.Hold = Hold{Reason: fault.Operator, Kind: kind, Detail: r.Detail, Since: r.Since, Replica: r.Replica}
	if r.WaitMillis > 0 {
		on.NextProbe = now.Add(r.remaining())
	}
	g.kinds.on[kind] = on
	if !paused {
		attrs := []any{slog.String("kind", kind), slog.String("detail", r.Detail), slog.String("raised_by", r.Replica)}
		if !on.NextProbe.IsZero() {
			attrs = append(attrs, slog.Time("until", on.NextProbe))
		}
		g.cfg.Logger.Warn("a kind of updates is paused", attrs...)
	}
}

func (g *Gate) kindGoneLocked(kind string) bool {
	on, paused := g.kinds.on[kind]
	if !paused {
		return false
	}
	held := time.Since(on.began)
	g.kinds.total[kind] += held
	delete(g.kinds.on, kind)
	g.cfg.Logger.Info("a kind of updates is no longer paused", slog.String("kind", kind), slog.Duration("held", held))
	return true
}
