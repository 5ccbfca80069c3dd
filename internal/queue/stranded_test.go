package queue

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jsm.go"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
)

// strand makes the consumer believe that everything below a sequence is settled, as a server does that took the acks
// and could not remove the updates.
func strand(t *testing.T, conn *Conn, partition int, below uint64) {
	t.Helper()
	if _, err := conn.JetStream().ResetConsumerToSequence(t.Context(), topology.StreamUpdates, topology.Consumer(partition), below); err != nil {
		t.Fatal(err)
	}
}

func TestTakingOverBeginsWithTheOldestUpdateWhateverWasAcked(t *testing.T) {
	conn := prepared(t)
	fill(t, conn, 20, 5)
	strand(t, conn, 0, 11)
	q := open(t, conn, Config{})
	if err := q.TakeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := start(t, q)
	if got := seqs(r.await(20)); got[0] != 1 || !slices.IsSorted(got) {
		t.Errorf("handed over %v", got)
	}
	ackAll(t, r.all())
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
}

func TestStrandedUpdatesAreFoundAndFetchedAgain(t *testing.T) {
	t.Parallel()
	conn := prepared(t)
	fill(t, conn, 20, 5)
	q := open(t, conn, Config{})
	if err := q.TakeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	strand(t, conn, 0, 21)
	q.strandedPause = 500 * time.Millisecond // So long it is seen at least.
	log := &logWriter{tb: t}
	q.logger = logTo(log)
	r := start(t, q)
	eventually(t, "the stats name update 1 as stranded", func() bool { return q.Stats().Stranded == 1 })
	r.await(20)
	ackAll(t, r.all())
	eventually(t, "nothing is stranded any more", func() bool { return q.Stats().Stranded == 0 && stored(t, conn) == 0 })
	r.stop()
	if got := log.count("still in the stream"); got != 1 {
		t.Errorf("%d lines about it, want 1", got)
	}
}

func TestWhatIsHeldIsNotTakenForStranded(t *testing.T) {
	t.Parallel()
	conn := prepared(t)
	fill(t, conn, 6, 2)
	strand(t, conn, 0, 7)
	log := &logWriter{tb: t}
	q := open(t, conn, Config{Logger: logTo(log)})
	if err := q.TakeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	q.strandedPause = 50 * time.Millisecond
	r := start(t, q)
	taken := r.await(6)
	within(t, time.Second, "nothing is stranded", func() bool { return q.Stats().Stranded == 0 })
	q.mu.Lock() // As if the server had taken the ack, and could not remove it.
	d := taken[3]
	q.settled.add(d.seq, d.storedAt)
	q.removeLocked(d)
	q.mu.Unlock()
	eventually(t, "what is settled is found behind what is held, and leaves", func() bool { return stored(t, conn) == 5 })
	ackAll(t, taken)
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
	r.stop()
	if got := log.count("cannot leave the stream"); got != 0 {
		t.Errorf("%d lines about it", got)
	}
}

func TestAnotherPartitionsUpdatesAreNotTakenForStranded(t *testing.T) {
	t.Parallel()
	conn := connect(t, ConnectOptions{URL: embeddedtest.Run(t).URL()}, Hooks{Logger: logger(t)})
	if _, err := topology.Setup(t.Context(), conn.JetStream(), topology.Options{Partitions: 2}); err != nil {
		t.Fatal(err)
	}
	fill(t, conn, 40, 10)
	queues := []*Queue{open(t, conn, Config{}), open(t, conn, Config{Partition: 1})}
	for n, q := range queues {
		if err := q.TakeOver(t.Context()); err != nil {
			t.Fatal(err)
		}
		q.strandedPause = 500 * time.Millisecond // So long it is seen at least.
		if n == 1 {
			strand(t, conn, 1, 41)
		}
	}
	one := start(t, queues[1])
	eventually(t, "those of partition 1 are found", func() bool { return queues[1].Stats().Stranded != 0 })
	zero := start(t, queues[0])
	eventually(t, "all have come", func() bool { return len(zero.all())+len(one.all()) == 40 })
	ackAll(t, one.all()) // Those of partition 0 are older than its floor now.
	eventually(t, "nothing is stranded any more", func() bool { return queues[1].Stats().Stranded == 0 })
	before := len(one.all())
	fillFrom(t, conn, 40, 20, 10) // And partition 1 has one of its own, above its floor.
	one.await(before + 1)
	catchUps := queues[1].Stats().CatchUps
	within(t, 500*time.Millisecond, "partition 1 leaves the others' alone", func() bool {
		stats := queues[1].Stats()
		return stats.Stranded == 0 && stats.CatchUps == catchUps
	})
	eventually(t, "all have come", func() bool { return len(zero.all())+len(one.all()) == 60 })
	ackAll(t, zero.all())
	ackAll(t, one.all())
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
}

