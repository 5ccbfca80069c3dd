package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"kexrelay/internal/deadletter"
	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/trace"
	"kexrelay/internal/update"
)

// showDeadLetter prints the facts, the history and, if it was asked for, the content.
func showDeadLetter(p *printer, letter shown) error {
	facts := [][2]string{
		{"Dead letter", strconv.FormatUint(letter.Seq, 10)},
		{"Reason", string(letter.Reason)},
		{"Status", number(letter.Status)},
		{"Detail", letter.Detail},
		{"Vorgang", letter.Vorgangsnummer},
		{"Kind", string(letter.Kind)},
		{"Update ID", letter.UpdateID},
		{"Trace ID", letter.TraceID},
		{"Last request", letter.RequestID},
		{"Attempts", strconv.Itoa(letter.Attempts)},
		{"Replays", strconv.Itoa(letter.Replays)},
		{"Published", moment(letter.UpdateAt)},
		{"First attempt", moment(letter.FirstAttemptAt)},
		{"Dead letter since", moment(letter.DeadLetteredAt)},
		{"Published to", letter.Subject},
		{"May be booked", bookedWords(letter.Summary)},
		{"Body", content(letter.Content)},
		{"Digest", letter.Content.Digest},
		{"Body object", letter.BodyObject},
		{"Cause", letter.Fingerprint().ID() + ", see deadletters list --group"},
	}
	for name, value := range publishersHeaders(letter.DeadLetter) {
		facts = append(facts, [2]string{"Header", name + ": " + value})
	}
	facts = append(facts, [2]string{"In work", letter.InWork}, [2]string{"What to do", letter.WhatToDo})
	for _, fact := range facts {
		if fact[1] == "" {
			continue
		}
		if err := p.fact(fact[0], fact[1], factColour(fact[0])); err != nil {
			return err
		}
	}
	if err := printAnswers(p, letter.Summary); err != nil {
		return err
	}
	if err := printHistory(p, letter); err != nil {
		return err
	}
	return printContent(p, letter)
}

// bookedWords warns of a replay that may book twice.
func bookedWords(letter deadletter.Summary) string {
	if !letter.MayBeBooked {
		return ""
	}
	return "yes: look into the Vorgang before it is sent again"
}

// printAnswers prints what each request came to, if there was more than one.
func printAnswers(p *printer, letter deadletter.Summary) error {
	if len(letter.Answers) == 0 {
		return nil
	}
	label := "Answers:"
	for _, step := range trace.Requests(letter) {
		if err := p.hanging(label, stepTime(step)+"  "+stepWords(step), plain, factIndent); err != nil {
			return err
		}
		label = ""
	}
	return nil
}

// printHistory prints what happened to the update, the oldest first.
func printHistory(p *printer, letter shown) error {
	if letter.notKnown != nil {
		return p.fact("History", "not known: "+letter.notKnown.Error(), warn)
	}
	if len(letter.History) == 0 {
		return p.fact("History", "none: its results have expired", plain)
	}
	label := "History:"
	for _, event := range letter.History {
		if err := p.hanging(label, localTime(event.Time)+"  "+eventWords(event.Data), plain, factIndent); err != nil {
			return err
		}
		label = ""
	}
	return nil
}

// eventWords is an event in a few words.
func eventWords(e journal.EventData) string {
	words := string(e.Outcome)
	switch e.Outcome {
	case update.DeadLettered:
		words = fmt.Sprintf("became dead letter %d: %s", e.DeadLetterSeq, e.Reason)
		if e.Status != 0 {
			words += fmt.Sprintf(", status %d", e.Status)
		}
		words += ", " + count(e.Attempts, "attempt", "attempts")
	case update.Delivered:
		words = fmt.Sprintf("delivered, status %d", e.Status)
	case update.Replayed:
		words = fmt.Sprintf("dead letter %d sent again as update %d", e.ReplayOf, e.UpdateSeq)
	case update.Discarded, update.Erased:
		words = fmt.Sprintf("dead letter %d %s: %s", e.DeadLetterSeq, e.Outcome, e.Detail)
		if e.DeadLetterSeq == 0 { // It waited.
			words = fmt.Sprintf("update %d %s: %s", e.UpdateSeq, e.Outcome, e.Detail)
		}
	case update.DoubleBooked:
		words = "booked twice: " + e.Detail
	}
	if e.ReplayOf != 0 && e.Outcome != update.Replayed {
		words += fmt.Sprintf(" (replay of %d)", e.ReplayOf)
	}
	return words
}

// maxShownText is how much of a long text in a revealed body is shown on a terminal.
const maxShownText = 200

