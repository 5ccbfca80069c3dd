package queue

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
)

// arrive hands a body of one Vorgang to a queue of no consumer.
func arrive(q *Queue, seq uint64, vorgang, size int) *Delivery {
	m := &nats.Msg{Subject: subject(vorgang), Data: make([]byte, size), Reply: "r"}
	return q.take(ackMeta{streamSeq: seq, consumerSeq: seq}, m, 1, chunkBytes).update
}

func use(tb testing.TB, d *Delivery) {
	tb.Helper()
	if _, err := d.Message(tb.Context()); err != nil {
		tb.Fatalf("taking update %d: %v", d.seq, err)
	}
}

// waiting takes in the background and says when it was given.
func waiting(tb testing.TB, b *Budget, n int64) (given <-chan func()) {
	tb.Helper()
	ch := make(chan func(), 1)
	go func() {
		if release, err := b.Take(tb.Context(), n); err == nil {
			ch <- release
		}
	}()
	return ch
}

// Every body was dropped, and all are wanted at once: what is read again, with the answers it comes in, stays within the
// budget, and everyone has his turn.
func TestBodiesReadAgainStayWithinTheBudget(t *testing.T) {
	conn := prepared(t)
	const (
		n      = 40
		limit  = 2 * mebi
		stream = 700_000
	)
	publishDocuments(t, conn, n, quarter, func(i int) int { return i })
	budget := NewBudget(limit)
	q := open(t, conn, Config{Budget: budget})
	r := start(t, q)
	for i := range n { // Only with them parked the ones behind are fetched.
		d := r.await(i + 1)[i]
		use(t, d)
		d.Park()
	}
	release, err := budget.Take(t.Context(), limit) // All there is, so that all are dropped.
	if err != nil {
		t.Fatal(err)
	}
	if budget.Bytes() != limit || q.Stats().Bodies != 0 {
		t.Fatalf("%d bytes, %+v after all was taken", budget.Bytes(), q.Stats())
	}
	var most atomic.Int64
	look := func() {
		for now := budget.Bytes(); ; {
			was := most.Load()
			if now <= was || most.CompareAndSwap(was, now) {
				return
			}
		}
	}
	var all sync.WaitGroup
	for i, d := range r.all() {
		all.Go(func() {
			if i%8 == 0 { // A document that is streamed, between the others.
				release, err := budget.Take(t.Context(), stream)
				if err != nil {
					t.Error(err)
					return
				}
				look()
				release()
			}
			m, err := d.Message(t.Context())
			look()
			if err != nil || !slices.Equal(m.Body, document(i, quarter)) {
				t.Errorf("update %d: another body, %v", d.seq, err)
			}
			ackAll(t, []*Delivery{d})
		})
	}
	release()
	all.Wait()
	if most.Load() > limit {
		t.Errorf("%d bytes were held, the budget is %d", most.Load(), limit)
	}
	if stats := q.Stats(); stats.Reread != n || budget.Bytes() != 0 {
		t.Errorf("%d bytes are held after all was settled: %+v", budget.Bytes(), stats)
	}
	if !budget.tryAcquire(limit) {
		t.Error("something was not given back")
	}
}

func TestAnUpdateLargerThanTheBudgetPassesAlone(t *testing.T) {
	q := unbound(mebi)
	large, other := arrive(q, 1, 1, 3*mebi), arrive(q, 2, 2, quarter)
	use(t, large)
	given := make(chan struct{})
	go func() {
		defer close(given)
		use(t, other)
	}()
	select {
	case <-given:
		t.Fatal("another passed beside it")
	case <-time.After(50 * time.Millisecond):
	}
	large.Forget()
	<-given
	if got := q.budget.Bytes(); got != int64(other.size)-int64(len(subject(1))+1) && got != q.bytes {
		t.Errorf("%d bytes are held", got)
	}
}

// Who asks for much is not passed by those who ask for little; only the small ones ask for nothing.
func TestRoomIsGivenInTheOrderItWasAskedFor(t *testing.T) {
	q := unbound(mebi)
	first, second, small := arrive(q, 1, 1, quarter), arrive(q, 2, 2, quarter), arrive(q, 3, 3, 1000)
	use(t, first)
	much := waiting(t, q.budget, mebi)
	eventually(t, "it waits", func() bool { return !q.budget.tryAcquireAndGiveBack(1) })
	given := make(chan struct{})
	go func() {
		defer close(given)
		use(t, second)
	}()
	use(t, small)
	select {
	case <-much:
		t.Fatal("all was given beside a body in use")
	case <-given:
		t.Fatal("a later one was served first")
	case <-time.After(50 * time.Millisecond):
	}
	first.Park()
	release := <-much
	select {
	case <-given:
		t.Fatal("room was given twice")
	case <-time.After(50 * time.Millisecond):
	}
	second.q.mu.Lock()
	gone := second.body == nil
	second.q.mu.Unlock()
	if !gone {
		t.Error("a body that waits kept its place")
	}
	q.mu.Lock()
	q.keepLocked(second, newBody(nil, make([]byte, quarter), quarter)) // There is no stream to read it from.
	q.offerLocked(second)
	q.mu.Unlock()
	release()
	release() // Once more does no harm.
	<-given
}

