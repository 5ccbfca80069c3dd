package queue

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kexrelay/internal/embedded"
	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
)

// dead is a queue that has taken n updates and will never settle them.
func dead(t *testing.T, conn *Conn, partition, n int) {
	t.Helper()
	other := connect(t, ConnectOptions{URL: conn.Server()}, Hooks{})
	r := start(t, open(t, other, Config{Partition: partition}))
	r.await(n)
	other.NATS().Close()
	if err := r.end(); !errors.Is(err, ErrConnectionClosed) {
		t.Fatal(err)
	}
}

// wantRead takes each partition over from a process that died with all of it, checks what is read, and settles it.
func wantRead(t *testing.T, conn *Conn, partitions ...[]uint64) {
	t.Helper()
	for partition, want := range partitions {
		dead(t, conn, partition, len(want))
		q := open(t, conn, Config{Partition: partition})
		if err := q.TakeOver(t.Context()); err != nil {
			t.Fatal(err)
		}
		r := start(t, q)
		if got := seqs(r.await(len(want))); !slices.Equal(got, want) {
			t.Errorf("partition %d: got %v, want %v", partition, got, want)
		}
		ackAll(t, r.all())
		eventually(t, "nothing is held for reading", func() bool { return q.budget.Bytes() == 0 })
	}
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
}

