package hold

import (
	"time"

	"kexrelay/internal/fault"
)

// Record is a hold as all processes of the fleet see it, one per reason. Times are its writer's and for people; what
// decides are durations.
type Record struct {
	Reason fault.Reason
	Since  time.Time
	// NextProbe is when the next try is due, absent where nothing is tried.
	NextProbe time.Time
	// Until is when an operator's hold ends by itself, absent where it does not.
	Until time.Time
	// Detail is scrubbed text for people.
	Detail string
	// Replica and Process raised it.
	Replica, Process string
	// UpdatedAt is when the record was written, Writer the process that wrote it.
	UpdatedAt time.Time
	Writer    string
	// WaitMillis is how long it was, when the record was written, until the next probe, or until an operator's hold
	// ends; 0 for one that ends by a command alone.
	WaitMillis int64
	// Booking reports whether a probe may be a real request, Failed counts the probes that failed.
	Booking bool
	Failed  int
	// Raises grows with every answer that began or prolonged the hold, so that nothing sent before it ends it.
	Raises uint64
	// Prober is the process whose probe is out, ProbedBy its replica, and Probe numbers the probes.
	Prober, ProbedBy string
	Probe            uint64

	// Revision is the store's. Age is how old the record is by the store's own clock, 0 where that was not asked.
	Revision uint64
	Age      time.Duration
}

// remaining is what is left of the wait.
func (r *Record) remaining() time.Duration {
	return max(time.Duration(r.WaitMillis)*time.Millisecond-max(r.Age, 0), 0)
}

// due is when the wait is over, zero if no time ends it.
func (r *Record) due(now time.Time) time.Time {
	if r.Reason == fault.Operator && r.WaitMillis <= 0 {
		return time.Time{}
	}
	return now.Add(r.remaining())
}

// agreement is what a hold has to do with its record.
type agreement struct {
	// revision of the record that was last taken over or written; 0 if there is none yet.
	revision uint64
	raises   uint64
	// process is who raised it.
	process          string
	prober, probedBy string
	probe            uint64
	// claimSeen is when the record was last seen to change.
	claimSeen time.Time

	// raised, ended and ending are what is to be written: an answer that began or prolonged the hold, the end of our
	// probe, and the end of the hold. version is the last change of them.
	raised, ended, ending bool
	version               uint64
	// claimed says that our probe is out.
	claimed bool
	// counted says that a try of this process with a rejected secret was added to what others know.
	counted bool
}

// agreed reports that the record is there and that nothing is to be written.
func (a *agreement) agreed() bool { return a.revision != 0 && !a.raised && !a.ended && !a.ending }

// triedTooLocked reports, once, that this process tried a rejected secret beside the one that told the fleet: each
// try counts against the fleet's five a minute.
func (g *Gate) triedTooLocked(on *hold) bool {
	if g.fleet == nil || on.claimed || on.counted || on.process == g.fleet.cfg.Process {
		return false
	}
	on.counted = true
	return true
}

// draft is what is to be written about a hold.
type draft struct {
	record Record
	// remove says that the record is to go.
	remove bool
	// base is the revision that is replaced, 0 if the record is new; version the state of the hold it was made of.
	base, version uint64
}

// drafts gives the holds about which something is to be written.
func (g *Gate) drafts() []fault.Reason {
	g.mu.Lock()
	defer g.mu.Unlock()
	var reasons []fault.Reason
	for _, reason := range shared() {
		if on, ok := g.holds[reason]; ok && (on.raised || on.ended || on.ending) {
			reasons = append(reasons, reason)
		}
	}
	return reasons
}

// shared are the reasons that hold everybody. Storage is each process's own: what one publish finds out says nothing
// about another's connection, and it ends by itself where it began.
func shared() []fault.Reason {
	var reasons []fault.Reason
	for _, reason := range fault.HoldReasons() {
		if reason != fault.Storage {
			reasons = append(reasons, reason)
		}
	}
	return reasons
}

// draft makes what is to be written about a hold now; ok is false if nothing is.
func (g *Gate) draft(reason fault.Reason) (d draft, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	on, ok := g.holds[reason]
	if !ok {
		return draft{}, false
	}
	if on.raised && !g.fleet.cfg.Active() {
		// The right to send went to somebody else, who finds out by requests of its own.
		on.raised = false
		if on.revision == 0 {
			g.clearLocked(reason)
			return draft{}, false
		}
	}
	if !on.raised && !on.ended && !on.ending {
		return draft{}, false
	}
	d = draft{record: g.recordLocked(on), remove: on.ending, base: on.revision, version: on.version}
	if on.raised {
		d.record.Raises++
	}
	switch {
	case on.claimed:
		d.record.Prober, d.record.ProbedBy = g.fleet.cfg.Process, g.cfg.Replica
	case on.prober == g.fleet.cfg.Process:
		d.record.Prober, d.record.ProbedBy = "", ""
	}
	return d, true
}

// recordLocked is a hold as a record.
func (g *Gate) recordLocked(on *hold) Record {
	now := time.Now()
	r := Record{
		Reason: on.Reason, Since: on.Since, NextProbe: on.NextProbe, Detail: on.Detail,
		Replica: on.Replica, Process: on.process, UpdatedAt: now, Writer: g.fleet.cfg.Process,
		Booking: on.Booking, Failed: on.Probes, Raises: on.raises,
		Prober: on.prober, ProbedBy: on.probedBy, Probe: on.probe,
	}
	if wait := on.NextProbe.Sub(now); !on.NextProbe.IsZero() && wait > 0 {
		r.WaitMillis = (wait + time.Millisecond - 1).Milliseconds()
	}
	return r
}

// stored takes note that a draft was written.
func (g *Gate) stored(d *draft, revision uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	on, ok := g.holds[d.record.Reason]
	if !ok {
		return
	}
	if revision > on.revision {
		g.takeOverLocked(on, &d.record, revision)
	}
	if on.version == d.version {
		on.raised, on.ended = false, false
	}
	g.notifyLocked()
}

// removed takes note that a record was removed, and so ends the hold unless it was raised again meanwhile.
func (g *Gate) removed(d *draft) {
	g.mu.Lock()
	defer g.mu.Unlock()
	reason := d.record.Reason
	g.gone[reason] = max(g.gone[reason], d.base)
	on, ok := g.holds[reason]
	switch {
	case !ok:
	case on.version == d.version:
		g.clearLocked(reason)
	case on.revision <= d.base:
		on.forget()
		g.notifyLocked()
	}
}

// forget says that there is no record any more.
func (a *agreement) forget() {
	a.revision, a.raises, a.prober, a.probedBy, a.probe, a.claimed, a.ended = 0, 0, "", "", 0, false, false
}

// takeOverLocked takes over what a record says about who raised and who probes.
func (g *Gate) takeOverLocked(on *hold, r *Record, revision uint64) {
	on.revision, on.raises, on.claimSeen = revision, r.Raises, time.Now()
	on.prober, on.probedBy, on.probe = r.Prober, r.ProbedBy, r.Probe
	on.Since, on.Replica, on.process = r.Since, r.Replica, r.Process
}
