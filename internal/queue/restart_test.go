package queue

import (
	"context"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"kexrelay/internal/embedded"
	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/fault"
)

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
	var lost atomic.Int32
	conn := connect(t, ConnectOptions{URL: server.URL()}, Hooks{Logger: logger(t), OnDisconnect: func() { lost.Add(1) }})
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
	machine := watchStalls(t)
	begin := time.Now()
	eventually(t, "fetching goes on", func() bool { return q.Stats().State == StateFetching })
	machine.wantWithin(t, "going on", begin, 3*time.Second)
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
	if got := lost.Load(); got != 1 {
		t.Errorf("told of %d lost connections, there was 1", got)
	}
	r.stop()
	if err := conn.Drain(t.Context()); err != nil || lost.Load() != 1 {
		t.Errorf("a clean end is told as a lost connection: %d, %v", lost.Load(), err)
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
	inOrder(t, taken)
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