func TestWhatIsReadKeepsTheOrderOfTwoFilters(t *testing.T) {
	t.Parallel()
	conn := connect(t, ConnectOptions{URL: embeddedtest.Run(t).URL()}, Hooks{Logger: logger(t)})
	if _, err := topology.Setup(t.Context(), conn.JetStream(), topology.Options{Partitions: 2}); err != nil {
		t.Fatal(err)
	}
	var zero, one []uint64
	for i := range 60 {
		name := subject(i)
		if i%3 == 0 {
			name = "kex.vorgang." + strconv.Itoa(i) // No kind: the stream's transform leaves it as it is.
		}
		ack, err := conn.JetStream().Publish(t.Context(), name, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 || topology.Partition(strconv.Itoa(i), 2) == 0 {
			zero = append(zero, ack.Sequence)
		} else {
			one = append(one, ack.Sequence)
		}
	}
	wantRead(t, conn, zero, one)
}

func TestNothingIsReadWhileThereIsEnoughToDo(t *testing.T) {
	t.Parallel()
	conn := prepared(t, pinnedTTL(2*time.Second))
	fill(t, conn, 100, 10)
	dead(t, conn, 0, 100)
	fillFrom(t, conn, 100, 10, 10)
	var busy atomic.Bool
	busy.Store(true)
	q := open(t, conn, Config{Busy: busy.Load})
	if err := q.TakeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := start(t, q)
	eventually(t, "it is busy", func() bool { return q.Stats().State == StateBusy })
	within(t, 500*time.Millisecond, "nothing is handed over", func() bool { return len(r.all()) == 0 })
	busy.Store(false)
	q.Wake()
	if got := seqs(r.await(110)); !slices.IsSorted(got) || got[0] != 1 {
		t.Errorf("handed over %v", got)
	}
}

func TestWhatIsReadWhileNATSGoesAwayComesOnceAndInOrder(t *testing.T) {
	server := embeddedtest.Run(t)
	conn := connect(t, ConnectOptions{URL: server.URL()}, Hooks{Logger: logger(t)})
	setUp(t, conn)
	const n = 5000
	fill(t, conn, n, 50)
	dead(t, conn, 0, n)
	q := open(t, conn, Config{})
	if err := q.TakeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := start(t, q)
	r.await(1)
	restarted(t, server, embedded.Options{}, func() {
		if got := len(r.all()); got == n {
			t.Error("all was read before the server went away: the test shows nothing")
		}
	})
	if err := conn.AwaitConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	fillFrom(t, conn, n, 100, 50)
	taken := r.await(n + 100)
	inOrder(t, taken)
	ackAll(t, taken)
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
	if got := len(r.all()); got != n+100 {
		t.Errorf("%d handed over, there are %d", got, n+100)
	}
}

// A leader that its cluster has left behind does not know what the consumer has delivered. It is asked until another
// answers; if none ever does, what is missing is gone, and the rest must not wait for it.
func TestALeaderThatKnowsLessThanItsConsumerIsNotBelievedAtOnce(t *testing.T) {
	conn := prepared(t)
	fill(t, conn, 3, 3)
	log := &logWriter{}
	q := open(t, conn, Config{Logger: logTo(log)})
	var got []uint64
	f := &fetcher{q: q, accept: func(d *Delivery) { got = append(got, d.Seq()) }, unread: span{1, 5}}
	step := func() time.Time {
		t.Helper()
		until, err := f.readOn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return until
	}
	begin := time.Now()
	if until := step(); until.Before(begin.Add(lookPause)) || f.unread != (span{4, 5}) || !slices.Equal(got, []uint64{1, 2, 3}) {
		t.Errorf("it took the answer for the truth: %v are unread, handed over are %v, next look in %s", f.unread, got, until.Sub(begin))
	}
	fillFrom(t, conn, 3, 1, 1) // The next answer is another leader's, and still not the last word.
	if step(); f.unread != (span{5, 5}) || !slices.Equal(got, []uint64{1, 2, 3, 4}) {
		t.Errorf("%v are unread, handed over are %v", f.unread, got)
	}
	f.retryAt, f.stale = time.Time{}, time.Now().Add(-stalePatience)
	if step(); !f.unread.empty() || q.seen != 4 {
		t.Errorf("%v are unread, and seen is %d", f.unread, q.seen)
	}
	if log.count("ends before what its consumer has delivered") != 1 {
		t.Error("nobody was told that something is missing")
	}
}

func TestAnUpdateReadInsteadOfAnotherIsNotTakenForIt(t *testing.T) {
	conn := prepared(t)
	fill(t, conn, 3, 3)
	q := open(t, conn, Config{})
	r := start(t, q)
	r.await(3)
	q.mu.Lock()
	q.held[2].storedAt-- // As if the stream had been made anew.
	q.mu.Unlock()
	q.readAgain.Store(&span{1, 3})
	q.Wake()
	if err := r.end(); !errors.Is(err, ErrRewound) {
		t.Errorf("Run returned %v, want ErrRewound", err)
	}
}

// Several are asked for at once where they lie close together; where few are left, or they are other partitions', the
// answers overlap.
func TestAllThatIsLeftIsReadHoweverFarApart(t *testing.T) {
	t.Parallel()
	conn := connect(t, ConnectOptions{URL: embeddedtest.Run(t).URL()}, Hooks{Logger: logger(t)})
	if _, err := topology.Setup(t.Context(), conn.JetStream(), topology.Options{Partitions: 3}); err != nil {
		t.Fatal(err)
	}
	stream, err := conn.JetStream().Stream(t.Context(), topology.StreamUpdates)
	if err != nil {
		t.Fatal(err)
	}
	const n, vorgaenge = 1200, 30
	fill(t, conn, n, vorgaenge)
	want := make([][]uint64, 3)
	for i := range n {
		seq := uint64(i + 1)
		// All at first, then ever fewer, then all again.
		if gap := i / 100 * (1 - i/1000); gap > 0 && i%(gap*gap) != 0 {
			if err := stream.DeleteMsg(t.Context(), seq); err != nil {
				t.Fatal(err)
			}
			continue
		}
		partition := topology.Partition(strconv.Itoa(i%vorgaenge), 3)
		want[partition] = append(want[partition], seq)
	}
	wantRead(t, conn, want...)
}

// A leader that lags behind the consumer may catch up between two questions.
func TestALeaderThatCatchesUpBetweenTwoFiltersHidesNothing(t *testing.T) {
	t.Parallel()
	direct := connect(t, ConnectOptions{URL: embeddedtest.Run(t).URL()}, Hooks{Logger: logger(t)})
	if _, err := topology.Setup(t.Context(), direct.JetStream(), topology.Options{Partitions: 2}); err != nil {
		t.Fatal(err)
	}
	number := 0
	for topology.Partition(strconv.Itoa(number), 2) != 0 {
		number++
	}
	for _, name := range []string{subject(number), subject(number), "kex.vorgang." + strconv.Itoa(number)} {
		if _, err := direct.JetStream().Publish(t.Context(), name, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	const api, lagging = "$JS.API.", "$JS.lagging.API."
	asked := 0
	if _, err := direct.NATS().Subscribe(lagging+">", func(m *nats.Msg) {
		verb := strings.TrimPrefix(m.Subject, lagging)
		if strings.HasPrefix(verb, "STREAM.MSG.GET.") {
			if asked++; asked == 1 {
				_ = m.Respond([]byte(`{"error":{"code":404,"err_code":10037,"description":"no message found"}}`))
				return
			}
		}
		if answer, err := direct.NATS().Request(api+verb, m.Data, patience); err == nil {
			_ = m.Respond(answer.Data)
		}
	}); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, ConnectOptions{URL: direct.Server(), JSAPIPrefix: strings.TrimSuffix(lagging, ".")}, Hooks{})
	q := open(t, conn, Config{})
	var got []uint64
	f := &fetcher{q: q, accept: func(d *Delivery) { got = append(got, d.Seq()) }, unread: span{1, 3}}
	for !f.unread.empty() {
		if _, err := f.readOn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(got, []uint64{1, 2, 3}) {
		t.Errorf("handed over %v", got)
	}
}

// What was read and is not handed over yet counts in the budget. It must not keep itself from being handed over, nor what
// comes behind it from being read.
func TestReadingGoesOnWithABudgetOfAFewUpdates(t *testing.T) {
	t.Parallel()
	conn := prepared(t)
	const n = 80 // More than are read before anything else is looked at.
	publishDocuments(t, conn, n, 1_000_000, func(i int) int { return i })
	dead(t, conn, 0, n)
	q := open(t, conn, Config{Budget: NewBudget(4 * mebi)})
	if err := q.TakeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := start(t, q)
	done := 0
	for done < n {
		taken := r.await(done + 1)
		ackAll(t, taken[done:])
		done = len(taken)
	}
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
}
