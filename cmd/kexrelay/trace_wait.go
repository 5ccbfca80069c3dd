package main

import (
	"fmt"
	"time"

	"kexrelay/internal/journal"
	"kexrelay/internal/trace"
)

// printWait says what an update waits for, the first reason first.
func printWait(p *printer, w trace.Wait) error {
	if err := p.line(""); err != nil {
		return err
	}
	for _, line := range waitLines(w, time.Now()) {
		if err := p.hanging("Now:", line, warn, factIndent); err != nil {
			return err
		}
	}
	return nil
}

// silent is how long a relay may be silent before nobody is taken to send.
const silent = 10 * time.Second

func waitLines(w trace.Wait, now time.Time) []string {
	var lines []string
	switch {
	case w.Replica == "":
		lines = append(lines, "no relay has the right to send it: is one running? kexrelay serve starts one")
	case now.Sub(w.HeardAt) > silent:
		lines = append(lines, fmt.Sprintf("nothing was heard of the relay %s for %s: is it running? kexrelay status says more", w.Replica, duration(now.Sub(w.HeardAt))))
	}
	for _, hold := range w.Holds {
		words := fmt.Sprintf("sending is held (%s) since %s", hold.Reason, localTime(hold.Since))
		if hold.Detail != "" {
			words += ": " + hold.Detail
		}
		switch {
		case !hold.Until.IsZero():
			words += "; until " + localTime(hold.Until)
		case !hold.NextProbe.IsZero():
			words += "; next try at " + localTime(hold.NextProbe)
		}
		lines = append(lines, words)
	}
	held := len(w.Holds) > 0
	switch {
	case w.Ahead == 1:
		lines = append(lines, fmt.Sprintf("one older update of the same Vorgang goes first: update %d", w.Oldest))
	case w.Ahead > 1:
		more := ""
		if w.AheadMore {
			more = "at least "
		}
		lines = append(lines, fmt.Sprintf("%s%d older updates of the same Vorgang go first, the oldest of them is update %d", more, w.Ahead, w.Oldest))
	}
	var next time.Time
	if w.Standing != nil {
		next = w.Standing.NextAttempt // Of the Vorgang: of whichever goes first.
		if w.Standing.Paused && !held {
			lines = append(lines, "the kind of the update that goes first is paused: kexrelay status says more")
		}
	}
	if w.Ahead > 0 && w.OldestDoing != nil {
		lines = append(lines, fmt.Sprintf("of update %d %s", w.Oldest, doingWords(*w.OldestDoing, held, next, now)))
	}
	switch {
	case w.Doing != nil:
		lines = append(lines, doingWords(*w.Doing, held || w.Ahead > 0, next, now))
	case w.Ahead > 0:
		lines = append(lines, "it was not sent yet")
	default:
		lines = append(lines, "it was not sent yet; it is the next one of its Vorgang")
	}
	return lines
}

// doingWords is what a relay is doing with an update, and when the next request is due unless something else decides: next,
// if the relay says so.
func doingWords(d journal.InFlight, otherwise bool, next, now time.Time) string {
	ago := duration(now.Sub(d.WrittenAt)) + " ago"
	switch d.Doing {
	case journal.DoingSending:
		return "a request (" + d.RequestID + ") was begun " + ago + "; its answer is not recorded yet"
	case journal.DoingOpening:
		return "a relay began to read it " + ago
	case journal.DoingWaiting:
	}
	words := "a request" // The record is also made where one was prepared and not sent.
	if d.Attempts > 0 {
		words = fmt.Sprintf("request %d (%s)", d.Attempts, d.RequestID)
	}
	words += " ended " + ago + " and is tried again"
	if otherwise || d.Attempts == 0 {
		return words
	}
	if !next.IsZero() {
		if next.After(now) {
			return words + " at " + localTime(next) + ", in " + duration(next.Sub(now))
		}
		return words + " now"
	}
	if by := d.WrittenAt.Add(longestPause(d.Attempts)); by.After(now) {
		return words + " by " + localTime(by) + withDefaults
	}
	return words + " now" + withDefaults
}

const withDefaults = " (with the default retry settings)"

// The relay's retry settings unless somebody has changed them, which cannot be seen from outside.
const (
	defaultRetryInitial     = 500 * time.Millisecond
	defaultRetryMaxInterval = time.Minute
)

// longestPause bounds the pause after so many requests: relay's retry policy with the default settings.
func longestPause(attempts int) time.Duration {
	pause := defaultRetryInitial
	for i := 1; i < attempts && pause < defaultRetryMaxInterval; i++ {
		pause += pause / 2
	}
	pause = min(pause, defaultRetryMaxInterval)
	return pause + pause/2
}
