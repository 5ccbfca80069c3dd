package main

import (
	"fmt"
	"strconv"
	"strings"
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
	lead, indent := p.paint(mark, word)+": ", strings.Repeat(" ", len(word)+2)
	for line := range wrap(printable(s.Verdict), p.width-len(indent)) {
		if err := p.line("%s%s", lead, line); err != nil {
			return err
		}
		lead = indent
	}
	if s.NATS.URL == "" {
		return nil
	}
	for _, fact := range s.facts() {
		if err := p.fact(fact[0], fact[1], plain); err != nil {
			return err
		}
	}
	if len(s.Partitions) == 0 {
		return nil
	}
	if err := p.line(""); err != nil {
		return err
	}
	t := p.table(column{title: "PARTITION", right: true}, column{title: "PENDING", right: true},
		column{title: "IN PROGRESS", right: true}, column{title: "REDELIVERED", right: true}, column{title: "RELAY"})
	for _, part := range s.Partitions {
		relay := cell{"none", warn}
		switch {
		case part.Paused:
			relay = cell{"paused", bad}
		case part.Pulling:
			relay = cell{"fetching", good}
		}
		if err := t.add(text(strconv.Itoa(part.Partition)), text(strconv.FormatUint(part.Pending, 10)), text(strconv.Itoa(part.InProgress)),
			text(strconv.Itoa(part.Redelivered)), relay); err != nil {
			return err
		}
	}
	return t.flush()
}

// facts are the lines below the verdict.
func (s *status) facts() [][2]string {
	facts := [][2]string{{"NATS", s.NATS.URL + " (nats-server " + s.NATS.Version + ")"}}
	if s.Topology.Right {
		facts = append(facts, [2]string{"Streams", fmt.Sprintf("%s, %s, %s", count(s.Topology.Partitions, "partition", "partitions"),
			count(s.Topology.Replicas, "copy", "copies"), s.Topology.Storage)})
	}
	if s.Updates != nil {
		facts = append(facts, [2]string{"Waiting", s.waitingFacts()})
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
	if s.Results != nil {
		more := ""
		if s.Results.AtLeast {
			more = "more than "
		}
		facts = append(facts, [2]string{"Results", fmt.Sprintf("%s%d in the last minute", more, s.Results.LastMinute)})
	}
	if s.DeadLetters != nil {
		facts = append(facts, [2]string{"Dead letters", s.deadLetterFacts()})
	}
	for _, problem := range s.Unknown {
		facts = append(facts, [2]string{"Not known", problem})
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

func (s *status) deadLetterFacts() string {
	if s.DeadLetters.Count == 0 {
		return "none"
	}
	words := make([]string, len(s.DeadLetters.ByReason))
	for i, c := range s.DeadLetters.ByReason {
		words[i] = fmt.Sprintf("%d %s (oldest %s)", c.Count, c.Reason, duration(s.CheckedAt.Sub(c.Oldest)))
	}
	if len(words) == 1 {
		return words[0]
	}
	return fmt.Sprintf("%d: %s", s.DeadLetters.Count, strings.Join(words, ", "))
}
