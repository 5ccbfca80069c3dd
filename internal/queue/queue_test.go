package queue

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"kexrelay/internal/topology"
)

func TestUpdatesAreHandedOverInStreamOrder(t *testing.T) {
	conn := prepared(t)
	const n = 5000
	fill(t, conn, n, 50)
	q := open(t, conn, Config{})
	r := start(t, q)
	taken := r.await(n)
	for i, d := range taken {
		if d.Seq() != uint64(i+1) {
			t.Fatalf("delivery %d has sequence %d", i, d.Seq())
		}
		if got, want := d.Subject(), subject(i%50); got != want {
			t.Fatalf("update %d has subject %q, want %q", d.Seq(), got, want)
		}
		if got, want := text(t, d), strconv.Itoa(i); got != want {
			t.Fatalf("update %d has body %q, want %q", d.Seq(), got, want)
		}
		if err := d.Ack(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
	stats := q.Stats()
	if stats.Held != 0 || stats.Bytes != 0 || stats.Bodies != 0 || stats.Delivered != n || stats.CatchUps != 0 || stats.Redelivered != 0 {
		t.Errorf("after all was settled: %+v", stats)
	}
	if got := conn.Stats().SlowConsumers; got != 0 {
		t.Errorf("%d slow consumers", got)
	}
}

func TestAnUpdatePublishedWhileIdleArrivesAtOnce(t *testing.T) {
	conn := prepared(t)
	r := start(t, open(t, conn, Config{}))
	const n = 200
	var waits, trips []time.Duration
	for i := range n {
		trip, err := conn.NATS().RTT()
		if err != nil {
			t.Fatal(err)
		}
		trips = append(trips, trip)
		begin := time.Now()
		if err := conn.NATS().Publish(subject(1), []byte("x")); err != nil {
			t.Fatal(err)
		}
		ackAll(t, r.await(i + 1)[i:])
		waits = append(waits, time.Since(begin))
	}
	slices.Sort(waits)
	slices.Sort(trips)
	// A busy machine is slow with everything: then a ping takes as much longer.
	if median := waits[n/2]; median > max(5*time.Millisecond, 10*trips[n/2]) {
		t.Errorf("the median wait is %s, that for a ping %s", median, trips[n/2])
	}
	t.Logf("median %s, 99th percentile %s, of a ping %s", waits[n/2], waits[n*99/100], trips[n/2])
}

func TestRunAndTakeOverExcludeEachOther(t *testing.T) {
	conn := prepared(t)
	q := open(t, conn, Config{})
	fill(t, conn, 1, 1)
	start(t, q).await(1)
	if err := q.Run(t.Context(), func(*Delivery) {}); err == nil {
		t.Error("a second Run did not fail")
	}
	if err := q.TakeOver(t.Context()); err == nil {
		t.Error("TakeOver while running did not fail")
	}
}

func TestADeletedConsumerEndsRun(t *testing.T) {
	t.Parallel()
	remove := map[string]func(*Conn) error{
		"consumer": func(c *Conn) error {
			return c.JetStream().DeleteConsumer(context.Background(), topology.StreamUpdates, topology.Consumer(0))
		},
		"stream": func(c *Conn) error {
			return c.JetStream().DeleteStream(context.Background(), topology.StreamUpdates)
		},
	}
	for name, remove := range remove {
		for busy, when := range map[bool]string{false: "fetching", true: "busy"} {
			t.Run(name+" while "+when, func(t *testing.T) {
				conn := prepared(t)
				fill(t, conn, 1, 1)
				q := open(t, conn, Config{Busy: func() bool { return busy }})
				r := start(t, q)
				eventually(t, "requests are made", func() bool { return q.Stats().Pulls+q.Stats().PinPulls > 0 })
				if err := remove(conn); err != nil {
					t.Fatal(err)
				}
				if err := r.end(); !errors.Is(err, ErrConsumerGone) {
					t.Errorf("Run returned %v, want ErrConsumerGone", err)
				}
			})
		}
	}
}

func TestAClosedConnectionEndsRun(t *testing.T) {
	conn := prepared(t)
	fill(t, conn, 1, 1)
	r := start(t, open(t, conn, Config{}))
	d := r.await(1)[0]
	conn.NATS().Close()
	if err := r.end(); !errors.Is(err, ErrConnectionClosed) {
		t.Errorf("Run returned %v, want ErrConnectionClosed", err)
	}
	if err := d.Ack(t.Context()); !errors.Is(err, ErrConnectionClosed) {
		t.Errorf("Ack returned %v, want ErrConnectionClosed", err)
	}
}

func TestStoppingKeepsWhatIsHeldAlive(t *testing.T) {
	t.Parallel()
	conn := prepared(t, ackWait(4*time.Second))
	fill(t, conn, 10, 10)
	q := open(t, conn, Config{Heartbeat: 200 * time.Millisecond})
	r := start(t, q)
	taken := r.await(10)
	r.stop()
	if got := q.Stats().State; got != StateStopped {
		t.Errorf("the state is %s", got)
	}
	within(t, 6*time.Second, "nothing is waiting to be delivered again", func() bool {
		backlog, err := conn.Backlog(context.Background())
		return err == nil && backlog.Partitions[0].Redelivered == 0 && backlog.Partitions[0].AckPending == 10
	})
	fillFrom(t, conn, 10, 5, 10)
	ackAll(t, taken)
	eventually(t, "only what came after the stop is left", func() bool { return stored(t, conn) == 5 })
	if got := len(r.all()); got != 10 {
		t.Errorf("%d updates were handed over, 10 before the stop", got)
	}
}

func TestBindingRefusesWhatSetupDidNotMake(t *testing.T) {
	conn := prepared(t, ackWait(10*time.Second))
	if _, err := New(t.Context(), conn, Config{}); !errors.Is(err, ErrConsumerGone) {
		t.Errorf("a heartbeat as long as the ack wait: %v", err)
	}
	if _, err := New(t.Context(), conn, Config{Partition: 7}); !errors.Is(err, ErrConsumerGone) {
		t.Errorf("a missing consumer: %v", err)
	}
}
