package queue

import (
	"context"
	"sync/atomic"
	"testing"
	"time"
)

func TestBusyKeepsThePinAndWakeEndsItAtOnce(t *testing.T) {
	conn := prepared(t, pinnedTTL(2*time.Second))
	fill(t, conn, 1, 1)
	var busy atomic.Bool
	q := open(t, conn, Config{Busy: busy.Load})
	r := start(t, q)
	ackAll(t, r.await(1))
	pinned := func() string {
		backlog, err := conn.Backlog(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return backlog.Partitions[0].PinnedClient
	}
	pin := pinned()
	if pin == "" {
		t.Fatal("nobody is pinned")
	}
	busy.Store(true)
	eventually(t, "nothing is asked for", func() bool { return q.Stats().State == StateBusy })
	fillFrom(t, conn, 1, 5, 5)
	within(t, 3*time.Second, "the pin is kept and nothing comes", func() bool { return pinned() == pin && len(r.all()) == 1 })
	if pulls := q.Stats().PinPulls; pulls < 2 || pulls > 6 {
		t.Errorf("%d requests to keep the pin in 3 s", pulls)
	}
	busy.Store(false)
	begin := time.Now()
	q.Wake()
	r.await(6)
	if took := time.Since(begin); took > 500*time.Millisecond {
		t.Errorf("waking took %s", took)
	}
	if stats := q.Stats(); stats.PinLosses != 0 || stats.Resets != 0 {
		t.Errorf("afterwards: %+v", stats)
	}
}

func TestAnUnpinnedQueueAsksForThePinAgain(t *testing.T) {
	conn := prepared(t)
	fill(t, conn, 5, 5)
	q := open(t, conn, Config{})
	r := start(t, q)
	r.await(5)
	if err := q.unpin(t.Context()); err != nil {
		t.Fatal(err)
	}
	fillFrom(t, conn, 5, 5, 5)
	r.await(10)
	if stats := q.Stats(); stats.PinLosses != 1 || stats.Resets != 0 || stats.Redelivered != 0 {
		t.Errorf("afterwards: %+v", stats)
	}
}

func TestAStandbyTakesOverInOrder(t *testing.T) {
	conn := prepared(t, pinnedTTL(time.Second))
	fill(t, conn, 50, 5)
	first := start(t, open(t, conn, Config{}))
	taken := first.await(50)
	ackAll(t, taken[:20])
	other := connect(t, ConnectOptions{URL: conn.Server()}, Hooks{})
	standby := open(t, other, Config{})
	second := start(t, standby)
	within(t, 500*time.Millisecond, "the standby gets nothing", func() bool { return len(second.all()) == 0 })
	first.stop()
	fillFrom(t, conn, 50, 10, 5)
	got := seqs(second.await(40))
	for i, seq := range got {
		if seq != uint64(21+i) {
			t.Fatalf("the standby got %v", got)
		}
	}
}
