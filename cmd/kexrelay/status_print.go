package main

import (
	"fmt"
	"strconv"
	"strings"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// print prints the status for people or programs.
func (s *status) print(p *printer) error {
	if p.json {
		return p.object(s)
	}
	mark, word := good, "well"
	if !s.Healthy {
		mark, word = bad, "not well"
	}
	said := append([]string{s.Verdict}, s.Problems[min(1, len(s.Problems)):]...)
	lead, indent := p.paint(mark, word)+": ", strings.Repeat(" ", len(word)+2)
	for i, sentence := range said {
		if i > 0 {
			lead = fmt.Sprintf("%*s", len(indent), "also: ")
		}
		for line := range wrap(printable(sentence), p.width-len(indent)) {
			if err := p.line("%s%s", lead, line); err != nil {
				return err
			}
			lead = indent
		}
	}
	if s.NATS.URL == "" {
		return nil
	}
	for _, fact := range s.facts() {
		if err := p.fact(fact[0], fact[1], plain); err != nil {
			return err
		}
	}
	if err := s.printPartitions(p); err != nil {
		return err
	}
	return s.printReplicas(p)
}

func (s *status) printPartitions(p *printer) error {
	if len(s.Partitions) == 0 {
		return nil
	}
	if err := p.line(""); err != nil {
		return err
	}
	t := p.table(column{title: "PARTITION", right: true}, column{title: "PENDING", right: true},
		column{title: "IN PROGRESS", right: true}, column{title: "REDELIVERED", right: true}, column{title: "RELAY"}, column{title: "LEASE"})
	for _, part := range s.Partitions {
		relay := cell{"none", warn}
		switch {
		case part.Paused:
			relay = cell{"paused", bad}
		case part.Pulling:
			relay = cell{"fetching", good}
		}
		if err := t.add(text(strconv.Itoa(part.Partition)), text(strconv.FormatUint(part.Pending, 10)), text(strconv.Itoa(part.InProgress)),
			text(strconv.Itoa(part.Redelivered)), relay, text(s.holder(part.Holder))); err != nil {
			return err
		}
	}
	return t.flush()
}

// facts are the lines below the verdict.
func (s *status) facts() [][2]string {
	facts := [][2]string{{"NATS", s.NATS.URL + " (nats-server " + s.NATS.Version + "), connected"}}
	if s.Topology.Right {
		facts = append(facts, [2]string{"Streams", fmt.Sprintf("%s, %s, %s", count(s.Topology.Partitions, "partition", "partitions"),
			count(s.Topology.Replicas, "copy", "copies"), s.Topology.Storage)})
	}
	if s.Updates != nil {
		facts = append(facts, [2]string{"Waiting", s.waitingFacts()})
	}
	if s.Work != nil {
		facts = append(facts, [2]string{"In hand", fmt.Sprintf("%s of %s (%d in retry), %s in flight",
			count(s.Work.HeldUpdates, "update", "updates"), count(s.Work.Lanes, "Vorgang", "Vorgänge"),
			s.Work.LanesRetrying, count(s.Work.InFlight, "request", "requests"))})
	}
	if failure := s.lastFailure(); failure != nil && len(s.Holds) == 0 { // Else the hold says it.
		facts = append(facts, [2]string{"Last failure", duration(s.CheckedAt.Sub(failure.At)) + " ago: " + failure.Detail})
	}
	for _, h := range s.Holds {
		words := s.holdWords(h)
		if h.Replica != "" {
			words += " [" + h.Replica + "]"
		}
		if h.Detail != "" {
			words += ": " + h.Detail
		}
		facts = append(facts, [2]string{"Hold", words})
	}
	facts = append(facts, s.pausedFacts()...)
	if s.Results != nil {
		facts = append(facts, [2]string{"Last minute", s.resultFacts()})
	}
	if s.DeadLetters != nil {
		facts = append(facts, [2]string{"Dead letters", s.deadLetterFacts()})
	}
	if len(s.Denied) > 0 {
		facts = append(facts, [2]string{"Denied", strings.Join(s.Denied, " ")})
	}
	for _, problem := range s.Unknown {
		facts = append(facts, [2]string{"Not known", problem})
	}
	return facts
}

// pausedFacts are the kinds that are paused alone.
func (s *status) pausedFacts() [][2]string {
	var facts [][2]string
	for _, pause := range s.PausedKinds {
		words := fmt.Sprintf("%s for %s", pause.Kind, duration(s.CheckedAt.Sub(pause.Since)))
		if !pause.Until.IsZero() {
			words += "; until " + localTime(pause.Until)
		}
		if pause.By != "" {
			words += " [" + pause.By + "]"
		}
		if pause.Reason != "" {
			words += ": " + pause.Reason
		}
		facts = append(facts, [2]string{"Paused kind", words})
	}
	return facts
}

func (s *status) waitingFacts() string {
	u := s.Updates
	words := count(u.Waiting, "update", "updates") + ", " + size(int64(u.Bytes)) //nolint:gosec // G115: a disk has less.
	if u.MaxBytes > 0 {
		words += fmt.Sprintf(" of %s (%.0f %%)", size(u.MaxBytes), 100*float64(u.Bytes)/float64(u.MaxBytes))
	}
	if !u.Oldest.IsZero() {
		words += ", the oldest for " + duration(s.CheckedAt.Sub(u.Oldest))
	}
	return words
}

// resultFacts are the throughput and what became of the updates.
func (s *status) resultFacts() string {
	if s.Results.LastMinute == 0 {
		return "no results"
	}
	words := []string{}
	for _, outcome := range update.Outcomes() {
		if n := s.Results.ByOutcome[outcome]; n > 0 {
			words = append(words, fmt.Sprintf("%d %s", n, outcome))
		}
	}
	return fmt.Sprintf("%s; %.*f updates per second", strings.Join(words, ", "), decimals(s.Results.PerSecond), s.Results.PerSecond)
}

// decimals is how many digits behind the point say something.
func decimals(rate float64) int {
	switch {
	case rate >= 100:
		return 0
	case rate >= 1:
		return 1
	}
	return 2
}

func (s *status) deadLetterFacts() string {
	if s.DeadLetters.Count == 0 {
		return "none"
	}
	words := make([]string, len(s.DeadLetters.ByReason))
	for i, c := range s.DeadLetters.ByReason {
		words[i] = fmt.Sprintf("%d %s", c.Count, c.Reason)
		if !c.Oldest.IsZero() {
			words[i] += fmt.Sprintf(" (oldest %s)", duration(s.CheckedAt.Sub(c.Oldest)))
		}
	}
	all := strings.Join(words, ", ")
	if len(words) > 1 {
		all = fmt.Sprintf("%d: %s", s.DeadLetters.Count, all)
		if s.DeadLetters.ByReason[0].Oldest.IsZero() && !s.DeadLetters.Oldest.IsZero() {
			all += ", the oldest for " + duration(s.CheckedAt.Sub(s.DeadLetters.Oldest))
		}
	}
	if room, _ := s.full(topology.StreamDeadLetters); room.MaxBytes > 0 {
		all += fmt.Sprintf("; %s (%.0f %%)", roomWords(room), 100*float64(room.Bytes)/float64(room.MaxBytes))
	}
	return all
}
