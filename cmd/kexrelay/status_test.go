package main

import (
	"strings"
	"testing"
	"time"

	"kexrelay/internal/app"
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
		}, false, "no relay is running, what is published will wait: start kexrelay serve"},
		"idle without a relay that was there": {func(s *status) {
			s.Updates.Waiting, s.Partitions = 0, []partitionStatus{{}}
			s.Replicas = []replicaStatus{{Replica: journal.Replica{Host: "vm", PID: 7}, SilentSeconds: 12}}
		}, false, "no relay is running, what is published will wait: start kexrelay serve; the one on vm:7 was last heard of 12s ago"},
		"relays, and nobody has taken over": {func(s *status) {
			s.Updates.Waiting, s.Partitions = 0, []partitionStatus{{}}
			s.Replicas = []replicaStatus{{}, {}}
		}, false, "2 relays are running, but none has taken partition 0 over: after one has ended that takes some seconds"},
		"a relay that cannot write": {func(s *status) {
			s.Partitions[0].Pulling = false
			s.Replicas = []replicaStatus{{
				Replica: journal.Replica{Host: "vm", PID: 7}, SilentSeconds: 30,
				State: &app.ReplicaState{Reason: "storage", Holds: []app.HeldState{{Reason: fault.Storage, Detail: "no answer"}}},
			}}
		}, false, "NATS takes nothing from the relay on vm:7 (no answer): make room on the disk of the nats-server and start the server again"},
		"nothing moves": {func(s *status) {
			s.Updates.Oldest, s.Results, s.Work = now.Add(-5*time.Minute), &resultsStatus{}, &workStatus{Relays: 1, HeldUpdates: 2}
		}, false, "2 updates wait, the oldest for 5m00s, and nothing was settled for a minute although nothing wrong is known"},
		"retried": {func(s *status) {
			s.Work = &workStatus{Relays: 1, LanesRetrying: 2}
		}, true, "2 updates wait, and a relay works on them; 2 Vorgänge wait to be tried again"},
		"dead letters full": {func(s *status) {
			s.Topology.Rooms = []roomStatus{{Name: "KEX_DEADLETTERS", Messages: 1, Bytes: 998 << 20, MaxBytes: 1000 << 20, Refuses: true}}
			s.Holds = []journal.Hold{{Reason: fault.Storage, Since: now}}
		}, false, "the stream of dead letters is full (998.0 MiB of 1000.0 MiB): an update that cannot be booked stays, and all sending is held"},
		"dead letters without room for a large one": {func(s *status) {
			s.Holds = []journal.Hold{{Reason: fault.Storage, Since: now, Detail: "kex.deadletter.gone.1.dokument: maximum bytes exceeded"}}
		}, false, "the stream of dead letters takes no more: an update that cannot be booked stays"},
		"documents full": {func(s *status) {
			s.Topology.Rooms = []roomStatus{{Name: "KEX_DOCUMENTS", Messages: 1, Bytes: 999 << 20, MaxBytes: 1000 << 20, Refuses: true}}
		}, false, "the bucket of large documents is full (999.0 MiB of 1000.0 MiB)"},
		"topology not known": {func(s *status) {
			s.Topology = topologyStatus{NotKnown: true, Problem: "not known: denied $JS.API.STREAM.INFO.KEX_UPDATES"}
		}, false, "the streams in NATS cannot be looked at: denied $JS.API.STREAM.INFO.KEX_UPDATES"},
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
		}, false, "sending is held: outage for 1m00s, the API does not work or cannot be reached: it is tried again by itself; kexrelay doctor says more; next try in 3s"},
		"held, probing": {func(s *status) {
			s.Holds = []journal.Hold{{Reason: fault.Storage, Since: now.Add(-time.Hour), NextProbe: now.Add(-time.Second)}}
		}, false, "sending is held: storage for 1h00m, NATS does not take or give what the relay needs: see the reason below; make room on its disk or with kexrelay setup --max-bytes, or grant the right; trying now"},
		"held when it died": {func(s *status) {
			s.Updates.Waiting, s.Partitions[0] = 0, partitionStatus{}
			s.Holds = []journal.Hold{{Reason: fault.Operator, Since: now.Add(-time.Minute)}}
		}, false, "no relay is running"},
		"one that no consumer delivers": {
			func(s *status) { s.Updates.Undelivered = 1 }, false,
			"1 update is in the stream that no consumer delivers: a relay fetches them again within a minute; if it does not, make room",
		},
		"some that no consumer delivers, without a relay": {func(s *status) {
			s.Updates.Undelivered, s.Partitions[0] = 2, partitionStatus{}
		}, false, "2 updates wait and no relay fetches: start kexrelay serve"},
		"full":          {func(s *status) { s.Topology.Rooms[0].Bytes = 995 << 20 }, false, "the stream of updates is full (995.0 MiB of 1000.0 MiB)"},
		"nearly full":   {func(s *status) { s.Topology.Rooms[0].Bytes = 985 << 20 }, true, "2 updates wait"},
		"without limit": {func(s *status) { s.Topology.Rooms[0].Bytes, s.Topology.Rooms[0].MaxBytes = 1<<50, -1 }, true, "2 updates wait"},
		"not all known": {func(s *status) { s.unknown("holds", errNotAllowed) }, true, "nothing wrong was found, but not everything could be asked"},
		"no relay first": {func(s *status) {
			s.Partitions[0].Pulling = false
			s.Holds = []journal.Hold{{Reason: fault.Outage, Since: now}}
		}, false, "2 updates wait and no relay fetches"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := &status{
				CheckedAt: now,
				Topology: topologyStatus{Right: true, Rooms: []roomStatus{
					{Name: "KEX_UPDATES", Messages: 2, Bytes: 1 << 20, MaxBytes: 1000 << 20, Refuses: true},
				}},
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
