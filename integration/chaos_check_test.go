package integration

import (
	"fmt"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/simulator"
	"kexrelay/internal/update"
)

// chaosChecks are what must be true after every run, whatever was broken. Each gives what it found against it.
var chaosChecks = []struct {
	name string
	run  func(*evidence) []string
}{
	{"checkLost", checkLost},
	{"checkResults", checkResults},
	{"checkDeadLetters", checkDeadLetters},
	{"checkBooked", checkBooked},
	{"checkDuplicates", checkDuplicates},
	{"checkOrder", checkOrder},
	{"checkOverlap", checkOverlap},
	{"checkTraceIDs", checkTraceIDs},
	{"checkFlags", checkFlags},
	{"checkFlagMissing", checkFlagMissing},
	{"checkFlagCount", checkFlagCount},
	{"checkPending", checkPending},
	{"checkStall", checkStall},
}

func isFlagged(e *journal.Event) bool {
	return e.Data.PossibleDuplicate || e.Data.Reason == fault.UnknownOutcome || e.Data.Reason == fault.CrashLoop
}

// checkLost: every acknowledged publish has ended, and one that was called a duplicate was not stored again.
func checkLost(e *evidence) (found []string) {
	for _, trace := range e.traces() {
		u := e.updates[trace]
		ended := make(map[uint64]bool)
		for _, event := range e.settled[trace] {
			ended[event.Data.UpdateSeq] = true
		}
		for _, seq := range u.acked {
			if !ended[seq] {
				found = append(found, fmt.Sprintf("update %d (%s, Vorgang %s) was acknowledged and has no result", seq, trace, u.vorgang))
			}
		}
		if u.repeats != "" && u.duplicate && u.tries == 1 && len(e.settled[trace]) > 0 {
			found = append(found, trace+" was called a duplicate and has a result all the same")
		}
	}
	return found
}

// checkResults: each update that is in the stream ended once and as one thing.
func checkResults(e *evidence) (found []string) {
	for trace, events := range e.settled {
		u := e.updates[trace]
		if u == nil {
			found = append(found, "result of an update nobody published: "+trace)
			continue
		}
		acked := make(map[uint64]bool)
		for _, seq := range u.acked {
			acked[seq] = true
		}
		ended := make(map[uint64]update.Outcome)
		for _, event := range events {
			d := event.Data
			if before := ended[d.UpdateSeq]; before != "" {
				found = append(found, fmt.Sprintf("update %d (%s) ended twice: %s and %s", d.UpdateSeq, trace, before, d.Outcome))
			}
			ended[d.UpdateSeq] = d.Outcome
			if !acked[d.UpdateSeq] && u.tries == 1 {
				found = append(found, fmt.Sprintf("update %d (%s) ended, but its only PubAck named %v", d.UpdateSeq, trace, u.acked))
			}
			if d.Vorgangsnummer != u.vorgang {
				found = append(found, fmt.Sprintf("update %d (%s) of Vorgang %s: its result says %s", d.UpdateSeq, trace, u.vorgang, d.Vorgangsnummer))
			}
		}
	}
	return found
}

// checkDeadLetters: there are as many dead letters as results that say so, each named by its own.
func checkDeadLetters(e *evidence) (found []string) {
	named := make(map[uint64]bool)
	for _, event := range e.results {
		if event.Data.Outcome != update.DeadLettered {
			continue
		}
		seq := event.Data.DeadLetterSeq
		if named[seq] {
			found = append(found, fmt.Sprintf("two results name dead letter %d", seq))
		}
		named[seq] = true
		if got, ok := e.letters[seq]; !ok || got != event.Data.UpdateSeq {
			found = append(found, fmt.Sprintf("the result of update %d names dead letter %d, which is of update %d", event.Data.UpdateSeq, seq, got))
		}
	}
	for seq, updateSeq := range e.letters {
		if !named[seq] {
			found = append(found, fmt.Sprintf("no result names dead letter %d of update %d", seq, updateSeq))
		}
	}
	return found
}

