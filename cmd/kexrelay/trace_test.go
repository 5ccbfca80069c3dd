package main

import (
	"strings"
	"testing"
	"time"

	"kexrelay/internal/config"
	"kexrelay/internal/journal"
	"kexrelay/internal/trace"
)

func TestWhatAnUpdateWaitsForIsSaidInWords(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 14, 5, 6, 0, time.UTC)
	waiting := func(attempts int) *journal.InFlight {
		return &journal.InFlight{Doing: journal.DoingWaiting, Attempts: attempts, RequestID: "sys1-2", WrittenAt: now.Add(-time.Second)}
	}
	base := trace.Wait{Replica: "a", HeardAt: now}
	for name, test := range map[string]struct {
		change func(*trace.Wait)
		want   []string
	}{
		"next": {func(*trace.Wait) {}, []string{"it was not sent yet; it is the next one of its Vorgang"}},
		"retry": {
			func(w *trace.Wait) { w.Doing = waiting(6) },
			[]string{"request 6 (sys1-2) ended 1s ago and is tried again by " +
				localTime(now.Add(-time.Second+longestPause(6))) + " (with the default retry settings)"},
		},
		"due": {
			func(w *trace.Wait) { w.Doing = waiting(1) },
			[]string{"request 1 (sys1-2) ended 1s ago and is tried again now (with the default retry settings)"},
		},
		"held": {
			func(w *trace.Wait) {
				w.Doing, w.Holds = waiting(2), []journal.Hold{{Reason: "outage", Since: now.Add(-time.Hour), NextProbe: now.Add(time.Minute), Detail: "503"}}
			},
			[]string{
				"sending is held (outage) since " + localTime(now.Add(-time.Hour)) + ": 503; next try at " + localTime(now.Add(time.Minute)),
				"request 2 (sys1-2) ended 1s ago and is tried again",
			},
		},
		"behind one that is sent": {
			func(w *trace.Wait) {
				w.Ahead, w.Oldest = 1, 17
				w.OldestDoing = &journal.InFlight{Doing: journal.DoingSending, Attempts: 3, RequestID: "sys0-3", WrittenAt: now.Add(-2 * time.Second)}
			},
			[]string{
				"one older update of the same Vorgang goes first: update 17",
				"of update 17 a request (sys0-3) was begun 2s ago; its answer is not recorded yet",
				"it was not sent yet",
			},
		},
		"behind many": {
			func(w *trace.Wait) { w.Ahead, w.AheadMore, w.Oldest = 1000, true, 17 },
			[]string{"at least 1000 older updates of the same Vorgang go first, the oldest of them is update 17", "it was not sent yet"},
		},
		"no relay": {
			func(w *trace.Wait) { w.Replica = "" },
			[]string{"no relay has the right to send it: is one running? kexrelay serve starts one", "it was not sent yet; it is the next one of its Vorgang"},
		},
		"silent relay": {
			func(w *trace.Wait) { w.HeardAt = now.Add(-time.Minute) },
			[]string{"nothing was heard of the relay a for 1m00s: is it running? kexrelay status says more", "it was not sent yet; it is the next one of its Vorgang"},
		},
	} {
		w := base
		test.change(&w)
		if got, want := strings.Join(waitLines(w, now), "\n"), strings.Join(test.want, "\n"); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
	}
}

func TestTheLongestPauseIsThatOfTheDefaultSettings(t *testing.T) {
	t.Parallel()
	defaults := map[string]string{}
	for _, option := range config.Options(config.ServeOptions) {
		defaults[option.Key] = option.Default
	}
	for key, want := range map[string]time.Duration{"retry-initial": defaultRetryInitial, "retry-max-interval": defaultRetryMaxInterval} {
		if got, err := time.ParseDuration(defaults[key]); err != nil || got != want {
			t.Errorf("%s is %q by default, and told as %s", key, defaults[key], want)
		}
	}
	if first, last := longestPause(1), longestPause(1000); first != 750*time.Millisecond || last != 90*time.Second {
		t.Errorf("the pauses are at most %s at first and %s at last", first, last)
	}
}
