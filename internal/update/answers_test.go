package update_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// answersOf are those of requests from..to of an update whose trace ID is sys1.
func answersOf(from, to int) update.Answers {
	var answers update.Answers
	began := time.Date(2026, 11, 22, 14, 5, 6, 200_000_000, time.UTC)
	for n := from; n <= to; n++ {
		answers = answers.With(update.PastAnswer{
			Attempt: n, RequestID: update.RequestIDOf("sys1", 1, n), At: began.Add(time.Duration(n) * time.Second), DurationMs: 12,
			Status: 503, Reason: fault.Outage,
		})
	}
	return answers
}

func TestOfManyAnswersTheFirstAndTheLastAreKept(t *testing.T) {
	t.Parallel()
	answers := answersOf(3, 1000)
	var kept []int
	for _, one := range answers {
		kept = append(kept, one.Attempt)
	}
	if diff := cmp.Diff([]int{3, 4, 5, 994, 995, 996, 997, 998, 999, 1000}, kept); diff != "" {
		t.Error(diff)
	}
	if answers.LeftOut() != 988 || answers.Earlier() != 2 {
		t.Errorf("%d left out, want 988; %d earlier, want 2", answers.LeftOut(), answers.Earlier())
	}
	if answers = answers.With(update.PastAnswer{Attempt: 1000, Status: 200}); answers[9].Status != 503 {
		t.Error("an answer was added twice")
	}
	var none update.Answers
	if none.LeftOut() != 0 || none.Earlier() != 0 || none.String() != "" {
		t.Errorf("no answers: %d left out, %d earlier, %q", none.LeftOut(), none.Earlier(), none)
	}
}

func TestAnswersComeBackFromTheirHeader(t *testing.T) {
	t.Parallel()
	for name, answers := range map[string]update.Answers{
		"none":     nil,
		"two":      answersOf(1, 2),
		"many":     answersOf(1, 50),
		"taken on": answersOf(4, 5),
		"no status": {
			{Attempt: 1, RequestID: "sys1", At: time.Unix(1, 1).UTC(), DurationMs: 30_000, Reason: fault.Outage, Unknown: true},
			{Attempt: 2, RequestID: "sys1-2", At: time.Unix(40, 0).UTC(), Unknown: true},
			{Attempt: 3, RequestID: "sys1-3", At: time.Unix(50, 0).UTC(), Status: 200},
		},
	} {
		attempts := 0
		if len(answers) > 0 {
			attempts = answers[len(answers)-1].Attempt
		}
		text := answers.String()
		got := update.ParseAnswers(text, update.RequestIDOf("sys1", 1, attempts), attempts)
		if diff := cmp.Diff(answers, got); diff != "" {
			t.Errorf("%s: %q: %s", name, text, diff)
		}
		if len(text) > 1024 {
			t.Errorf("%s: a header of %d bytes", name, len(text))
		}
	}
}

// The header lies in a stream that others may write to, and in files.
func TestWhatIsNoListOfAnswersIsNone(t *testing.T) {
	t.Parallel()
	good := answersOf(1, 2).String()
	for _, text := range []string{
		"", " ", ";", "x", good + "; ", good + "; 2 2026-11-22T14:05:06Z 1 503 outage", "1 yesterday 1 503 outage",
		"0 2026-11-22T14:05:06Z 1 503 outage", "9 2026-11-22T14:05:06Z 1 503 outage", "1 2026-11-22T14:05:06Z -1 503 outage",
		"1 2026-11-22T14:05:06Z 1 503 out\nage", strings.Repeat(good+"; ", 100),
	} {
		if got := update.ParseAnswers(text, "sys1-3", 3); got != nil {
			t.Errorf("%q gives %+v", text, got)
		}
	}
}

func TestRequestIDsOfEarlierRequestsFollowFromTheLast(t *testing.T) {
	t.Parallel()
	for _, replay := range []*update.Replay{nil, {TraceID: "sys1", Replays: 2}} {
		u := update.Update{TraceID: "sys1", Replay: replay}
		for attempts := 1; attempts <= 12; attempts++ {
			for n := 1; n <= attempts; n++ {
				if got, want := update.RequestIDOf(u.RequestTraceID(attempts), attempts, n), u.RequestTraceID(n); got != want {
					t.Errorf("request %d of %d: %s, want %s", n, attempts, got, want)
				}
			}
		}
	}
	if got := update.RequestIDOf("", 3, 2); got != "" {
		t.Errorf("of none: %s", got)
	}
}
