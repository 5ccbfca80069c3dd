package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"kexrelay/internal/app"
	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
)

// A stream counts as full when less is left than this: then it still takes a comment and refuses a document.
const (
	fullLeftPercent = 1
	fullLeftBytes   = 64 << 10
	fullLeftPart    = 2 // A very small stream is not full before it is half full.

	// stuckAfter is longer than a dead process's request is waited for.
	stuckAfter = 2 * time.Minute
)

// judge says whether all is well, and if not what is to be done about it, the most important thing first.
func (s *status) judge() {
	s.Problems = nil
	for _, look := range []func() string{
		s.noNATS, s.noTopology, s.deadLettersFull, s.consumerPaused, s.cannotWrite, s.noRelay, s.notServed, s.undelivered, s.held, s.kindPaused,
		s.updatesFull, s.documentsFull, s.stuck,
	} {
		if problem := look(); problem != "" {
			s.Problems = append(s.Problems, problem)
			if s.NATS.Problem != "" || !s.Topology.Right {
				break // Nothing else can be known.
			}
		}
	}
	s.Healthy = len(s.Problems) == 0
	if s.Healthy {
		s.Verdict = s.well()
		return
	}
	s.Verdict = s.Problems[0]
}

func (s *status) noNATS() string { return s.NATS.Problem }

func (s *status) noTopology() string {
	problem := strings.ReplaceAll(s.Topology.Problem, "\n", "; ")
	switch {
	case s.Topology.Right:
		return ""
	case s.Topology.NotKnown && len(s.Denied) > 0:
		return "the streams in NATS cannot be looked at, NATS denies it: grant this user the right to " + deniedWords(s.Denied)
	case s.Topology.NotKnown:
		return "the streams in NATS cannot be looked at: " + strings.TrimPrefix(problem, "not known: ")
	}
	return "the streams in NATS are not right: " + problem
}

func deniedWords(subjects []string) string {
	if len(subjects) == 1 {
		return subjects[0]
	}
	return fmt.Sprintf("%s and %s more, see below", subjects[0], strconv.Itoa(len(subjects)-1))
}

// deadLettersFull comes before the hold that it causes.
func (s *status) deadLettersFull() string {
	room, full := s.full(topology.StreamDeadLetters)
	if !full && !s.refused("kex.deadletter.") {
		return ""
	}
	words := "the stream of dead letters takes no more"
	if full {
		words = fmt.Sprintf("the stream of dead letters is full (%s)", roomWords(room))
	}
	return words + ": an update that cannot be booked stays, and all sending is held. Send some back or discard some " +
		"(kexrelay deadletters list --group), or give it more room: kexrelay setup --max-bytes " + topology.StreamDeadLetters + "=SIZE"
}

// refused reports that a subject's stream has no room, by what a storage hold says.
func (s *status) refused(subject string) bool {
	return slices.ContainsFunc(s.storageHolds(), func(detail string) bool {
		return strings.Contains(detail, subject) && strings.Contains(detail, "maximum")
	})
}

// storageHolds is what relays say about NATS not taking or giving something.
func (s *status) storageHolds() []string {
	var details []string
	for _, h := range s.Holds {
		if h.Reason == fault.Storage {
			details = append(details, h.Detail)
		}
	}
	for _, r := range s.Replicas {
		if r.State == nil {
			continue
		}
		for _, h := range r.State.Holds {
			if h.Reason == fault.Storage {
				details = append(details, h.Detail)
			}
		}
	}
	return details
}

func (s *status) consumerPaused() string {
	for _, p := range s.Partitions {
		if p.Paused {
			return fmt.Sprintf("the consumer %s is paused in NATS itself: nats consumer resume %s %s",
				topology.Consumer(p.Partition), topology.StreamUpdates, topology.Consumer(p.Partition))
		}
	}
	return ""
}

// cannotWrite tells what only the relays know: that NATS answers questions and takes nothing, as on a full disk. Where it
// could be written down it is a hold.
func (s *status) cannotWrite() string {
	if slices.ContainsFunc(s.Holds, func(h journal.Hold) bool { return h.Reason == fault.Storage }) {
		return ""
	}
	for i := range s.Replicas {
		r := &s.Replicas[i]
		if r.cannot() != string(fault.Storage) {
			continue
		}
		words := "NATS takes nothing from the relay on " + r.place()
		if details := s.storageHolds(); len(details) > 0 && details[0] != "" {
			words += " (" + details[0] + ")"
		}
		return words + ": make room on the disk of the nats-server and start the server again, or grant the right"
	}
	return ""
}

