package queue

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
)

func TestDrainSendsTheAcks(t *testing.T) {
	server := embeddedtest.Run(t)
	conn := connect(t, ConnectOptions{URL: server.URL()}, Hooks{})
	setUp(t, conn)
	fill(t, conn, 2000, 10)
	other := connect(t, ConnectOptions{URL: server.URL()}, Hooks{})
	q := open(t, other, Config{})
	r := start(t, q)
	taken := r.await(2000)
	r.stop()
	ackAll(t, taken)
	if err := other.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-other.Closed():
	default:
		t.Error("the connection is not closed")
	}
	if err := other.Drain(t.Context()); err != nil {
		t.Errorf("draining again: %v", err)
	}
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
}

func TestDrainWithoutAServerSaysSo(t *testing.T) {
	server := embeddedtest.Run(t)
	conn := connect(t, ConnectOptions{URL: server.URL()}, Hooks{})
	if err := server.Shutdown(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the disconnect is seen", func() bool { return !conn.Connected() })
	if err := conn.Drain(t.Context()); !errors.Is(err, nats.ErrDisconnected) {
		t.Errorf("draining gave %v", err)
	}
	<-conn.Closed()
	if err := conn.Err(); !errors.Is(err, ErrConnectionClosed) {
		t.Errorf("the connection's error is %v", err)
	}
}

func TestSlowConsumersAreTold(t *testing.T) {
	server := embeddedtest.Run(t)
	told := make(chan struct{}, 100)
	conn := connect(t, ConnectOptions{URL: server.URL()}, Hooks{Logger: logger(t), OnSlowConsumer: func() { told <- struct{}{} }})
	if _, err := conn.NATS().ChanSubscribe("full", make(chan *nats.Msg, 1)); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := conn.NATS().Publish("full", nil); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-told:
	case <-time.After(patience):
		t.Fatal("nobody was told")
	}
	if conn.Stats().SlowConsumers == 0 {
		t.Error("it was not counted")
	}
}

func TestTheBacklogIsRead(t *testing.T) {
	conn := prepared(t)
	empty, err := conn.Backlog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if empty.Messages != 0 || !empty.OldestAt.IsZero() || len(empty.Partitions) != 1 || empty.Partitions[0].PinnedClient != "" {
		t.Errorf("an empty stream: %+v", empty)
	}
	fill(t, conn, 10, 5)
	q := open(t, conn, Config{})
	r := start(t, q)
	taken := r.await(10)
	r.stop()
	ackAll(t, taken[:4])
	fillFrom(t, conn, 10, 3, 5)
	eventually(t, "the acks are processed", func() bool { return stored(t, conn) == 9 })
	got, err := conn.Backlog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p := got.Partitions[0]
	if got.MaxBytes <= 0 || got.Bytes == 0 || got.FirstSeq != 5 || got.LastSeq != 13 || time.Since(got.OldestAt) > time.Minute {
		t.Errorf("the stream: %+v", got)
	}
	if p.Number != 0 || p.Pending != 3 || p.AckPending != 6 || p.LastDelivered != 10 || p.AckFloor != 4 || p.PinnedClient == "" || p.PinnedAt.IsZero() {
		t.Errorf("the partition: %+v", p)
	}
	if empty.Undelivered+got.Undelivered != 0 {
		t.Errorf("%d and %d updates nobody delivers", empty.Undelivered, got.Undelivered)
	}
	strand(t, conn, 0, 12)
	if got, err = conn.Backlog(t.Context()); err != nil || got.Undelivered != 7 {
		t.Errorf("%d updates nobody delivers, want 7; %v", got.Undelivered, err)
	}
	if err := conn.JetStream().DeleteStream(t.Context(), topology.StreamUpdates); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Backlog(t.Context()); !errors.Is(err, ErrConsumerGone) {
		t.Errorf("without a stream: %v", err)
	}
}
