package main

import (
	"fmt"
	"strconv"
	"strings"

	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
)

// A stream counts as full when less is left than this: then it still takes a comment and refuses a document.
const (
	fullLeftPercent = 1
	fullLeftBytes   = 64 << 10
)

// judge says whether all is well, and if not the first thing that is to be done about it.
func (s *status) judge() {
	for _, look := range []func() string{
		s.noNATS, s.noTopology, s.consumerPaused, s.noRelay, s.held, s.full,
	} {
		if s.Verdict = look(); s.Verdict != "" {
			s.Healthy = false
			return
		}
	}
	s.Healthy = true
	s.Verdict = s.well()
}

func (s *status) noNATS() string { return s.NATS.Problem }

func (s *status) noTopology() string {
	if s.Topology.Right {
		return ""
	}
	return "the streams in NATS are not right: " + strings.ReplaceAll(s.Topology.Problem, "\n", "; ")
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

func (s *status) noRelay() string {
	if s.waiting() == 0 {
		return ""
	}
	var idle []string
	for _, p := range s.Partitions {
		if !p.Pulling && (p.Pending > 0 || p.InProgress > 0) {
			idle = append(idle, strconv.Itoa(p.Partition))
		}
	}
	switch {
	case len(idle) == 0:
		return ""
	case s.pulling() == 0:
		return waitingWords(s.waiting()) + " and no relay fetches: start kexrelay serve"
	}
	return "no relay fetches the updates of partition " + strings.Join(idle, ", ")
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
	if s.pulling() == 0 {
		verdict += "; no relay is running, so this may be out of date"
	}
	return verdict
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
		return "NATS refuses results or dead letters: make room on its disk or with kexrelay setup --max-bytes"
	case fault.Operator:
		return "somebody paused it"
	case fault.Throttling:
		return "the API asked for a pause"
	case fault.Outage:
		return "the API does not work"
	case fault.BadRequest, fault.Gone, fault.NotFound, fault.Rejected, fault.Redirected, fault.UnknownOutcome,
		fault.Invalid, fault.ObjectMissing, fault.Exhausted, fault.CrashLoop: // Of dead letters alone.
	}
	return "for an unknown reason"
}

func (s *status) full() string {
	if s.waiting() == 0 || s.Updates.MaxBytes <= 0 {
		return ""
	}
	used := int64(s.Updates.Bytes) //nolint:gosec // G115: a disk has less.
	if s.Updates.MaxBytes-used >= max(s.Updates.MaxBytes/100*fullLeftPercent, fullLeftBytes) {
		return ""
	}
	return fmt.Sprintf("the stream of updates is full (%s of %s) and refuses publishers: kexrelay setup --max-bytes %s=SIZE gives it more room",
		size(used), size(s.Updates.MaxBytes), topology.StreamUpdates)
}

// well is what there is to say when nothing is wrong.
func (s *status) well() string {
	switch {
	case len(s.Unknown) > 0:
		return "nothing wrong was found, but not everything could be asked"
	case s.waiting() == 0 && s.pulling() == 0:
		return "nothing is waiting, and no relay is running"
	case s.waiting() == 0:
		return "nothing is waiting"
	case s.waiting() == 1:
		return "1 update waits, and a relay works on it"
	}
	return waitingWords(s.waiting()) + ", and a relay works on them"
}

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