func (b *Budget) tryAcquireAndGiveBack(n int64) bool {
	ok := b.using.TryAcquire(n)
	if ok {
		b.using.Release(n)
	}
	return ok
}

func TestWaitingForRoomEndsWithItsContext(t *testing.T) {
	q := unbound(mebi)
	first, second := arrive(q, 1, 1, 3*quarter), arrive(q, 2, 2, 3*quarter)
	use(t, first)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := q.budget.Take(ctx, mebi); err == nil {
		t.Error("got what was not there")
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	_, err := second.Message(stopped)
	if f := fault.Of(err); err == nil || f.Kind != fault.Interrupted {
		t.Errorf("got %v, want an interruption", err)
	}
	first.Forget()
	use(t, second)
}

// A queue whose lease is lost is closed while its updates are still being sent.
func TestBodiesInUseCountUntilTheyAreNot(t *testing.T) {
	q := unbound(mebi)
	budget := q.budget
	sent, held := arrive(q, 1, 1, quarter), arrive(q, 2, 2, quarter)
	use(t, sent)
	q.Close()
	if held.body != nil || budget.Bytes() != q.bytes || q.bytes < quarter || budget.n.Load() != 0 {
		t.Errorf("%d bytes are held after closing", budget.Bytes())
	}
	if err := sent.Ack(t.Context()); err != nil {
		t.Fatal(err)
	}
	sent.Release() // Too late, and no harm.
	if budget.Bytes() != 0 || !budget.tryAcquire(mebi) {
		t.Errorf("%d bytes are held after the answer", budget.Bytes())
	}
}

func TestQueuesShareTheBudget(t *testing.T) {
	one, two := unbound(16*mebi), unbound(0)
	budget := one.budget
	two.budget = budget
	budget.join(two)
	if budget.share() != 8*mebi || one.chunk() != 4*mebi {
		t.Errorf("a share of %d, requests of %d", budget.share(), one.chunk())
	}
	for i := range 5 {
		arrive(one, uint64(i+1), i, mebi)
	}
	one.mu.Lock()
	room := one.roomLocked()
	one.mu.Unlock()
	if room {
		t.Error("a queue that has half of its share fetches on")
	}
	if room := budget.room(two.bytes, two.chunk()); !room {
		t.Error("it keeps the other from fetching")
	}
	release, err := budget.Take(t.Context(), 8*mebi)
	if err != nil {
		t.Fatal(err)
	}
	if budget.room(two.bytes, two.chunk()) {
		t.Error("a queue fetches although others hold what it would need")
	}
	release()
	select {
	case <-two.wake:
	default:
		t.Error("it is not told that there is room")
	}
	one.Close()
	if budget.share() != 16*mebi {
		t.Errorf("a share of %d after the other has gone", budget.share())
	}
}

// The server reads an update before it sees that it does not fit any more, and reads it again for the next request.
func TestARequestAsksForAsManyUpdatesAsFit(t *testing.T) {
	for name, c := range map[string]struct {
		last pull
		want int
	}{
		"nothing is known":        {pull{}, batch},
		"nothing came":            {pull{asked: batch, left: batch}, batch},
		"comments":                {pull{asked: batch, left: 24, bytes: 1000 * 400}, batch},
		"documents of 1 MB":       {pull{asked: batch, left: batch - 8, bytes: 8 * 1_000_300}, 8},
		"all of them came":        {pull{asked: 8, bytes: 8 * 1_000_300}, 8},
		"documents of 5 MB":       {pull{asked: batch, left: batch - 1, bytes: 5_000_300}, 1},
		"larger than any request": {pull{asked: 1, bytes: 100 * mebi}, 1},
	} {
		f := &fetcher{current: c.last}
		if got := f.wanted(chunkBytes); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
}

func TestNoUpdateIsTooMuchForARequestAfterTheFirst(t *testing.T) {
	conn := prepared(t)
	const n, size = 60, mebi
	requests, err := conn.nc.SubscribeSync(conn.apiPrefix + "CONSUMER.MSG.NEXT." + topology.StreamUpdates + "." + topology.Consumer(0))
	if err != nil {
		t.Fatal(err)
	}
	publishDocuments(t, conn, n, size, func(i int) int { return i })
	q := open(t, conn, Config{Budget: NewBudget(64 * mebi)})
	r := start(t, q)
	for i := range n {
		ackAll(t, r.await(i + 1)[i:i+1])
	}
	r.stop()
	for i := 0; ; i++ {
		m, err := requests.NextMsg(100 * time.Millisecond)
		if err != nil {
			return
		}
		var asked pullRequest
		if err := json.Unmarshal(m.Data, &asked); err != nil {
			t.Fatal(err)
		}
		if asked.MaxBytes == 1 {
			continue // It only keeps the pin.
		}
		if i > 0 && int64(asked.Batch)*size > asked.MaxBytes {
			t.Errorf("request %d is for %d updates and for %d bytes", i+1, asked.Batch, asked.MaxBytes)
		}
	}
}
