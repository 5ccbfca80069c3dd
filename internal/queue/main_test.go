package queue

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked { // Those that say they may run side by side mostly wait, however many cores there are.
		if err := flag.Set("test.parallel", "5"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what must happen: it finds out what hangs, on a machine however busy.
const patience = time.Minute

// stalls knows when this process did not get to run. It watches until the test ends.
type stalls struct {
	mu   sync.Mutex
	gaps []gap
}

type gap struct {
	end  time.Time
	took time.Duration
}

// watchStalls begins to watch. A server and a queue in this process stand still as long as the watch does.
func watchStalls(tb testing.TB) *stalls {
	tb.Helper()
	const tick = 5 * time.Millisecond
	s := &stalls{}
	ctx, cancel := context.WithCancel(context.Background())
	var watch sync.WaitGroup
	watch.Go(func() {
		for last := time.Now(); ctx.Err() == nil; {
			time.Sleep(tick)
			now := time.Now()
			if took := now.Sub(last) - tick; took > tick {
				s.mu.Lock()
				s.gaps = append(s.gaps, gap{end: now, took: took})
				s.mu.Unlock()
			}
			last = now
		}
	})
	tb.Cleanup(func() {
		cancel()
		watch.Wait()
	})
	return s
}

// wantWithin checks that what began then has not taken longer than the limit and what the machine took of it. What is
// woken by another goroutine loses time at each step, of which there are some. No stall explains more than four times the
// limit.
func (s *stalls) wantWithin(tb testing.TB, what string, begin time.Time, limit time.Duration) {
	tb.Helper()
	const steps = 4
	took := time.Since(begin)
	if took <= limit {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	most := 4 * limit
	for _, g := range s.gaps {
		if g.end.After(begin) {
			limit += steps * g.took
		}
	}
	if limit = min(limit, most); took > limit {
		tb.Errorf("%s took %s, with all stalls of this process at most %s", what, took, limit)
	}
}

// connect connects and closes when the test ends.
func connect(tb testing.TB, opts ConnectOptions, hooks Hooks) *Conn {
	tb.Helper()
	opts.Timeout = cmp.Or(opts.Timeout, 30*time.Second) // A disk that stands still for some seconds is no failure.
	conn, err := Connect(context.Background(), opts, hooks)
	if err != nil {
		tb.Fatalf("connecting: %v", err)
	}
	tb.Cleanup(func() {
		conn.nc.Close()
		<-conn.Closed()
	})
	return conn
}

// set changes the consumer from what setup makes.
type set func(*jetstream.ConsumerConfig)

func ackWait(d time.Duration) set   { return func(c *jetstream.ConsumerConfig) { c.AckWait = d } }
func pinnedTTL(d time.Duration) set { return func(c *jetstream.ConsumerConfig) { c.PinnedTTL = d } }

// prepared is a connection to a server of its own with the topology set up.
func prepared(tb testing.TB, sets ...set) *Conn {
	tb.Helper()
	conn := connect(tb, ConnectOptions{URL: embeddedtest.Run(tb).URL()}, Hooks{Logger: logger(tb)})
	setUp(tb, conn, sets...)
	return conn
}

func setUp(tb testing.TB, conn *Conn, sets ...set) {
	tb.Helper()
	ctx := context.Background()
	if _, err := topology.Setup(ctx, conn.JetStream(), topology.Options{}); err != nil {
		tb.Fatalf("setting up: %v", err)
	}
	if len(sets) == 0 {
		return
	}
	consumer, err := conn.JetStream().Consumer(ctx, topology.StreamUpdates, topology.Consumer(0))
	if err != nil {
		tb.Fatalf("asking for the consumer: %v", err)
	}
	config := consumer.CachedInfo().Config
	for _, s := range sets {
		s(&config)
	}
	if _, err := conn.JetStream().UpdateConsumer(ctx, topology.StreamUpdates, config); err != nil {
		tb.Fatalf("changing the consumer: %v", err)
	}
}

// logger writes to the test's log until the test ends.
func logger(tb testing.TB) *slog.Logger {
	tb.Helper()
	w := &logWriter{tb: tb}
	tb.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.tb = nil
	})
	return slog.New(slog.NewTextHandler(w, nil))
}

type logWriter struct {
	mu    sync.Mutex
	tb    testing.TB
	lines []string
}

func (w *logWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, string(line))
	if w.tb != nil {
		w.tb.Log(strings.TrimSpace(string(line)))
	}
	return len(line), nil
}

