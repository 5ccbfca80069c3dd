package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"kexrelay/internal/app"
	"kexrelay/internal/deadletter"
	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/update"
)

// fullStatus is a status with everything on it, as bad and as long as it gets.
func fullStatus(now time.Time) *status {
	s := &status{
		CheckedAt: now,
		NATS:      natsStatus{URL: "nats://nats-2.production.example.internal:4222", Version: "2.15.2"},
		Topology: topologyStatus{Right: true, Partitions: 3, Replicas: 3, Storage: "file", Rooms: []roomStatus{
			{Name: "KEX_UPDATES", Messages: 99, Bytes: 1023 << 20, MaxBytes: 1 << 30, Refuses: true},
			{Name: "KEX_DEADLETTERS", Messages: 99, Bytes: 511 << 20, MaxBytes: 512 << 20, Refuses: true},
		}},
		Updates: &updatesStatus{Waiting: 123456, Bytes: 1023 << 20, MaxBytes: 1 << 30, Oldest: now.Add(-50 * time.Hour)},
		Work:    &workStatus{Relays: 2, Lanes: 12345, LanesRetrying: 1234, InFlight: 64, HeldUpdates: 50000},
		Holds: []journal.Hold{{
			Reason: fault.Storage, Since: now.Add(-time.Hour), Replica: "production",
			Detail: "publishing kex.deadletter.gone.123456.kommentare: nats: API error: code=503 err_code=10077 description=maximum bytes exceeded (make room)",
		}},
		PausedKinds: []pausedKind{{Kind: update.Document, Since: now.Add(-time.Minute), Until: now.Add(time.Hour), By: "jane@desk", Reason: strings.Repeat("words ", 20)}},
		DeadLetters: &deadLettersStatus{Count: 300},
		Results:     &resultsStatus{ByOutcome: make(map[update.Outcome]uint64), PerSecond: 2345},
		Unknown:     []string{"holds: " + strings.Repeat("no answer ", 12)},
	}
	for _, outcome := range update.Outcomes() {
		s.Results.ByOutcome[outcome] = 100_000
		s.Results.LastMinute += 100_000
	}
	for _, reason := range fault.DeadLetterReasons() {
		s.DeadLetters.ByReason = append(s.DeadLetters.ByReason, deadletter.Count{Reason: reason, Count: 27, Oldest: now.Add(-99 * time.Hour)})
	}
	for i, host := range []string{"kexrelay-6b8f7c9d5-x2x4z", "kexrelay-6b8f7c9d5-k8k9q"} {
		s.Partitions = append(s.Partitions, partitionStatus{Partition: i, Pending: 60000, InProgress: 50000, Redelivered: 100, Pulling: true, Holder: host})
		s.Replicas = append(s.Replicas, replicaStatus{Replica: journal.Replica{
			Process: host, Name: "production", Host: host, PID: 1, Version: "v1.12.3", StartedAt: now.Add(-400 * time.Hour),
		}, Partitions: []int{i}, State: &app.ReplicaState{Reason: "storage", Partitions: []int{i}}})
	}
	s.judge()
	return s
}

// No line of a screen is longer than the terminal is wide, and every fact is there.
func TestScreensFit(t *testing.T) {
	now := time.Now()
	screens := map[string]func(p *printer) error{
		"status": fullStatus(now).print,
		"deadletters list --group": func(p *printer) error {
			return printGroups(p, []deadletter.Group{{
				ID: "1f0c9a7e", Count: 123456, Oldest: now.Add(-99 * time.Hour), Newest: now, Bytes: 1 << 30, Replayed: 12345,
				Fingerprint: deadletter.Fingerprint{
					Kind: update.Comments, Reason: fault.UnknownOutcome, Status: 504, Error: strings.Repeat("a text of the API ", 20),
				},
			}})
		},
	}
	for name, show := range screens {
		for _, width := range []int{80, 140} {
			var out bytes.Buffer
			if err := show(&printer{w: &out, width: width}); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(out.String()) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
					t.Errorf("%s at %d columns has a line of %d: %s", name, width, n, line)
				}
			}
			for _, text := range map[string][]string{
				"status": {
					"not well: the stream of dead letters is full", "    also: sending is held", "123456 updates", "50000 updates of 12345 Vorgänge (1234 in retry)",
					"jane@desk", "100000 delivered", "2345", "PARTITION", "REPLICA", "storage",
				},
				"deadletters list --group": {"GROUP", "1f0c9a7e", "123456", "unknown_outcome", "a text of"},
			}[name] {
				if !strings.Contains(out.String(), text) {
					t.Errorf("%s at %d columns does not say %q:\n%s", name, width, text, &out)
				}
			}
		}
	}
}
