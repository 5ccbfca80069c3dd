package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"kexrelay/internal/journal"
)

// An operator sees which process holds what, although all replicas have the same name.
func TestStatusTellsReplicasApart(t *testing.T) {
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	replica := func(process, host string, pid int, silent time.Duration) journal.RegisteredReplica {
		return journal.RegisteredReplica{Replica: journal.Replica{
			Process: process, Name: "prod", Host: host, PID: pid, Version: "v1.2.3", StartedAt: now.Add(-90 * time.Second),
		}, SilentFor: silent}
	}
	s := &status{CheckedAt: now, Partitions: []partitionStatus{
		{Partition: 0, Pulling: true}, {Partition: 1, Pulling: true}, {Partition: 2, Pulling: true}, {Partition: 3}, {Partition: 4},
	}}
	s.shareOut([]journal.RegisteredReplica{
		replica("p1", "host-a", 11, 300*time.Millisecond), replica("p2", "host-b", 22, 400*time.Millisecond), replica("p3", "host-b", 33, 8*time.Second),
	}, []journal.Holder{
		{Partition: 0, Process: "p1"},
		{Partition: 1, Process: "p3"},
		{Partition: 2, Process: "p1"},
		{Partition: 3, Process: "p2", Released: true},
		{Partition: 4, Process: "p0"},
	})
	var out bytes.Buffer
	p := &printer{w: &out}
	if err := s.printPartitions(p); err != nil {
		t.Fatal(err)
	}
	if err := s.printReplicas(p); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"",
		"PARTITION PENDING IN PROGRESS REDELIVERED RELAY LEASE",
		"0 0 0 0 fetching host-a:11",
		"1 0 0 0 fetching host-b:33 (not renewed)",
		"2 0 0 0 fetching host-a:11",
		"3 0 0 0 none nobody",
		"4 0 0 0 none gone (p0)",
		"",
		"REPLICA NAME VERSION RUNNING HAS PARTITION STATE",
		"host-a:11 prod v1.2.3 1m30s 0, 2 alive",
		"host-b:22 prod v1.2.3 1m30s none, stands by alive",
		"host-b:33 prod v1.2.3 1m30s 1 silent for 8s",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