func TestWhatFetchingAgainDoesNotHelpIsTriedLessAndLessAndToldTwice(t *testing.T) {
	log := &logWriter{}
	q := &Queue{strandedPause: time.Second, wake: make(chan struct{}, 1), logger: logTo(log)}
	w := &strandedWatch{q: q, pause: q.strandedPause}
	look := func(first uint64) bool {
		w.found(first, 50)
		again := q.readAgain.Swap(nil)
		return again != nil && *again == (span{first, 50})
	}
	if look(7) || q.stranded.Load() != 0 {
		t.Error("one look was enough")
	}
	if look(9) {
		t.Error("two different ones were enough")
	}
	var pauses []time.Duration
	for range 24 {
		if look(9) {
			pauses = append(pauses, w.pause)
		}
	}
	if len(pauses) < 9 || pauses[0] != 2*time.Second || pauses[1] != 4*time.Second || pauses[len(pauses)-1] != maxStrandedPause {
		t.Errorf("the pauses are %v", pauses)
	}
	if q.stranded.Load() != 9 {
		t.Error("it is not shown")
	}
	if look(0); q.stranded.Load() != 0 || w.pause != time.Second {
		t.Error("it is shown although it is over")
	}
	for text, want := range map[string]int{"still in the stream": 1, "start the server again": 1, "after all": 1} {
		if got := log.count(text); got != want {
			t.Errorf("%d lines %q, want %d", got, text, want)
		}
	}
}

func logTo(w *logWriter) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// count is how many lines have a text.
func (w *logWriter) count(text string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, line := range w.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func TestWhatWasSettledTooLongAgoIsLookedUpBeforeItIsSentAgain(t *testing.T) {
	conn := prepared(t)
	fill(t, conn, 10, 10)
	q := open(t, conn, Config{})
	if err := q.TakeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := start(t, q)
	taken := r.await(10)
	q.mu.Lock()
	for _, d := range taken {
		d.reply = "nowhere" // The server never hears of the acks,
	}
	q.mu.Unlock()
	ackAll(t, taken)
	q.mu.Lock()
	delete(q.settled.at, 4) // and one of them is not remembered here.
	q.mu.Unlock()
	strand(t, conn, 0, 1)
	if err := r.end(); !errors.Is(err, ErrRewound) {
		t.Errorf("Run returned %v, want ErrRewound", err)
	}
	if got := len(r.all()); got != 10 {
		t.Errorf("%d handed over, want the first 10 only", got)
	}
}

func TestWhatIsOlderThanTheOldestAtTheTakeOverIsLookedUp(t *testing.T) {
	for what, waiting := range map[string]int{"nothing waits": 0, "something waits": 2} {
		t.Run(what, func(t *testing.T) {
			conn := prepared(t)
			fill(t, conn, 8+waiting, 3)
			js := conn.JetStream()
			stream, err := js.Stream(t.Context(), topology.StreamUpdates)
			if err != nil {
				t.Fatal(err)
			}
			backup := snapshot(t, conn)
			for seq := range uint64(8) {
				if err := stream.DeleteMsg(t.Context(), seq+1); err != nil { // Settled by somebody.
					t.Fatal(err)
				}
			}
			q := open(t, conn, Config{})
			if err := q.TakeOver(t.Context()); err != nil {
				t.Fatal(err)
			}
			r := start(t, q)
			r.await(waiting)
			if err := js.DeleteStream(t.Context(), topology.StreamUpdates); err != nil {
				t.Fatal(err)
			}
			restore(t, conn, backup)
			if err := r.end(); !errors.Is(err, ErrRewound) && !errors.Is(err, ErrConsumerGone) {
				t.Errorf("Run returned %v, want ErrRewound", err)
			}
			if got := len(r.all()); got != waiting {
				t.Errorf("%d handed over, want %d", got, waiting)
			}
		})
	}
}

// An ack names a sequence alone: given again after the stream was made anew, it would remove what nobody has sent.
func TestAcksOfAFormerStreamAreNotGivenAgain(t *testing.T) {
	conn := prepared(t)
	fill(t, conn, 5, 5)
	q := open(t, conn, Config{})
	r := start(t, q)
	ackAll(t, r.await(5))
	if err := conn.JetStream().DeleteStream(t.Context(), topology.StreamUpdates); err != nil {
		t.Fatal(err)
	}
	setUp(t, conn)
	fillFrom(t, conn, 5, 5, 5)
	if err := r.end(); !errors.Is(err, ErrRewound) {
		t.Errorf("Run returned %v, want ErrRewound", err)
	}
	if got := stored(t, conn); got != 5 {
		t.Errorf("%d of the 5 new updates are left", got)
	}
}

// snapshot saves the stream of updates and its consumers as `nats stream backup --consumers` does, into the directory
// it gives.
func snapshot(t *testing.T, conn *Conn) string {
	t.Helper()
	manager, err := jsm.New(conn.NATS())
	if err != nil {
		t.Fatal(err)
	}
	stream, err := manager.LoadStream(topology.StreamUpdates)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := stream.SnapshotToDirectory(t.Context(), dir, jsm.SnapshotConsumers()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func restore(t *testing.T, conn *Conn, dir string) {
	t.Helper()
	manager, err := jsm.New(conn.NATS())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := manager.RestoreSnapshotFromDirectory(t.Context(), topology.StreamUpdates, dir); err != nil {
		t.Fatal(err)
	}
}
