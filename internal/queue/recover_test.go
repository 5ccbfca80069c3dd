package queue

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

func TestARedeliveryOnlyReplacesTheHandle(t *testing.T) {
	conn := prepared(t)
	fill(t, conn, 20, 5)
	q := open(t, conn, Config{})
	r := start(t, q)
	taken := r.await(20)
	var replies []string // Read before the first of them can be replaced.
	for _, d := range taken[:10] {
		replies = append(replies, d.reply)
	}
	old := replies[0]
	for _, reply := range replies {
		if err := conn.NATS().Publish(reply, []byte("-NAK")); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the redeliveries are seen", func() bool { return q.Stats().Redelivered == 10 })
	q.mu.Lock()
	if taken[0].reply == old {
		t.Error("the ack handle is the old one")
	}
	q.mu.Unlock()
	ackAll(t, taken)
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
	if got := len(r.all()); got != 20 {
		t.Errorf("%d updates were handed over, there are 20", got)
	}
	if got := q.Stats().CatchUps; got != 0 {
		t.Errorf("read from the stream %d times", got)
	}
}

func TestTakingOverBringsWhatAFormerProcessHeldInOrder(t *testing.T) {
	conn := prepared(t)
	fill(t, conn, 300, 20)
	other := connect(t, ConnectOptions{URL: conn.Server()}, Hooks{})
	dying := open(t, other, Config{})
	former := start(t, dying)
	taken := former.await(300)
	var left []uint64
	for i, d := range taken {
		if i%3 == 0 {
			ackAll(t, []*Delivery{d})
		} else {
			left = append(left, d.Seq())
		}
	}
	if err := dying.AwaitAcks(t.Context()); err != nil {
		t.Fatal(err)
	}
	other.NATS().Close() // It dies without a word: its pin lasts, its updates are not due for 30 s.
	if err := former.end(); !errors.Is(err, ErrConnectionClosed) {
		t.Fatal(err)
	}
	fillFrom(t, conn, 300, 50, 20)
	for seq := range uint64(50) {
		left = append(left, 301+seq)
	}
	q := open(t, conn, Config{})
	machine := watchStalls(t)
	begin := time.Now()
	if err := q.TakeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := start(t, q)
	got := seqs(r.await(len(left)))
	machine.wantWithin(t, "it", begin, 5*time.Second)
	if !slices.Equal(got, left) {
		t.Errorf("got %v, want %v", got, left)
	}
	if stats := q.Stats(); stats.CatchUps != 1 {
		t.Errorf("read from the stream %d times, once was asked for", stats.CatchUps)
	}
	ackAll(t, r.all()) // Most of them never came as deliveries.
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
}

// steal takes n updates from the consumer as if they had been lost on their way to the queue.
func steal(t *testing.T, conn *Conn, n int) {
	t.Helper()
	backlog, err := conn.Backlog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	request, err := json.Marshal(pullRequest{Batch: n, Expires: 5 * time.Second, Group: topology.PriorityGroup, PinID: backlog.Partitions[0].PinnedClient})
	if err != nil {
		t.Fatal(err)
	}
	inbox := conn.NATS().NewInbox()
	sub, err := conn.NATS().SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.NATS().PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+topology.StreamUpdates+"."+topology.Consumer(0), inbox, request); err != nil {
		t.Fatal(err)
	}
	for range n {
		if m, err := sub.NextMsg(patience); err != nil || m.Reply == "" {
			t.Fatalf("stealing an update: %v %v", m, err)
		}
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
}

func TestWhatWasLostOnItsWayTakesItsPlaceInFront(t *testing.T) {
	t.Parallel()
	conn := prepared(t)
	fill(t, conn, 30, 3)
	var busy atomic.Bool
	q := open(t, conn, Config{Busy: busy.Load})
	r := start(t, q)
	taken := r.await(30)
	ackAll(t, taken[:15])
	busy.Store(true)
	eventually(t, "nothing is asked for", func() bool { return q.Stats().State == StateBusy })
	fillFrom(t, conn, 30, 30, 3)
	steal(t, conn, 10)
	busy.Store(false)
	q.Wake()
	got := seqs(r.await(60))
	for i, seq := range got {
		if seq != uint64(i+1) {
			t.Fatalf("handed over in the order %v", got)
		}
	}
	if stats := q.Stats(); stats.CatchUps != 1 || stats.Redelivered != 0 {
		t.Errorf("after reading them: %+v", stats)
	}
	ackAll(t, r.all())
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
}

func TestAForeignResetHarmsNothing(t *testing.T) {
	conn := prepared(t)
	fill(t, conn, 100, 10)
	q := open(t, conn, Config{})
	r := start(t, q)
	taken := r.await(100)
	if _, err := conn.JetStream().ResetConsumer(t.Context(), topology.StreamUpdates, topology.Consumer(0)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all have come again", func() bool { return q.Stats().Redelivered == 100 })
	ackAll(t, taken)
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
	if got := len(r.all()); got != 100 {
		t.Errorf("%d handed over, there are 100", got)
	}
}

func TestALostAckIsGivenAgain(t *testing.T) {
	conn := prepared(t)
	fill(t, conn, 10, 10)
	q := open(t, conn, Config{})
	r := start(t, q)
	taken := r.await(10)
	for _, d := range taken { // As with a server killed at once: it never hears of the acks.
		q.mu.Lock()
		d.reply = "nowhere"
		q.mu.Unlock()
	}
	ackAll(t, taken)
	if got := stored(t, conn); got != 10 {
		t.Fatalf("%d updates are in the stream, the acks should be lost", got)
	}
	if _, err := conn.JetStream().ResetConsumer(t.Context(), topology.StreamUpdates, topology.Consumer(0)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
	if stats := q.Stats(); stats.Reacked != 10 || len(r.all()) != 10 {
		t.Errorf("%d acked again, %d handed over", stats.Reacked, len(r.all()))
	}
}

func TestAConsumerThatRefusesOurRequestsEndsRun(t *testing.T) {
	conn := prepared(t, func(c *jetstream.ConsumerConfig) { c.MaxRequestBatch = 10 })
	err := start(t, open(t, conn, Config{})).end()
	if !errors.Is(err, ErrConsumerGone) || !strings.Contains(err.Error(), "kexrelay setup") {
		t.Errorf("Run returned %v", err)
	}
}

func TestARequestLostWithoutAWordIsNoticed(t *testing.T) {
	conn := prepared(t)
	fill(t, conn, 3, 3)
	q := open(t, conn, Config{})
	var got []uint64
	f := &fetcher{q: q, accept: func(d *Delivery) { got = append(got, d.Seq()) }, reconnects: conn.reconnects()}
	if err := f.subscribe(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.unsubscribe() })
	step := func() {
		t.Helper()
		if _, err := f.step(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := f.drain(inboxSize); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "three have come", func() bool { step(); return len(got) == 3 })
	lose := func() {
		f.unsubscribe() // The request that waits at the server dies with its inbox.
		if err := f.subscribe(); err != nil {
			t.Fatal(err)
		}
		f.current = pull{reply: "lost", asked: batch, left: batch, open: true, deadline: time.Now()}
	}
	lose()
	step()
	if f.current.open || !f.unread.empty() {
		t.Errorf("a lost request for nothing: %+v", f)
	}
	lose()
	fillFrom(t, conn, 3, 3, 3)
	steal(t, conn, 2)
	step()
	if f.unread != (span{4, 5}) {
		t.Error("two updates were lost with the request and nobody noticed")
	}
	eventually(t, "the lost have come too", func() bool { step(); return len(got) == 6 })
	if !slices.Equal(got, []uint64{1, 2, 3, 4, 5, 6}) {
		t.Errorf("they came as %v", got)
	}
}

func TestAConsumerMadeAnewGoesOn(t *testing.T) {
	conn := prepared(t)
	fill(t, conn, 20, 5)
	q := open(t, conn, Config{})
	r := start(t, q)
	taken := r.await(20)
	ackAll(t, taken[:10])
	if err := conn.JetStream().DeleteConsumer(t.Context(), topology.StreamUpdates, topology.Consumer(0)); err != nil {
		t.Fatal(err)
	}
	setUp(t, conn)
	fillFrom(t, conn, 20, 5, 5)
	machine := watchStalls(t)
	begin := time.Now()
	got := seqs(r.await(25))
	machine.wantWithin(t, "it", begin, topology.PinnedTTL/2)
	for i, seq := range got {
		if seq != uint64(i+1) {
			t.Fatalf("handed over in the order %v", got)
		}
	}
	ackAll(t, r.all())
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
}

func TestAPausedConsumerIsWaitedFor(t *testing.T) {
	t.Parallel()
	conn := prepared(t)
	fill(t, conn, 3, 1)
	if _, err := conn.JetStream().PauseConsumer(t.Context(), topology.StreamUpdates, topology.Consumer(0), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	r := start(t, open(t, conn, Config{}))
	backlog, err := conn.Backlog(t.Context())
	if err != nil || !backlog.Partitions[0].Paused {
		t.Errorf("the backlog does not tell: %+v, %v", backlog, err)
	}
	within(t, 300*time.Millisecond, "nothing comes", func() bool { return len(r.all()) == 0 })
	if _, err := conn.JetStream().ResumeConsumer(t.Context(), topology.StreamUpdates, topology.Consumer(0)); err != nil {
		t.Fatal(err)
	}
	r.await(3)
}
