package queue

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded"
	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
)

func TestARedeliveryOnlyReplacesTheHandle(t *testing.T) {
	conn := prepared(t)
	fill(t, conn, 20, 5)
	q := open(t, conn, Config{})
	r := start(t, q)
	taken := r.await(20)
	for _, d := range taken[:10] {
		if err := conn.NATS().Publish(d.reply, []byte("-NAK")); err != nil {
			t.Fatal(err)
		}
	}
	old := taken[0].reply
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
	if got := q.Stats().Resets; got != 0 {
		t.Errorf("%d resets", got)
	}
}

func TestHeartbeatsKeepUpdatesLongerThanTheAckWait(t *testing.T) {
	conn := prepared(t, ackWait(600*time.Millisecond))
	fill(t, conn, 100, 100)
	q := open(t, conn, Config{Heartbeat: 200 * time.Millisecond})
	r := start(t, q)
	taken := r.await(100)
	within(t, 2*time.Second, "nothing comes again", func() bool { return q.Stats().Redelivered == 0 && len(r.all()) == 100 })
	if beats := q.Stats().Heartbeats; beats < 800 || beats > 1200 {
		t.Errorf("%d heartbeats in 10 intervals for 100 updates", beats)
	}
	taken[42].Forget() // Without heartbeats it comes again.
	if again := r.await(101)[100]; again.Seq() != taken[42].Seq() || again == taken[42] {
		t.Errorf("update %d came again", again.Seq())
	}
}

func TestHeartbeatsAreSpreadOverTheInterval(t *testing.T) {
	q := &Queue{holding: newHolding(10)}
	var all []*Delivery
	for seq := range uint64(50_000) {
		d := &Delivery{q: q, seq: seq, subject: subject(int(seq))}
		q.addLocked(d)
		all = append(all, d)
	}
	for i, slot := range q.wheel {
		if len(slot) > 50_000/wheelSlots+1 {
			t.Errorf("slot %d has %d of 50,000", i, len(slot))
		}
	}
	for i, d := range all {
		if i%3 == 0 {
			q.removeLocked(d)
		}
	}
	n := 0
	for i, slot := range q.wheel {
		for at, d := range slot {
			if n++; int(d.slot) != i || int(d.at) != at || d.gone {
				t.Fatalf("update %d is in slot %d at %d and thinks %d, %d", d.seq, i, at, d.slot, d.at)
			}
		}
	}
	if n != len(q.held) {
		t.Errorf("%d in the wheel, %d held", n, len(q.held))
	}
}

