package queue

import (
	"context"
	"sync/atomic"
	"testing"
	"time"
)

func TestBusyKeepsThePinAndWakeEndsItAtOnce(t *testing.T) {
	t.Parallel()
	const ttl = 5 * time.Second
	conn := prepared(t, pinnedTTL(ttl))
	machine := watchStalls(t)
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
	kept := time.Now()
	within(t, ttl+2*time.Second, "the pin is kept and nothing comes", func() bool { return pinned() == pin && len(r.all()) == 1 })
	if pulls, most := q.Stats().PinPulls, 2*(time.Since(kept)/pinInterval); pulls < 2 || pulls > uint64(most) {
		t.Errorf("%d requests to keep the pin in %s, want 2 to %d", pulls, time.Since(kept), most)
	}
	busy.Store(false)
	begin := time.Now()
	q.Wake()
	r.await(6)
	machine.wantWithin(t, "waking", begin, 500*time.Millisecond)
	if stats := q.Stats(); stats.PinLosses != 0 || stats.CatchUps != 0 {
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
	if stats := q.Stats(); stats.PinLosses != 1 || stats.CatchUps != 0 || stats.Redelivered != 0 {
		t.Errorf("afterwards: %+v", stats)
	}
}

func TestAStandbyTakesOverInOrder(t *testing.T) {
	t.Parallel()
	conn := prepared(t, pinnedTTL(4*time.Second))
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
