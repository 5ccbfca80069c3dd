package queue

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"kexrelay/internal/embedded"
	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
)

func TestAwaitedAcksAreApplied(t *testing.T) {
	conn := prepared(t)
	const n = 5000
	q := open(t, conn, Config{})
	if err := q.AwaitAcks(t.Context()); err != nil {
		t.Fatalf("without any ack: %v", err)
	}
	r := start(t, q)
	for round := range 3 {
		fill(t, conn, n, 20)
		ackAll(t, r.await((round + 1) * n)[round*n:])
		if round == 2 {
			r.stop() // As at the stop of the relay.
		}
		if err := q.AwaitAcks(t.Context()); err != nil {
			t.Fatal(err)
		}
		backlog, err := conn.Backlog(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if p := backlog.Partitions[0]; backlog.Messages != 0 || p.AckPending != 0 {
			t.Fatalf("%d updates and %d without an ack are left", backlog.Messages, p.AckPending)
		}
	}
}

// The last ack answers for those before it, also when all are proven to have been read.
func TestTheLastAckIsAwaitedEvenIfProven(t *testing.T) {
	var u unproven
	now := time.Now()
	for _, reply := range []string{"a", "b", "c"} {
		u.add(reply)
	}
	for request := range uint64(3) {
		now = now.Add(ackAge)
		u.asked(request+1, now)
	}
	u.answered(3)
	if got := u.all(now); len(got) != 0 {
		t.Fatalf("unproven: %v", got)
	}
	if got := u.unapplied(); len(got) != 1 || got["0"] != "c" {
		t.Errorf("to be awaited: %v", got)
	}
	u.add("d")
	var got []string
	for _, reply := range u.unapplied() {
		got = append(got, reply)
	}
	if !slices.Equal(got, []string{"d"}) { // Once: of two in a cluster only one would be answered, and a round lost.
		t.Errorf("to be awaited: %v", got)
	}
}

func TestAwaitingAcksHasAnEnd(t *testing.T) {
	t.Parallel()
	conn := prepared(t)
	fill(t, conn, 3, 1)
	q := open(t, conn, Config{})
	r := start(t, q)
	taken := r.await(3)
	r.stop()
	if err := conn.JetStream().DeleteConsumer(t.Context(), topology.StreamUpdates, topology.Consumer(0)); err != nil {
		t.Fatal(err)
	}
	ackAll(t, taken)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := q.AwaitAcks(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "may be missing") {
		t.Errorf("of a consumer that is gone: %v", err)
	}
	conn.NATS().Close()
	if err := q.AwaitAcks(t.Context()); err == nil {
		t.Error("no error on a closed connection")
	}
}

func TestAcksAreAwaitedThroughAReconnect(t *testing.T) {
	server := embeddedtest.Run(t)
	conn := connect(t, ConnectOptions{URL: server.URL()}, Hooks{Logger: logger(t)})
	setUp(t, conn)
	fill(t, conn, 100, 5)
	q := open(t, conn, Config{})
	r := start(t, q)
	taken := r.await(100)
	r.stop()
	awaited := make(chan error, 1)
	restarted(t, server, embedded.Options{}, func() {
		eventually(t, "the disconnect is seen", func() bool { return !conn.Connected() })
		ackAll(t, taken) // Cannot be sent now.
		go func() { awaited <- q.AwaitAcks(context.Background()) }()
	})
	if err := <-awaited; err != nil {
		t.Fatal(err)
	}
	if left := stored(t, conn); left != 0 {
		t.Errorf("%d updates are left", left)
	}
}

// The acks of a consumer that was deleted are not sent again: in a stream made anew the same sequences are others.
func TestNoAckOutlivesItsConsumer(t *testing.T) {
	conn := prepared(t)
	q := open(t, conn, Config{})
	r := start(t, q)
	fill(t, conn, 4, 2)
	ackAll(t, r.await(4))
	if open := len(q.awaited()); open == 0 {
		t.Fatal("no ack is remembered")
	}
	if err := conn.JetStream().DeleteStream(t.Context(), topology.StreamUpdates); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is left to be sent again", func() bool { return len(q.awaited()) == 0 })
}

// awaited are the acks that would be sent again.
func (q *Queue) awaited() map[string]string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.unproven.unapplied()
}