// checkBooked: what was delivered is booked, byte for byte; what is a dead letter is not, unless flagged; what is
// invalid was never sent.
func checkBooked(e *evidence) (found []string) {
	for trace, events := range e.settled {
		u, booked := e.updates[trace], e.bookings(trace)
		if u == nil {
			continue // checkResults says so.
		}
		for _, event := range events {
			switch {
			case event.Data.Outcome == update.Delivered && len(booked) == 0:
				found = append(found, trace+" was delivered but never booked")
			case event.Data.Outcome == update.DeadLettered && len(booked) > 0 && !e.flagged(trace) && !e.told(trace) && !e.storedAgain(trace):
				found = append(found, fmt.Sprintf("%s is a dead letter (%s) but was booked", trace, event.Data.Reason))
			}
		}
		if u.invalid && len(e.sent[trace]) > 0 {
			found = append(found, trace+" is invalid but was sent")
		}
		for _, r := range booked {
			if r.Digest != u.digest || r.Vorgangsnummer != u.vorgang || r.Kind != u.kind {
				found = append(found, fmt.Sprintf("%s was booked as something else: %s for Vorgang %s", trace, r.Kind, r.Vorgangsnummer))
			}
		}
	}
	for trace := range e.sent {
		if e.settled[trace] == nil {
			found = append(found, trace+" was sent but has no result")
		}
	}
	return found
}

// checkDuplicates: nothing was booked more than once without a word.
func checkDuplicates(e *evidence) (found []string) {
	for trace := range e.sent {
		n := len(e.bookings(trace))
		if allowed := max(1, len(e.settled[trace])); n > allowed && !e.flagged(trace) && !e.told(trace) {
			found = append(found, fmt.Sprintf("%s was booked %d times without a word", trace, n))
		}
	}
	return found
}

// checkOrder: one Vorgang's updates were first booked in the order of the stream. A request that the network delivered
// late may come after its time, which is flagged or told.
func checkOrder(e *evidence) (found []string) {
	breaks, _ := e.orderBreaks()
	return breaks
}

// orderBreaks are the first bookings out of order, and how many of them were flagged or told.
func (e *evidence) orderBreaks() (breaks []string, excused int) {
	type last struct {
		seq   uint64
		trace string
	}
	latest, seen := make(map[string]last), make(map[string]bool)
	for _, r := range byBooking(e.requests) {
		trace, _ := attemptOf(r.TraceID)
		if seen[trace] || e.updates[trace] == nil || e.storedAgain(trace) {
			continue
		}
		seen[trace] = true
		if len(e.settled[trace]) == 0 {
			continue // checkBooked says so.
		}
		seq, before := e.settled[trace][0].Data.UpdateSeq, latest[r.Vorgangsnummer]
		switch {
		case seq > before.seq:
			latest[r.Vorgangsnummer] = last{seq, trace}
		case e.flagged(trace) || e.told(trace):
			excused++
		default:
			breaks = append(breaks, fmt.Sprintf("Vorgang %s: update %d (%s) was booked after %d (%s)", r.Vorgangsnummer, seq, trace, before.seq, before.trace))
		}
	}
	return breaks, excused
}

// checkOverlap: no request came while another one of its Vorgang was being worked on, unless that one's outcome is
// known to be unknown.
func checkOverlap(e *evidence) (found []string) {
	last := make(map[string][]simulator.Request)
	for _, r := range ordered(e.requests) {
		if r.Vorgangsnummer == "" {
			continue
		}
		if r.Overlapping {
			for _, other := range last[r.Vorgangsnummer] {
				trace, _ := attemptOf(other.TraceID)
				if other.AnsweredAt.After(r.ReceivedAt) && !e.flagged(trace) && !e.told(trace) {
					found = append(found, fmt.Sprintf("%s came while %s of the same Vorgang was being worked on", r.TraceID, other.TraceID))
				}
			}
		}
		last[r.Vorgangsnummer] = append(last[r.Vorgangsnummer], r)
	}
	return found
}

// checkTraceIDs: no two requests had the same trace ID.
func checkTraceIDs(e *evidence) (found []string) {
	for id, n := range e.repeated {
		if trace, _ := attemptOf(id); e.updates[trace] == nil || !e.storedAgain(trace) {
			found = append(found, fmt.Sprintf("%d requests with the trace ID %s", n, id))
		}
	}
	return found
}

// checkPending: nothing waits any more.
func checkPending(e *evidence) []string { return e.pending }

// stallLimit is how long the relay may send nothing while it could.
const stallLimit = 45 * time.Second

// checkStall: the relay went on when it could.
func checkStall(e *evidence) (found []string) {
	if worst, at := e.worstStall(); worst > stallLimit {
		found = append(found, fmt.Sprintf("nothing was sent for %v, from %v on", worst, at))
	}
	return found
}