func (s *status) noRelay() string {
	if s.running() || s.Updates == nil {
		return ""
	}
	heard := ""
	for i := range s.Replicas {
		r := &s.Replicas[i]
		heard = fmt.Sprintf("; the one on %s was last heard of %s ago", r.place(), duration(r.silent()))
	}
	if s.waiting() == 0 {
		return "no relay is running, what is published will wait: start kexrelay serve" + heard
	}
	return waitingWords(s.waiting()) + " and no relay fetches: start kexrelay serve" + heard
}

// notServed says which partitions nobody has taken over.
func (s *status) notServed() string {
	if !s.running() {
		return ""
	}
	var idle []string
	for _, p := range s.Partitions {
		pending := p.Pending > 0 || p.InProgress > 0
		if !s.served(p) && (pending || s.alive() > 0) {
			idle = append(idle, strconv.Itoa(p.Partition))
		}
	}
	switch {
	case len(idle) == 0:
		return ""
	case s.alive() == 0: // By the consumers alone.
		return "no relay fetches the updates of partition " + strings.Join(idle, ", ") + ": start kexrelay serve"
	case s.cannotWrite() != "":
		return ""
	}
	return fmt.Sprintf("%s, but none has taken partition %s over: after one has ended that takes some seconds; if it stays so, see the log of the relays",
		runningWords(s.alive()), strings.Join(idle, ", "))
}

func runningWords(n int) string {
	if n == 1 {
		return "1 relay is running"
	}
	return fmt.Sprintf("%d relays are running", n)
}

func (s *status) undelivered() string {
	if s.Updates == nil || s.Updates.Undelivered == 0 {
		return ""
	}
	words := "1 update is in the stream that no consumer delivers"
	if n := s.Updates.Undelivered; n > 1 {
		words = fmt.Sprintf("%d updates are in the stream that no consumer delivers", n)
	}
	if !s.running() {
		return words + ": start kexrelay serve, it fetches them when it takes the partition over"
	}
	return words + ": a relay fetches them again within a minute; if it does not, make room on the disk of the nats-server and start the server again"
}

func (s *status) held() string {
	if len(s.Holds) == 0 {
		return ""
	}
	words := make([]string, len(s.Holds))
	for i, h := range s.Holds {
		words[i] = s.holdWords(h)
	}
	verdict := "sending is held: " + strings.Join(words, "; ")
	if !s.running() {
		verdict += "; no relay is running, so this may be out of date"
	}
	return verdict
}

// kindPaused says what alone is not sent.
func (s *status) kindPaused() string {
	words := make([]string, len(s.PausedKinds))
	for i, p := range s.PausedKinds {
		words[i] = fmt.Sprintf("updates of kind %s are not sent for %s, somebody paused them: kexrelay resume --kind %s ends that",
			p.Kind, duration(s.CheckedAt.Sub(p.Since)), p.Kind)
		if !p.Until.IsZero() {
			words[i] += "; until " + localTime(p.Until)
		}
	}
	return strings.Join(words, "; ")
}

// holdWords says why, since when and what next, without the detail: that is for the line about the hold alone.
func (s *status) holdWords(h journal.Hold) string {
	words := fmt.Sprintf("%s for %s, %s", h.Reason, duration(s.CheckedAt.Sub(h.Since)), holdMeaning(h.Reason))
	switch wait := h.NextProbe.Sub(s.CheckedAt); {
	case !h.Until.IsZero():
		words += "; until " + localTime(h.Until)
	case h.NextProbe.IsZero():
	case wait > 0:
		words += "; next try in " + duration(wait)
	default:
		words += "; trying now"
	}
	return words
}

// holdMeaning is what a hold's reason means and what a person can do about it, where waiting is not all.
func holdMeaning(reason fault.Reason) string {
	switch reason {
	case fault.Unauthorized:
		return "the client is refused: check its ID and secret (KEX_CLIENT_ID, KEX_CLIENT_SECRET_FILE)"
	case fault.Forbidden:
		return "the API forbids every Vorgang: check the client's scope and its rights in Partnermanagement"
	case fault.Storage:
		return "NATS does not take or give what the relay needs: see the reason below; make room on its disk or with kexrelay setup --max-bytes, or grant the right"
	case fault.Operator:
		return "somebody paused it: kexrelay resume ends that"
	case fault.Throttling:
		return "the API asked for a pause: it goes on by itself"
	case fault.Outage:
		return "the API does not work or cannot be reached: it is tried again by itself; kexrelay doctor says more"
	case fault.BadRequest, fault.Gone, fault.NotFound, fault.Rejected, fault.Redirected, fault.UnknownOutcome,
		fault.Invalid, fault.ObjectMissing, fault.Exhausted, fault.CrashLoop: // Of dead letters alone.
	}
	return "for an unknown reason"
}

