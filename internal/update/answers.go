package update

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"kexrelay/internal/fault"
)

// firstAnswers and lastAnswers are how many answers are kept of an update that needs many requests: how it began, and
// how it ended.
const (
	firstAnswers = 3
	lastAnswers  = 7
)

// PastAnswer is what one request of an update came to.
type PastAnswer struct {
	// Attempt says which request it was, from 1.
	Attempt int `json:"attempt"`
	// RequestID is its X-TraceId.
	RequestID string `json:"requestId,omitempty"`
	// At is when it began, DurationMs how many whole milliseconds later it was answered or given up.
	At         time.Time `json:"at"`
	DurationMs int64     `json:"durationMs"`
	// Status is 0 where no answer came.
	Status int `json:"status,omitempty"`
	// Reason is the class of the failure, empty for a booked request and for one that our own stop ended.
	Reason fault.Reason `json:"reason,omitempty"`
	// Unknown says that nobody knows whether it was booked.
	Unknown bool `json:"unknown,omitempty"`
}

// Answers are an update's answers in the order of the requests: the first ones and the last. The zero value is empty,
// and costs nothing.
type Answers []PastAnswer

// With is the answers and one more, which is there once however often it is added; of too many one in the middle is left
// out. As of append, only the result may be used afterwards.
func (a Answers) With(answer PastAnswer) Answers {
	if n := len(a); n > 0 && a[n-1].Attempt >= answer.Attempt {
		return a
	}
	if len(a) == firstAnswers+lastAnswers {
		a = append(a[:firstAnswers], a[firstAnswers+1:]...)
	}
	return append(a, answer)
}

// LeftOut counts the answers between the first and the last that were left out.
func (a Answers) LeftOut() int {
	if len(a) == 0 {
		return 0
	}
	return a[len(a)-1].Attempt - a[0].Attempt + 1 - len(a)
}

// Earlier counts the requests before the first answer: those of other processes, which alone had their answers.
func (a Answers) Earlier() int {
	if len(a) == 0 {
		return 0
	}
	return a[0].Attempt - 1
}

// String writes the answers as a header has them: "<attempt> <at> <ms> <status> <reason>" and "unknown" where it
// holds, a - for what is not there, and "; " between two. The request IDs are not in it: see RequestIDOf.
func (a Answers) String() string {
	var b strings.Builder
	for i, one := range a {
		if i > 0 {
			b.WriteString("; ")
		}
		status, reason, unknown := "-", "-", ""
		if one.Status != 0 {
			status = strconv.Itoa(one.Status)
		}
		if one.Reason != "" {
			reason = string(one.Reason)
		}
		if one.Unknown {
			unknown = " unknown"
		}
		fmt.Fprintf(&b, "%d %s %d %s %s%s", one.Attempt, one.At.UTC().Format(time.RFC3339Nano), one.DurationMs, status, reason, unknown)
	}
	return b.String()
}

// ParseAnswers reads what String wrote, of an update of which so many requests were made, the last under an ID. What
// is not readable is nothing: the header is there to be shown.
func ParseAnswers(text, lastRequestID string, attempts int) Answers {
	if text == "" {
		return nil
	}
	var answers Answers
	for line := range strings.SplitSeq(text, "; ") {
		fields := strings.Split(line, " ")
		if len(fields) < 5 || len(fields) > 6 || len(answers) == firstAnswers+lastAnswers {
			return nil
		}
		attempt, err1 := strconv.Atoi(fields[0])
		at, err2 := time.Parse(time.RFC3339Nano, fields[1])
		took, err3 := strconv.ParseInt(fields[2], 10, 64)
		if err1 != nil || err2 != nil || err3 != nil || attempt < 1 || attempt > attempts || took < 0 {
			return nil
		}
		one := PastAnswer{
			Attempt: attempt, RequestID: RequestIDOf(lastRequestID, attempts, attempt), At: at.UTC(), DurationMs: took,
			Unknown: len(fields) == 6 && fields[5] == "unknown",
		}
		if status, err := strconv.Atoi(fields[3]); err == nil {
			one.Status = status
		}
		if one.Reason = fault.Reason(fields[4]); one.Reason == "-" {
			one.Reason = ""
		} else if !slices.Contains(fault.DeadLetterReasons(), one.Reason) && !slices.Contains(fault.HoldReasons(), one.Reason) {
			return nil
		}
		before := len(answers)
		if answers = answers.With(one); len(answers) == before {
			return nil // Not in order.
		}
	}
	return answers
}

// RequestIDOf is the X-TraceId of an update's n-th request, made of that of its last one; empty if that is not known.
func RequestIDOf(last string, attempts, n int) string {
	base := last
	if attempts > 1 {
		base = strings.TrimSuffix(last, "-"+strconv.Itoa(attempts))
	}
	if n <= 1 || base == "" {
		return base
	}
	return base + "-" + strconv.Itoa(n)
}
