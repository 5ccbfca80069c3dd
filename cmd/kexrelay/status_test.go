package main

import (
	"strings"
	"testing"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
)

// The verdict names the first thing to be done, and is well only when nothing is to be done.
func TestStatusVerdict(t *testing.T) {
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	// A change makes something wrong with an installation that works on two updates.
	tests := map[string]struct {
		change  func(s *status)
		healthy bool
		verdict string
	}{
		"works": {func(*status) {}, true, "2 updates wait, and a relay works on them"},
		"idle":  {func(s *status) { s.Updates.Waiting, s.Partitions[0].InProgress = 0, 0 }, true, "nothing is waiting"},
		"idle without a relay": {func(s *status) {
			s.Updates.Waiting, s.Partitions = 0, []partitionStatus{{}}
		}, true, "nothing is waiting, and no relay is running"},
		"no NATS": {func(s *status) { s.NATS.Problem = "nobody answers" }, false, "nobody answers"},
		"no topology": {func(s *status) {
			s.Topology = topologyStatus{Problem: "a is missing\nb is missing"}
		}, false, "the streams in NATS are not right: a is missing; b is missing"},
		"paused consumer": {func(s *status) { s.Partitions[0].Paused = true }, false, "the consumer relay-0 is paused in NATS itself"},
		"no relay":        {func(s *status) { s.Partitions[0].Pulling = false }, false, "2 updates wait and no relay fetches: start kexrelay serve"},
		"no relay, work in one partition": {func(s *status) {
			s.Partitions[0].Pulling = false
			s.Partitions = append(s.Partitions, partitionStatus{Partition: 1})
		}, false, "2 updates wait and no relay fetches: start kexrelay serve"},
		"one partition without": {func(s *status) {
			s.Partitions = append(s.Partitions, partitionStatus{Partition: 1, Pending: 1})
		}, false, "no relay fetches the updates of partition 1"},
		"partition without work or relay": {func(s *status) {
			s.Partitions = append(s.Partitions, partitionStatus{Partition: 1})
		}, true, "2 updates wait, and a relay works on them"},
		"held": {func(s *status) {
			s.Holds = []journal.Hold{{Reason: fault.Outage, Since: now.Add(-time.Minute), NextProbe: now.Add(3 * time.Second)}}
		}, false, "sending is held: outage for 1m00s, the API does not work; next try in 3s"},
		"held, probing": {func(s *status) {
			s.Holds = []journal.Hold{{Reason: fault.Storage, Since: now.Add(-time.Hour), NextProbe: now.Add(-time.Second)}}
		}, false, "sending is held: storage for 1h00m, NATS refuses results or dead letters: make room on its disk or with kexrelay setup --max-bytes; trying now"},
		"held when it died": {func(s *status) {
			s.Updates.Waiting, s.Partitions[0] = 0, partitionStatus{}
			s.Holds = []journal.Hold{{Reason: fault.Operator, Since: now.Add(-time.Minute)}}
		}, false, "sending is held: operator for 1m00s, somebody paused it; no relay is running, so this may be out of date"},
		"full":          {func(s *status) { s.Updates.Bytes = 995 << 20 }, false, "the stream of updates is full (995.0 MiB of 1000.0 MiB)"},
		"nearly full":   {func(s *status) { s.Updates.Bytes = 985 << 20 }, true, "2 updates wait"},
		"without limit": {func(s *status) { s.Updates.Bytes, s.Updates.MaxBytes = 1<<50, -1 }, true, "2 updates wait"},
		"not all known": {func(s *status) { s.unknown("holds", errNotAllowed) }, true, "nothing wrong was found, but not everything could be asked"},
		"no relay first": {func(s *status) {
			s.Partitions[0].Pulling = false
			s.Holds = []journal.Hold{{Reason: fault.Outage, Since: now}}
		}, false, "2 updates wait and no relay fetches"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := &status{
				CheckedAt:  now,
				Topology:   topologyStatus{Right: true},
				Updates:    &updatesStatus{Waiting: 2, Bytes: 1 << 20, MaxBytes: 1000 << 20},
				Partitions: []partitionStatus{{InProgress: 2, Pulling: true}},
			}
			test.change(s)
			s.judge()
			if s.Healthy != test.healthy || !strings.HasPrefix(s.Verdict, test.verdict) {
				t.Errorf("got %v and %q,\nwant %v and %q", s.Healthy, s.Verdict, test.healthy, test.verdict)
			}
			if strings.Contains(s.Verdict, "\n") {
				t.Errorf("the verdict has more than one line: %q", s.Verdict)
			}
		})
	}
}

var errNotAllowed = usageError(nil) // Any error will do.

// Every reason of a hold is explained.
func TestEveryHoldHasAMeaning(t *testing.T) {
	for _, reason := range fault.HoldReasons() {
		if got := holdMeaning(reason); got == holdMeaning("nosuch") {
			t.Errorf("%s: %s", reason, got)
		}
	}
}