// full says whether a stream or bucket takes nothing more.
func (s *status) full(name string) (room roomStatus, full bool) {
	i := slices.IndexFunc(s.Topology.Rooms, func(r roomStatus) bool { return r.Name == name })
	if i < 0 {
		return roomStatus{}, false
	}
	room = s.Topology.Rooms[i]
	if room.MaxBytes <= 0 || !room.Refuses || room.Messages == 0 {
		return room, false
	}
	used := int64(room.Bytes) //nolint:gosec // G115: a disk has less.
	return room, room.MaxBytes-used < max(room.MaxBytes/100*fullLeftPercent, min(fullLeftBytes, room.MaxBytes/fullLeftPart))
}

func roomWords(r roomStatus) string {
	return size(int64(r.Bytes)) + " of " + size(r.MaxBytes) //nolint:gosec // G115: a disk has less.
}

func (s *status) updatesFull() string {
	room, full := s.full(topology.StreamUpdates)
	if !full {
		return ""
	}
	return fmt.Sprintf("the stream of updates is full (%s) and refuses publishers: kexrelay setup --max-bytes %s=SIZE gives it more room",
		roomWords(room), topology.StreamUpdates)
}

func (s *status) documentsFull() string {
	room, full := s.full(topology.BucketDocuments)
	if !full {
		return ""
	}
	return fmt.Sprintf("the bucket of large documents is full (%s) and refuses more: kexrelay setup --max-bytes %s=SIZE gives it more room",
		roomWords(room), topology.BucketDocuments)
}

// stuck is the net below everything else: nothing moves and nothing of what is known says why.
func (s *status) stuck() string {
	if len(s.Problems) > 0 || s.waiting() == 0 || s.Updates.Oldest.IsZero() || s.Results == nil || s.Results.LastMinute > 0 ||
		s.Work == nil || s.Work.InFlight > 0 || s.Work.LanesRetrying > 0 {
		return ""
	}
	age := s.CheckedAt.Sub(s.Updates.Oldest)
	if age < stuckAfter {
		return ""
	}
	return fmt.Sprintf("%s, the oldest for %s, and nothing was settled for a minute although nothing wrong is known: see the log of the relays",
		waitingWords(s.waiting()), duration(age))
}

// well is what there is to say when nothing is wrong.
func (s *status) well() string {
	switch {
	case len(s.Unknown) > 0:
		return "nothing wrong was found, but not everything could be asked"
	case s.waiting() == 0:
		return "nothing is waiting"
	}
	words := waitingWords(s.waiting()) + ", and a relay works on them"
	if s.waiting() == 1 {
		words = "1 update waits, and a relay works on it"
	}
	if s.Work != nil && s.Work.LanesRetrying > 0 {
		words += "; " + count(s.Work.LanesRetrying, "Vorgang waits", "Vorgänge wait") + " to be tried again"
		if failure := s.lastFailure(); failure != nil {
			detail, _, _ := strings.Cut(failure.Detail, ": {") // The API's answer is below.
			words += fmt.Sprintf(" (%s ago: %s)", duration(s.CheckedAt.Sub(failure.At)), detail)
		}
	}
	return words
}

// lastFailure is the latest answer, or missing answer, that a relay is still retrying after.
func (s *status) lastFailure() *app.FailureState {
	var last *app.FailureState
	for _, r := range s.Replicas {
		if r.State != nil && r.State.LastFailure != nil && (last == nil || r.State.LastFailure.At.After(last.At)) {
			last = r.State.LastFailure
		}
	}
	return last
}

// running reports whether there is any relay. What the consumers show outlives one for a while: its own record is better,
// where it may be read.
func (s *status) running() bool { return s.alive() > 0 || s.pulling() > 0 && !s.registered }

// pulling counts the partitions that a relay fetches from.
func (s *status) pulling() int {
	n := 0
	for _, p := range s.Partitions {
		if p.Pulling {
			n++
		}
	}
	return n
}

func (s *status) waiting() uint64 {
	if s.Updates == nil {
		return 0
	}
	return s.Updates.Waiting
}

func waitingWords(n uint64) string {
	if n == 1 {
		return "1 update waits"
	}
	return fmt.Sprintf("%d updates wait", n)
}