// open binds a queue and closes it when the test ends.
func open(tb testing.TB, conn *Conn, cfg Config) *Queue {
	tb.Helper()
	if cfg.Logger == nil {
		cfg.Logger = logger(tb)
	}
	q, err := New(context.Background(), conn, cfg)
	if err != nil {
		tb.Fatalf("binding: %v", err)
	}
	tb.Cleanup(q.Close)
	return q
}

// run is a Run in the background and what it has handed over.
type run struct {
	tb     testing.TB
	cancel context.CancelFunc
	ended  chan error

	mu      sync.Mutex
	taken   []*Delivery
	changed chan struct{}
}

// start runs q until the test ends or stop is called.
func start(tb testing.TB, q *Queue) *run {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &run{tb: tb, cancel: cancel, ended: make(chan error, 1), changed: make(chan struct{}, 1)}
	go func() { r.ended <- q.Run(ctx, r.accept) }()
	tb.Cleanup(r.stop)
	return r
}

func (r *run) accept(d *Delivery) {
	r.mu.Lock()
	r.taken = append(r.taken, d)
	r.mu.Unlock()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

func (r *run) stop() {
	r.cancel()
	if err, ok := <-r.ended; ok {
		close(r.ended)
		if err != nil {
			r.tb.Errorf("Run: %v", err)
		}
	}
}

// end waits for Run to end by itself.
func (r *run) end() error {
	r.tb.Helper()
	select {
	case err := <-r.ended:
		close(r.ended)
		return err
	case <-time.After(patience):
		r.tb.Fatal("Run does not end")
		return nil
	}
}

// await waits until n deliveries were handed over and gives all there are.
func (r *run) await(n int) []*Delivery {
	r.tb.Helper()
	deadline := time.After(patience)
	for {
		if taken := r.all(); len(taken) >= n {
			return taken
		}
		select {
		case <-r.changed:
		case <-deadline:
			r.tb.Fatalf("got %d deliveries, want %d", len(r.all()), n)
		}
	}
}

func (r *run) all() []*Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.taken)
}

// eventually polls until ok.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(patience)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !ok() {
		if <-ticker.C; time.Now().After(deadline) {
			tb.Fatalf("it never came to be that %s", what)
		}
	}
}

// within fails unless the condition holds for d.
func within(tb testing.TB, d time.Duration, what string, ok func() bool) {
	tb.Helper()
	end := time.Now().Add(d)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for time.Now().Before(end) {
		if !ok() {
			tb.Fatalf("it is not true that %s", what)
		}
		<-ticker.C
	}
}

func subject(vorgang int) string {
	return fmt.Sprintf("%s%d.%s", update.SubjectPrefix, vorgang, update.Comments)
}

// fill publishes n updates over the given number of Vorgänge; the body names the place.
func fill(tb testing.TB, conn *Conn, n, vorgaenge int) {
	tb.Helper()
	fillFrom(tb, conn, 0, n, vorgaenge)
}

func fillFrom(tb testing.TB, conn *Conn, from, n, vorgaenge int) {
	tb.Helper()
	for i := from; i < from+n; i++ {
		if i%2000 == 1999 { // Publishing without a break makes nats.go give up.
			awaitPublished(tb, conn)
		}
		if _, err := conn.JetStream().PublishAsync(subject(i%vorgaenge), []byte(strconv.Itoa(i))); err != nil {
			tb.Fatalf("publishing: %v", err)
		}
	}
	awaitPublished(tb, conn)
}

func awaitPublished(tb testing.TB, conn *Conn) {
	tb.Helper()
	select {
	case <-conn.JetStream().PublishAsyncComplete():
	case <-time.After(patience):
		tb.Fatal("the publishes were not acknowledged")
	}
}

func stored(tb testing.TB, conn *Conn) uint64 {
	tb.Helper()
	backlog, err := conn.Backlog(context.Background())
	if err != nil {
		tb.Fatalf("reading the backlog: %v", err)
	}
	return backlog.Messages
}

func text(tb testing.TB, d *Delivery) string {
	tb.Helper()
	message, err := d.Message(context.Background())
	if err != nil {
		tb.Fatalf("reading update %d: %v", d.Seq(), err)
	}
	return string(message.Body)
}

func ackAll(tb testing.TB, deliveries []*Delivery) {
	tb.Helper()
	for _, d := range deliveries {
		if err := d.Ack(context.Background()); err != nil {
			tb.Fatalf("acking update %d: %v", d.Seq(), err)
		}
	}
}

func seqs(deliveries []*Delivery) []uint64 {
	all := make([]uint64, len(deliveries))
	for i, d := range deliveries {
		all[i] = d.Seq()
	}
	return all
}