// printContent prints a body that was asked for, with nothing in it that could steer the terminal.
func printContent(p *printer, letter shown) error {
	switch {
	case letter.Body != nil:
	case letter.BodyBase64 != nil:
		return p.fact("Content", "no UTF-8; base64: "+base64.StdEncoding.EncodeToString(letter.BodyBase64), plain)
	default:
		return nil
	}
	if err := p.line("Content:"); err != nil {
		return err
	}
	text := *letter.Body
	var indented bytes.Buffer
	if json.Indent(&indented, []byte(text), "", "  ") == nil {
		text = indented.String()
	}
	for line := range strings.Lines(text) {
		line = string(escaped([]byte(strings.TrimRight(line, "\r\n"))))
		if n := utf8.RuneCountInString(line); p.width > 0 && n > maxShownText {
			line = fmt.Sprintf("%s (%d characters; --json has all)", shorten(line, maxShownText), n)
		}
		if err := p.line("  %s", line); err != nil {
			return err
		}
	}
	return nil
}

// whatToDo is the operator's next step.
func whatToDo(letter deadletter.DeadLetter) string {
	command := func(verb string) string { return fmt.Sprintf("kexrelay deadletters %s %d", verb, letter.Seq) }
	replay, discard := command("replay"), command("discard")+" --because '…'"
	if _, _, err := update.ParseSubject(letter.Subject); err != nil {
		return "its subject can never be right: publish it anew to a right one, then " + discard
	}
	if letter.Content.Missing {
		return "its body is gone: publish it anew, then " + discard
	}
	switch letter.Reason {
	case fault.BadRequest, fault.Invalid:
		return "mend the content: " + command("edit") + "; or mend the publisher and publish anew, then " + discard + "; a replay sends the same body"
	case fault.Gone:
		return "nothing to book: " + discard + "; should the Vorgang be there again: " + replay
	case fault.Forbidden:
		return "give the API client the right to this Vorgang, then " + replay
	case fault.NotFound:
		return "check the Vorgangsnummer (if it is wrong, publish anew and " + discard + ") and KEX_BASE_URL, then " + replay
	case fault.Redirected:
		return "check KEX_BASE_URL, then " + replay
	case fault.UnknownOutcome:
		return "look into the Vorgang: if it is there, " + discard + "; only if it is not, " + replay
	case fault.Exhausted:
		return "find out why this one fails, then " + replay
	case fault.ObjectMissing:
		return "its document is gone: give it a new one with " + command("edit") + " --file FILE, or publish it anew and " + discard
	case fault.Rejected, fault.CrashLoop: // The detail says more.
	case fault.Unauthorized, fault.Throttling, fault.Outage, fault.Storage, fault.Operator: // Of holds alone.
	}
	return "cure what the detail says, then " + replay
}

func factColour(name string) colour {
	if name == "Reason" {
		return bad
	}
	return plain
}

// publishersHeaders are the headers that are not told above already.
func publishersHeaders(letter deadletter.DeadLetter) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for _, name := range slices.Sorted(maps.Keys(letter.Header)) {
			lower := strings.ToLower(name)
			if strings.HasPrefix(lower, "kex-") || strings.HasPrefix(lower, "nats-") || name == update.HeaderTraceID {
				continue
			}
			for _, value := range letter.Header[name] {
				if !yield(name, value) {
					return
				}
			}
		}
	}
}

// number is a number, nothing for 0.
func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// moment is a time with how long ago it was, nothing for none.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return localTime(t) + " (" + duration(time.Since(t)) + " ago)"
}

// content says what a body is like.
func content(c deadletter.Content) string {
	if c.Missing {
		return "missing: its object is gone"
	}
	words := size(c.Size)
	switch c.JSON {
	case "":
		return words + ", no JSON"
	case "array":
		return words + ", JSON array of " + count(c.Elements, "element", "elements") + sizes(c.ElementSizes, c.Elements)
	case "object":
		var named []string
		for i, name := range c.Fields {
			named = append(named, fmt.Sprintf("%s (%s)", name, size(int64(c.FieldSizes[i]))))
		}
		fields := strings.Join(named, ", ")
		if c.OtherFields > 0 {
			fields += fmt.Sprintf(" and %d more", c.OtherFields)
		}
		return words + ", JSON object with " + fields
	}
	return words + ", JSON " + c.JSON
}

// sizes are those of the first elements.
func sizes(known []int, all int) string {
	if all == 0 {
		return ""
	}
	words := make([]string, len(known))
	for i, n := range known {
		words[i] = size(int64(n))
	}
	more := ""
	if all > len(known) {
		more = ", …"
	}
	return " (" + strings.Join(words, ", ") + more + ")"
}
