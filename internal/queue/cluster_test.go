package queue

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
)

// In a cluster every server has its own books of what is pending, and whichever leads the stream removes what its books
// call settled. Taking over while the former process still reports what it holds as being worked on must leave no update
// out of anybody's books.
func TestTakingOverInAClusterLosesNothing(t *testing.T) {
	t.Parallel()
	servers := embeddedtest.RunCluster(t)
	connections := make([]*Conn, len(servers))
	for i, s := range servers {
		connections[i] = connect(t, ConnectOptions{URL: s.ClientURL()}, Hooks{})
	}
	setUp(t, connections[0])
	const n, vorgaenge = 3000, 50
	fill(t, connections[0], n, vorgaenge)
	var r *run
	var q *Queue
	const holders = 5
	for i := range holders {
		former := q
		q = open(t, connections[i%len(connections)], Config{})
		working := whileWorkingOn(former)
		if err := q.TakeOver(t.Context()); err != nil {
			t.Fatal(err)
		}
		working()
		r = start(t, q)
		r.await((i + 1) * n / holders)
		if i < holders-1 {
			r.stop() // It asks for nothing more, and finishes what it was sending.
		}
	}
	for range 2 * len(servers) {
		stepDown(t, servers, connections[0].NATS())
	}
	taken := r.await(n)
	inOrder(t, taken)
	if got := stored(t, connections[0]); got != n {
		t.Errorf("%d of %d updates are left, and nobody has acked one", got, n)
	}
	ackAll(t, taken)
	eventually(t, "the stream is empty", func() bool { return stored(t, connections[0]) == 0 })
	if got := len(r.all()); got != n {
		t.Errorf("%d were handed over, there are %d", got, n)
	}
	t.Logf("%+v", q.Stats())
}

// whileWorkingOn reports all that a queue holds as being worked on, all the time until the function it gives is called.
func whileWorkingOn(q *Queue) (end func()) {
	if q == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var beats sync.WaitGroup
	beats.Go(func() {
		for slot := 0; ctx.Err() == nil; slot = (slot + 1) % wheelSlots {
			q.beat(slot, nil)
		}
	})
	return func() {
		cancel()
		beats.Wait()
	}
}

// stepDown makes another server lead the stream, and waits until it has looked at its books.
func stepDown(t *testing.T, servers []*server.Server, nc *nats.Conn) {
	t.Helper()
	leader := func() int {
		for i, s := range servers {
			if s.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, topology.StreamUpdates) {
				return i
			}
		}
		return -1
	}
	before := leader()
	if _, err := nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+topology.StreamUpdates, nil, patience); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another server leads the stream", func() bool { now := leader(); return now >= 0 && now != before })
	// It looks when it leads, in a goroutine that nobody can wait for. So long was enough to see the loss by a reset.
	time.Sleep(300 * time.Millisecond)
}

// inOrder checks that no update overtook an older one of its Vorgang, and none came twice.
func inOrder(t *testing.T, taken []*Delivery) {
	t.Helper()
	last := make(map[string]uint64)
	for _, d := range taken {
		if d.Seq() <= last[d.Subject()] {
			t.Fatalf("update %d of %s came after %d", d.Seq(), d.Subject(), last[d.Subject()])
		}
		last[d.Subject()] = d.Seq()
	}
}
