package integration

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/simulator"
	"kexrelay/internal/update"
)

// checkFlags: every flag, and every notice of a second booking, has a reason. Of at least one of the update's attempts
// the relay could not know what became of it:
//
//   - it came to the API and was not answered, or with 502 or 504;
//   - it was answered, but the way to the API was in trouble, or the API took longer than the request timeout;
//   - it was answered, but the process that sent it died, was stopped or frozen before the update's next attempt, or was
//     cut off from NATS and another process made that attempt;
//   - it never came, but a record may have been left: a process died, or a link was in trouble, when it would have come.
func checkFlags(e *evidence) (found []string) {
	for _, trace := range e.traces() {
		for _, event := range append(e.settled[trace], e.notices[trace]...) {
			if !isFlagged(&event) && event.Data.Outcome != update.DoubleBooked {
				continue
			}
			if e.storedAgain(trace) || e.justified(trace, &event) {
				continue
			}
			found = append(found, fmt.Sprintf("%s (update %d): %s %s after %d attempts, possible duplicate %v, without a cause. %s",
				trace, event.Data.UpdateSeq, event.Data.Outcome, event.Data.Reason, event.Data.Attempts, event.Data.PossibleDuplicate, e.story(trace)))
		}
	}
	return found
}

// The slack that causes are given: a lease that was not renewed runs out later, and what died a moment before a request
// arrived may have sent it.
const (
	leaseSlack = 6 * time.Second
	linkSlack  = 500 * time.Millisecond
)

// justified reports whether one of an update's attempts had an outcome that the relay could not know.
func (e *evidence) justified(trace string, event *journal.Event) bool {
	attempts := e.sent[trace]
	most := max(event.Data.Attempts, 1)
	for n := range attempts {
		most = max(most, n)
	}
	for n := 1; n <= most; n++ {
		if len(attempts[n]) == 0 {
			if e.neverCame(trace, n, event) {
				return true
			}
			continue
		}
		for _, r := range attempts[n] {
			if r.TraceID == event.Data.RequestID && answered(event) {
				continue // Its answer is what the update ended with.
			}
			if unanswered(&r) || e.answerLost(trace, n, &r, event) {
				return true
			}
		}
	}
	return false
}

// answered reports that a settlement is what the API answered to its request, so that this one gives no reason for a flag.
func answered(event *journal.Event) bool {
	return event.Data.Outcome == update.Delivered || event.Data.Outcome == update.DeadLettered &&
		event.Data.Reason != fault.UnknownOutcome && event.Data.Reason != fault.CrashLoop
}

// unanswered reports that the API itself left a request's outcome open.
func unanswered(r *simulator.Request) bool {
	return r.Status == 0 || r.Status == http.StatusBadGateway || r.Status == http.StatusGatewayTimeout ||
		r.ClientGone || r.AnsweredAt.Sub(r.ReceivedAt) >= chaosTimeout
}

// answerLost reports that a request was answered, but that whoever sent it may not have learned of it, or could not
// write it down.
func (e *evidence) answerLost(trace string, n int, r *simulator.Request, event *journal.Event) bool {
	by := e.handlers[r.TraceID]
	if e.troubled(r.ReceivedAt.Add(-chaosTimeout), r.AnsweredAt.Add(linkSlack), func(t trouble) bool {
		return t.kind == apiLink && t.replica == by.replica
	}) {
		return true
	}
	until := event.Data.SettledAt
	another := true
	if next := e.sent[trace][n+1]; len(next) > 0 {
		until, another = next[0].ReceivedAt, e.handlers[next[0].TraceID] != by
	}
	if e.troubled(r.ReceivedAt, until, func(t trouble) bool {
		return t.replica == by.replica && (t.kind == died || t.kind == frozen || t.kind == stopped)
	}) {
		return true
	}
	return another && e.troubled(r.ReceivedAt.Add(-leaseSlack), until, func(t trouble) bool {
		return t.kind == natsDown || t.kind == natsLink && t.replica == by.replica
	})
}

// neverCame reports that a record may have been left for an attempt that the API never saw.
func (e *evidence) neverCame(trace string, n int, event *journal.Event) bool {
	from, to := event.Data.ReceivedAt, event.Data.SettledAt
	if before := e.sent[trace][n-1]; len(before) > 0 {
		from = before[0].AnsweredAt
	}
	if next := e.sent[trace][n+1]; len(next) > 0 {
		to = next[0].ReceivedAt
	}
	return e.troubled(from.Add(-leaseSlack), to, func(trouble) bool { return true })
}

// story tells an update's attempts and what went wrong meanwhile.
func (e *evidence) story(trace string) string {
	var text strings.Builder
	var begin, end time.Time
	for n := 1; n <= len(e.sent[trace])+3; n++ {
		for _, r := range e.sent[trace][n] {
			if begin.IsZero() {
				begin = r.ReceivedAt
			}
			end = r.AnsweredAt
			by := e.handlers[r.TraceID]
			fmt.Fprintf(&text, "[attempt %d by replica %d start %d at %s: %d, booked %v, %v] ", n, by.replica, by.generation,
				r.ReceivedAt.UTC().Format("15:04:05.000"), r.Status, r.Booked, r.AnsweredAt.Sub(r.ReceivedAt).Round(time.Millisecond))
		}
	}
	for _, t := range e.troubles {
		if t.from.Before(end.Add(leaseSlack)) && (t.to.IsZero() || t.to.After(begin.Add(-leaseSlack))) {
			fmt.Fprintf(&text, "{%s of %d from %s to %s} ", t.kind, t.replica, t.from.UTC().Format("15:04:05.000"), t.to.UTC().Format("15:04:05.000"))
		}
	}
	return text.String()
}

// checkFlagMissing: an update with an attempt before its last that came whole to the API and was not answered, or with
// 502 or 504, says so.
func checkFlagMissing(e *evidence) (found []string) {
	for trace, attempts := range e.sent {
		if e.flagged(trace) || e.told(trace) || e.updates[trace] == nil || e.storedAgain(trace) {
			continue
		}
		for n, requests := range attempts {
			for _, r := range requests {
				open := r.Digest != "" && (r.Status == 0 || r.Status == http.StatusBadGateway || r.Status == http.StatusGatewayTimeout)
				if open && len(e.settled[trace]) > 0 {
					found = append(found, fmt.Sprintf("%s: nobody knows what became of attempt %d, and its result does not say so. %s", trace, n, e.story(trace)))
				}
			}
		}
	}
	return found
}

// chaosConcurrency is how many requests a replica makes at a time: the default.
const chaosConcurrency = 64

// checkFlagCount: what was booked more than once is no more than what was being sent when something went wrong, and what
// the API itself booked without a usable answer.
func checkFlagCount(e *evidence) []string {
	duplicates, limit := 0, chaosConcurrency*len(e.troubles)
	for trace := range e.sent {
		if len(e.bookings(trace)) > 1 {
			duplicates++
		}
	}
	for _, r := range e.requests {
		if r.Booked && !r.ClientGone && (r.Status == 0 || r.Status == http.StatusGatewayTimeout) {
			limit++
		}
	}
	if duplicates > limit {
		return []string{fmt.Sprintf("%d updates were booked more than once, at most %d can have been", duplicates, limit)}
	}
	return nil
}
