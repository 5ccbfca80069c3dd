package topology_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

func TestAClusterKeepsThreeCopies(t *testing.T) {
	js := connectTo(t, embeddedtest.RunCluster(t)[0].ClientURL())
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if _, err := topology.Setup(ctx, js, topology.Options{Partitions: 2}); err != nil {
		t.Fatal(err)
	}
	if report, err := topology.Setup(ctx, js, topology.Options{}); err != nil || report.Changed() {
		t.Fatalf("second setup: %v\n%s", err, report)
	}
	found, err := topology.Verify(ctx, js)
	if err != nil || found.Replicas != 3 || found.Partitions != 2 {
		t.Errorf("Verify = %+v, %v, want 3 replicas and 2 partitions", found, err)
	}
	publish(t, js, update.SubjectPrefix+"123456.dokument", "{}")
	if got := fetch(t, js, topology.Partition("123456", 2), 1); len(got) != 1 {
		t.Errorf("the relay gets %q, want the update", got)
	}
	consumer, err := js.Consumer(ctx, topology.StreamUpdates, topology.Consumer(0))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(consumer.CachedInfo().Cluster.Replicas) + 1; n != 3 {
		t.Errorf("relay-0 has %d replicas, want 3", n)
	}
	// Fewer copies, then more again, without losing one setting.
	for _, replicas := range []int{1, 3} {
		if _, err := topology.Setup(ctx, js, topology.Options{Replicas: replicas}); err != nil {
			t.Fatal(err)
		}
		if found, err := topology.Verify(ctx, js); err != nil || found.Replicas != replicas {
			t.Errorf("Verify = %+v, %v, want %d replicas", found, err, replicas)
		}
	}
	_, err = topology.Setup(ctx, js, topology.Options{Replicas: 5})
	if err == nil || !strings.Contains(err.Error(), "fewer --replicas") {
		t.Errorf("Setup of 5 replicas on 3 servers = %v, want it to name the option", err)
	}
}
