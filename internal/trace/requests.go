package trace

import (
	"fmt"
	"time"

	"kexrelay/internal/deadletter"
	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// maxRequestIDs is how many trace IDs of requests a step lists: the first ones and the last.
const maxRequestIDs = 8

// requested is what is known of the requests made for an update.
type requested struct {
	seq      uint64
	attempts int
	// last is the last one's X-TraceId.
	last string
	// at is when the first of them began, or when the ledger told of the last; zero if nobody knows.
	at         time.Time
	unanswered bool
	// settled says that no more follow; then answers are those of the process that settled it.
	settled bool
	// open says that the last one was begun and is not answered.
	open    bool
	answers update.Answers
}

// requests tells the requests that led to a settlement, or were made so far: one by one where the answers are known.
func (s *Story) requests(r requested) {
	switch {
	case r.attempts == 0:
	case len(r.answers) == 0:
		s.add(Step{
			At: r.at, What: Attempted, UpdateSeq: r.seq, Attempts: r.attempts, RequestIDs: r.ids(1, r.attempts), Text: r.summary(),
		})
	default:
		s.answers(r)
		s.unanswered(r)
	}
}

// unanswered tells the requests after the last answer: the one that is being made, and those of which nothing is known.
func (s *Story) unanswered(r requested) {
	known := r.answers[len(r.answers)-1].Attempt
	if r.settled || known >= r.attempts {
		return
	}
	step := Step{At: r.at, What: Attempted, UpdateSeq: r.seq, Attempts: r.attempts - known, RequestIDs: r.ids(known+1, r.attempts)}
	step.Text = fmt.Sprintf("request %d: begun, not answered yet", r.attempts)
	if step.Attempts > 1 || !r.open {
		step.Text = fmt.Sprintf("%d more requests, whose answers are not known yet", step.Attempts)
		if step.Attempts == 1 {
			step.Text = "1 more request, whose answer is not known yet"
		}
	}
	s.add(step)
}

// Requests tells the requests that led to a dead letter, as a story of its update does.
func Requests(letter deadletter.Summary) []Step {
	s := Story{}
	s.requests(requestedOfLetter(letter))
	return s.Steps
}

// summary tells requests of which no answers are known.
func (r requested) summary() string {
	var text string
	switch {
	case r.attempts == 1:
		return "sent once"
	case !r.settled && r.unanswered:
		return fmt.Sprintf("sent %d times so far; at least one request ended without a definite answer", r.attempts)
	case !r.settled:
		return fmt.Sprintf("sent %d times so far", r.attempts)
	case r.unanswered:
		text = fmt.Sprintf("sent %d times; at least one earlier request ended without a definite answer", r.attempts)
	case r.attempts == 2:
		text = "sent twice; the first was answered with what is tried again"
	default:
		text = fmt.Sprintf("sent %d times; the first %d were answered with what is tried again", r.attempts, r.attempts-1)
	}
	return text + "; the single answers are in the log of the process that sent it"
}

// answers tells each request of which the answer is known, and how many there were besides.
func (s *Story) answers(r requested) {
	if earlier := r.answers.Earlier(); earlier > 0 {
		text := fmt.Sprintf("%d earlier requests by another process, which alone had their answers", earlier)
		if earlier == 1 {
			text = "1 earlier request by another process, which alone had its answer"
		}
		s.add(Step{What: Attempted, UpdateSeq: r.seq, Attempts: earlier, RequestIDs: r.ids(1, earlier), Text: text})
	}
	for i, one := range r.answers {
		step := Step{
			At: one.At, What: Attempted, UpdateSeq: r.seq, Attempt: one.Attempt, Attempts: 1, RequestIDs: []string{one.RequestID},
			Status: one.Status, Reason: string(one.Reason), DurationMs: new(one.DurationMs), Unknown: one.Unknown, Text: answerText(one),
		}
		if i+1 == len(r.answers) {
			s.add(step)
			break
		}
		next := r.answers[i+1]
		missing := next.Attempt - one.Attempt - 1
		if missing == 0 {
			wait := max(0, next.At.Sub(one.At)-time.Duration(one.DurationMs)*time.Millisecond)
			step.WaitMs = new(wait.Milliseconds())
			step.Text += "; the next one " + brief(wait) + " later"
		}
		s.add(step)
		if missing > 0 {
			text := fmt.Sprintf("%d more requests, whose answers are left out here", missing)
			if missing == 1 {
				text = "1 more request, whose answer is left out here"
			}
			s.add(Step{
				What: Attempted, UpdateSeq: r.seq, Attempts: missing, RequestIDs: r.ids(one.Attempt+1, next.Attempt-1), Text: text,
			})
		}
	}
}

func answerText(a update.PastAnswer) string {
	took := brief(time.Duration(a.DurationMs) * time.Millisecond)
	var text string
	switch {
	case a.Status == 0 && a.Unknown:
		text = fmt.Sprintf("request %d: no answer for %s", a.Attempt, took)
	case a.Status == 0:
		text = fmt.Sprintf("request %d: it did not reach the API", a.Attempt)
	default:
		text = fmt.Sprintf("request %d: answered %d after %s", a.Attempt, a.Status, took)
	}
	if a.Unknown {
		text += ", so it may be booked"
	}
	if a.Reason == fault.Throttling || a.Reason == fault.Unauthorized {
		text += ", " + string(a.Reason)
	}
	return text
}

// brief is a duration for people.
func brief(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return "<1ms"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// ids are the trace IDs of the requests from..to: the first ones and the last, if there are many.
func (r requested) ids(from, to int) []string {
	if r.last == "" {
		return nil
	}
	var ids []string
	for n := from; n <= to; n++ {
		if to-from >= maxRequestIDs && n > from+maxRequestIDs-3 && n < to {
			continue
		}
		ids = append(ids, update.RequestIDOf(r.last, r.attempts, n))
	}
	return ids
}