func TestResetBringsWhatAFormerProcessHeldInOrder(t *testing.T) {
	conn := prepared(t)
	fill(t, conn, 300, 20)
	other := connect(t, ConnectOptions{URL: conn.Server()}, Hooks{})
	former := start(t, open(t, other, Config{}))
	taken := former.await(300)
	var left []uint64
	for i, d := range taken {
		if i%3 == 0 {
			ackAll(t, []*Delivery{d})
		} else {
			left = append(left, d.Seq())
		}
	}
	if err := other.flush(t.Context()); err != nil {
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
	begin := time.Now()
	if err := q.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := start(t, q)
	got := seqs(r.await(len(left)))
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	if !slices.Equal(got, left) {
		t.Errorf("got %v, want %v", got, left)
	}
	if stats := q.Stats(); stats.Resets != 1 {
		t.Errorf("%d resets, one was asked for", stats.Resets)
	}
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
	if stats := q.Stats(); stats.Resets != 1 || stats.Redelivered != 15 {
		t.Errorf("after the reset: %+v", stats)
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

func port(t *testing.T, server *embedded.Server) int {
	t.Helper()
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// restarted stops the server, does something, and starts it again on the same port and files.
func restarted(t *testing.T, server *embedded.Server, opts embedded.Options, meanwhile func()) *embedded.Server {
	t.Helper()
	opts.Port, opts.StoreDir = port(t, server), server.StoreDir()
	if err := server.Shutdown(); err != nil {
		t.Fatal(err)
	}
	meanwhile()
	again, err := embedded.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := again.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	return again
}

func TestARestartedServerLosesNothing(t *testing.T) {
	server := embeddedtest.Run(t)
	conn := connect(t, ConnectOptions{URL: server.URL()}, Hooks{Logger: logger(t)})
	setUp(t, conn)
	fill(t, conn, 400, 20)
	q := open(t, conn, Config{})
	r := start(t, q)
	taken := r.await(400)
	ackAll(t, taken[:100])
	restarted(t, server, embedded.Options{}, func() {
		eventually(t, "the disconnect is seen", func() bool { return q.Stats().State == StateInterrupted })
		ackAll(t, taken[100:200]) // Cannot be sent now.
		pulls := q.Stats().Pulls
		within(t, 500*time.Millisecond, "nothing is asked for", func() bool { return q.Stats().Pulls == pulls })
	})
	begin := time.Now()
	eventually(t, "fetching goes on", func() bool { return q.Stats().State == StateFetching })
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
	fillFrom(t, conn, 400, 100, 20)
	got := seqs(r.await(500))
	for i, seq := range got {
		if seq != uint64(i+1) {
			t.Fatalf("handed over in the order %v", got)
		}
	}
	ackAll(t, r.all())
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
	if len(r.all()) != 500 {
		t.Errorf("%d handed over, there are 500", len(r.all()))
	}
}

func TestABodyIsReadAgainWhenNATSIsBack(t *testing.T) {
	server := embeddedtest.Run(t)
	conn := connect(t, ConnectOptions{URL: server.URL()}, Hooks{Logger: logger(t)})
	setUp(t, conn)
	fill(t, conn, 3, 1)
	q := open(t, conn, Config{BodiesPerKey: 1})
	taken := start(t, q).await(3)
	read := make(chan string, 1)
	restarted(t, server, embedded.Options{}, func() {
		short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := taken[1].Message(short)
		if f := fault.Of(err); err == nil || f.Kind != fault.Systemic || f.Reason != fault.Storage {
			t.Errorf("without time: %v", err)
		}
		stopped, stop := context.WithCancel(t.Context())
		stop()
		_, err = taken[1].Message(stopped)
		if f := fault.Of(err); err == nil || f.Kind != fault.Interrupted {
			t.Errorf("being stopped: %v", err)
		}
		go func() {
			m, err := taken[2].Message(context.Background())
			if err != nil {
				t.Error(err)
			}
			read <- string(m.Body)
		}()
	})
	select {
	case got := <-read:
		if got != "2" {
			t.Errorf("the body is %q", got)
		}
	case <-time.After(patience):
		t.Fatal("the body is not read")
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
		f.current = pull{reply: "lost", left: batch, open: true, deadline: time.Now()}
	}
	lose()
	step()
	if f.current.open || f.mustReset {
		t.Errorf("a lost request for nothing: %+v", f)
	}
	lose()
	fillFrom(t, conn, 3, 3, 3)
	steal(t, conn, 2)
	step()
	if !f.mustReset {
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
	begin := time.Now()
	got := seqs(r.await(25))
	if took := time.Since(begin); took > topology.PinnedTTL/2 {
		t.Errorf("it took %s", took)
	}
	for i, seq := range got {
		if seq != uint64(i+1) {
			t.Fatalf("handed over in the order %v", got)
		}
	}
	ackAll(t, r.all())
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
}

func TestAPausedConsumerIsWaitedFor(t *testing.T) {
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

func TestConnectionsCutUnderLoadLoseNothing(t *testing.T) {
	conn := prepared(t)
	publisher := connect(t, ConnectOptions{URL: conn.Server()}, Hooks{})
	const n = 20_000
	fill(t, publisher, n, 100)
	q := open(t, conn, Config{})
	r := start(t, q)
	acked := 0
	for cut := range 5 {
		r.await((cut + 1) * n / 10)
		if err := conn.NATS().ForceReconnect(); err != nil {
			t.Fatal(err)
		}
		taken := r.all()
		ackAll(t, taken[acked:])
		acked = len(taken)
	}
	taken := r.await(n)
	ackAll(t, taken[acked:])
	last := make(map[string]uint64)
	for _, d := range taken {
		if d.Seq() <= last[d.Subject()] {
			t.Fatalf("update %d of %s came after %d", d.Seq(), d.Subject(), last[d.Subject()])
		}
		last[d.Subject()] = d.Seq()
	}
	eventually(t, "the stream is empty", func() bool { return stored(t, publisher) == 0 })
	if got := len(r.all()); got != n {
		t.Errorf("%d handed over, there are %d", got, n)
	}
	t.Logf("%+v", q.Stats())
}

func TestAMessageLargerThanTheServerTakesNowadaysArrives(t *testing.T) {
	server, err := embedded.Start(embedded.Options{StoreDir: t.TempDir(), MaxPayload: 24 * mebi})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	conn := connect(t, ConnectOptions{URL: server.URL()}, Hooks{Logger: logger(t)})
	setUp(t, conn)
	publishDocuments(t, conn, 1, 20*mebi, func(i int) int { return i })
	restarted(t, server, embedded.Options{MaxPayload: mebi}, func() {})
	if err := conn.AwaitConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	fillFrom(t, conn, 1, 3, 4)
	q := open(t, conn, Config{})
	taken := start(t, q).await(4)
	if got := len(text(t, taken[0])); got != 20*mebi {
		t.Errorf("the large one has %d bytes", got)
	}
	ackAll(t, taken)
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
}

func TestBusyKeepsThePinAndWakeEndsItAtOnce(t *testing.T) {
	conn := prepared(t, pinnedTTL(500*time.Millisecond))
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
	within(t, 2*time.Second, "the pin is kept and nothing comes", func() bool { return pinned() == pin && len(r.all()) == 1 })
	if pulls := q.Stats().PinPulls; pulls < 4 || pulls > 20 {
		t.Errorf("%d requests to keep the pin in 2 s", pulls)
	}
	busy.Store(false)
	begin := time.Now()
	q.Wake()
	r.await(6)
	if took := time.Since(begin); took > 200*time.Millisecond {
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
