package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

const (
	mebi    = 1 << 20
	quarter = mebi / 4
)

// document is a body that is told from others by its number.
func document(i, size int) []byte {
	return bytes.Repeat([]byte{byte('a' + i%26)}, size)
}

// unbound is a queue of no consumer.
func unbound(budget int64) *Queue {
	q := &Queue{budget: NewBudget(budget), holding: newHolding(10), wake: make(chan struct{}, 1), done: make(chan struct{})}
	q.cfg = Config{Budget: q.budget}.withDefaults()
	q.budget.join(q)
	return q
}

func publishDocuments(tb testing.TB, conn *Conn, n, size int, vorgang func(i int) int) {
	tb.Helper()
	for i := range n {
		if _, err := conn.JetStream().Publish(context.Background(), subject(vorgang(i)), document(i, size)); err != nil {
			tb.Fatalf("publishing: %v", err)
		}
	}
}

func TestBytesInMemoryAreBounded(t *testing.T) {
	conn := prepared(t)
	const (
		n      = 60
		budget = 2 * mebi
		bound  = budget + chunkBytes + mebi // It is less than two of the largest messages.
	)
	publishDocuments(t, conn, n, quarter, func(i int) int { return i })
	q := open(t, conn, Config{Budget: NewBudget(budget)})
	r := start(t, q)
	eventually(t, "the bytes are used up", func() bool { return q.Stats().State == StateFull })
	for i := range n {
		d := r.await(i + 1)[i]
		if stats := q.Stats(); stats.Bytes > bound {
			t.Fatalf("%d bytes are held, at most %d may be", stats.Bytes, bound)
		}
		if text(t, d) != string(document(i, quarter)) {
			t.Fatalf("update %d is not the %dth published", d.Seq(), i)
		}
		ackAll(t, []*Delivery{d})
	}
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
	stats := q.Stats()
	if stats.Bytes != 0 || stats.Reread != 0 || stats.Redelivered != 0 || stats.Delivered != n {
		t.Errorf("after all was settled: %+v", stats)
	}
	if got := conn.Stats().SlowConsumers; got != 0 {
		t.Errorf("%d slow consumers", got)
	}
}

func TestFetchingGoesOnAsSoonAsThereIsRoom(t *testing.T) {
	conn := prepared(t)
	const n = 80
	publishDocuments(t, conn, n, quarter, func(i int) int { return i })
	q := open(t, conn, Config{Budget: NewBudget(quarter)})
	r := start(t, q)
	machine := watchStalls(t)
	settled := 0
	for settled < n {
		eventually(t, "the bytes are used up, or all is here", func() bool {
			return q.Stats().State == StateFull && len(r.all()) > settled || len(r.all()) == n
		})
		taken := r.all()
		ackAll(t, taken[settled:])
		settled = len(taken)
		begin := time.Now()
		r.await(min(settled+1, n))
		machine.wantWithin(t, "fetching the next when there was room", begin, 600*time.Millisecond)
	}
}

func TestParkedBodiesMakeRoom(t *testing.T) {
	conn := prepared(t)
	const n = 60
	publishDocuments(t, conn, n, quarter, func(i int) int { return i })
	q := open(t, conn, Config{Budget: NewBudget(2 * mebi)})
	r := start(t, q)
	// Every lane is in backoff: that must not keep the ones behind from being seen.
	for i := range n {
		d := r.await(i + 1)[i]
		text(t, d)
		d.Park()
	}
	if stats := q.Stats(); stats.Held != n || stats.Bytes > 2*mebi+chunkBytes+mebi || stats.Dropped == 0 {
		t.Fatalf("with all parked: %+v", stats)
	}
	for i, d := range r.all() {
		if text(t, d) != string(document(i, quarter)) {
			t.Fatalf("update %d is not what was published", d.Seq())
		}
		ackAll(t, []*Delivery{d})
	}
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
	if stats := q.Stats(); stats.Reread == 0 || stats.Bytes != 0 {
		t.Errorf("after all was settled: %+v", stats)
	}
}

func TestABurstOfOneVorgangIsReadAgainInItsTurn(t *testing.T) {
	conn := prepared(t)
	const n = 500
	for i := range n {
		m := &nats.Msg{
			Subject: subject(1),
			Data:    fmt.Appendf(nil, "body %d \x00\xff", i),
			Header:  nats.Header{update.HeaderTraceID: {fmt.Sprint("trace", i)}, "X-Traceid": {"other"}},
		}
		if i%7 == 0 {
			m.Header = nil
		}
		if _, err := conn.JetStream().PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	q := open(t, conn, Config{BodiesPerKey: 4})
	r := start(t, q)
	taken := r.await(n)
	if stats := q.Stats(); stats.Bodies != 4 || stats.Dropped != n-4 {
		t.Errorf("before the first turn: %+v", stats)
	}
	for i, d := range taken {
		m, err := d.Message(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := string(m.Body), fmt.Sprintf("body %d \x00\xff", i); got != want {
			t.Fatalf("body %q, want %q", got, want)
		}
		if m.Seq != d.Seq() || !m.StoredAt.Equal(d.StoredAt()) || m.Subject != subject(1) {
			t.Fatalf("message %+v of update %d", m, d.Seq())
		}
		want := 2
		if i%7 == 0 {
			want = 0
		}
		if len(m.Header) != want || want > 0 && m.Header[update.HeaderTraceID][0] != fmt.Sprint("trace", i) {
			t.Fatalf("headers %v of update %d", m.Header, i)
		}
		ackAll(t, []*Delivery{d})
	}
	if stats := q.Stats(); stats.Reread != n-4 {
		t.Errorf("after the last turn: %+v", stats)
	}
}

func TestAHeldUpdateWithoutBodyIsSmall(t *testing.T) {
	const n = 50_000
	heap := func() int64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return int64(stats.HeapAlloc)
	}
	for name, vorgaenge := range map[string]int{"of one Vorgang": 1, "of 500": 500} {
		t.Run(name, func(t *testing.T) {
			before := heap()
			q := unbound(DefaultMaxBytes)
			for seq := range uint64(n) {
				m := &nats.Msg{ // As it comes from the connection, everything its own.
					Subject: fmt.Sprintf("kex.update.0.%d.kommentare", int(seq)%vorgaenge),
					Reply:   fmt.Sprintf("$JS.ACK.KEX_UPDATES.relay-0.1.%d.%d.1763800000123456789.%d", 1_000_000+seq, 1_000_000+seq, n),
					Header:  nats.Header{update.HeaderMsgID: {"id"}},
					Data:    make([]byte, 100),
				}
				q.take(ackMeta{streamSeq: 1_000_000 + seq, consumerSeq: 1_000_000 + seq}, m, 1, chunkBytes)
			}
			held := heap() - before
			each := (held - int64(q.bodies)*1000) / n
			if each > 300 {
				t.Errorf("a held update takes %d bytes", each)
			}
			if len(q.held) != n || q.bodies != DefaultBodiesPerKey*vorgaenge {
				t.Errorf("%d held, %d bodies", len(q.held), q.bodies)
			}
		})
	}
}

func TestAnUpdateRemovedWhileHeldIsTold(t *testing.T) {
	conn := prepared(t)
	fill(t, conn, 6, 1)
	r := start(t, open(t, conn, Config{BodiesPerKey: 1}))
	taken := r.await(6)
	stream, err := conn.JetStream().Stream(t.Context(), topology.StreamUpdates)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if _, err := taken[2].Message(t.Context()); !errors.Is(err, update.ErrRemoved) {
		t.Errorf("reading a removed update: %v", err)
	}
	if got := text(t, taken[3]); got != "3" {
		t.Errorf("the next one has body %q", got)
	}
	taken[2].Forget()
	if _, err := taken[2].Message(t.Context()); !errors.Is(err, update.ErrRemoved) {
		t.Errorf("reading a forgotten update: %v", err)
	}
}

func TestAStreamMadeAnewIsNotMistakenForTheOldOne(t *testing.T) {
	conn := prepared(t)
	fill(t, conn, 2, 1)
	q := open(t, conn, Config{BodiesPerKey: 1})
	old := start(t, q)
	taken := old.await(2)
	old.stop()
	if err := conn.JetStream().DeleteStream(t.Context(), topology.StreamUpdates); err != nil {
		t.Fatal(err)
	}
	setUp(t, conn)
	fillFrom(t, conn, 10, 2, 1)
	if _, err := taken[1].Message(t.Context()); !errors.Is(err, update.ErrRemoved) {
		t.Errorf("reading an update of the old stream gave %v", err)
	}
	if err := start(t, q).end(); !errors.Is(err, ErrRewound) {
		t.Errorf("Run returned %v, want ErrRewound", err)
	}
	next := open(t, conn, Config{BodiesPerKey: 1})
	if err := next.TakeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	fresh := start(t, next).await(2)
	if got := text(t, fresh[0]) + text(t, fresh[1]); got != "1011" {
		t.Errorf("the new stream's bodies are %q", got)
	}
	ackAll(t, taken) // The old owner's ack must not settle the new update.
	within(t, 300*time.Millisecond, "both new updates are held", func() bool {
		return next.Stats().Held == 2 && stored(t, conn) == 2
	})
}

func TestHeldUpdatesLoadAgainAfterRelease(t *testing.T) {
	conn := prepared(t)
	publishDocuments(t, conn, 3, mebi, func(i int) int { return i })
	q := open(t, conn, Config{Budget: NewBudget(3 * mebi)})
	r := start(t, q)
	taken := r.await(3)
	text(t, taken[0])
	if stats := q.Stats(); stats.Bodies != 3 {
		t.Fatalf("heads of their lanes were dropped: %+v", stats)
	}
	taken[0].Release()
	taken[1].Park()
	if stats := q.Stats(); stats.Bodies != 2 || q.budget.Bytes() != stats.Bytes {
		t.Fatalf("a parked body was not dropped when room was needed: %+v", stats)
	}
	if text(t, taken[1]) != string(document(1, mebi)) {
		t.Error("the parked update has another body")
	}
}

func TestOddSubjectsAndHeadersPass(t *testing.T) {
	conn := prepared(t)
	long := strings.Repeat("x", 3900)
	subjects := []string{
		"kex.vorgang.Ä.dokument", "kex.vorgang." + long + ".dokument", "kex.vorgang.1", "kex.vorgang.1.2.3.4",
		"kex.vorgang.1.kommentare",
	}
	for _, subject := range subjects {
		m := &nats.Msg{Subject: subject, Data: []byte("x"), Header: nats.Header{"Big": {strings.Repeat("y", 60<<10)}, "Status": {"409"}}}
		if _, err := conn.JetStream().PublishMsg(t.Context(), m); err != nil {
			t.Fatalf("publishing to %.40s: %v", subject, err)
		}
	}
	r := start(t, open(t, conn, Config{}))
	for i, d := range r.await(len(subjects)) {
		if d.Subject() != subjects[i] || text(t, d) != "x" {
			t.Errorf("update %d has subject %.60s", d.Seq(), d.Subject())
		}
		ackAll(t, []*Delivery{d})
	}
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
}

func TestKeyIsTheVorgangsnummer(t *testing.T) {
	for subject, want := range map[string]string{
		"kex.vorgang.123.dokument": "123",
		"kex.vorgang.123":          "123",
		"kex.vorgang.1.2.3":        "1",
		"kex.update.x":             "kex.update.x",
	} {
		if got := keyOf(subject); got != want {
			t.Errorf("keyOf(%q) = %q, want %q", subject, got, want)
		}
	}
}

func TestSettledUpdatesAreRememberedUpToTheLimit(t *testing.T) {
	s := settled{at: make(map[uint64]int64), limit: 3}
	for seq := range uint64(10) {
		s.add(seq, int64(seq)+100)
	}
	if len(s.at) != 3 || s.at[7] != 107 || s.at[8] != 108 || s.at[9] != 109 {
		t.Errorf("remembered: %v", s.at)
	}
}

// What a take-over reads comes whatever was there before; it must not break the budget.
func TestABodyFarBeyondTheBudgetIsNotKept(t *testing.T) {
	q := unbound(mebi)
	for seq := range uint64(40) {
		m := &nats.Msg{Subject: subject(int(seq)), Data: document(1, mebi), Reply: "r"}
		if got := q.take(ackMeta{streamSeq: seq + 1, consumerSeq: seq + 1}, m, 1, chunkBytes); got.update == nil {
			t.Fatalf("update %d was not handed over", seq+1)
		}
	}
	if q.bytes > mebi+chunkBytes || len(q.held) != 40 || q.dropped == 0 {
		t.Errorf("%d bytes in %d bodies, %d dropped, %d held", q.bytes, q.bodies, q.dropped, len(q.held))
	}
}

// What arrives behind a large body in use is shed at once.
func TestABodyShedOnArrivalIsNotDroppedTwice(t *testing.T) {
	q := unbound(mebi)
	add := func(seq uint64, vorgang int) *Delivery {
		m := &nats.Msg{Subject: subject(vorgang), Data: document(1, 8*mebi), Reply: "r"}
		return q.take(ackMeta{streamSeq: seq, consumerSeq: seq}, m, 1, chunkBytes).update
	}
	if _, where, err := add(1, 1).use(false); where != inUse || err != nil {
		t.Fatalf("taking it: %v, %v", where, err)
	}
	dropped := q.dropped
	if d := add(2, 1); d == nil || d.body != nil || q.bodies != 1 || q.dropped != dropped+1 {
		t.Errorf("%d bodies, %d dropped after the second of a lane", q.bodies, q.dropped-dropped)
	}
}

func TestShedding(t *testing.T) {
	q := unbound(20_000)
	add := func(seq uint64, vorgang int) *Delivery {
		d := &Delivery{q: q, seq: seq, subject: subject(vorgang)}
		q.addLocked(d)
		q.keepLocked(d, &body{size: 1000})
		q.offerLocked(d)
		return d
	}
	a1, a2, b1, b2, b3, c1 := add(1, 1), add(2, 1), add(3, 2), add(4, 2), add(5, 2), add(6, 3)
	all := map[string]*Delivery{"a1": a1, "a2": a2, "b1": b1, "b2": b2, "b3": b3, "c1": c1}
	has := func() string {
		var names []string
		for name, d := range all {
			if d.body != nil {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return strings.Join(names, " ")
	}
	a1.Park() // And with it a2, which waits behind it.
	if _, err := c1.Message(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		max  int64 // Twice what they may have: half is for what a request brings.
		want string
	}{
		{14000, "a1 a2 b1 b2 b3 c1"},
		{12000, "a2 b1 b2 b3 c1"},
		{10000, "b1 b2 b3 c1"},
		{8000, "b1 b2 c1"},
		{6000, "b1 c1"},
		{2000, "b1 c1"}, // The first of a lane and what is in use stay.
	} {
		q.budget.limit = step.max
		q.shedLocked()
		if got := has(); got != step.want {
			t.Errorf("with room for %d: %q, want %q", step.max, got, step.want)
		}
	}
	q.keepLocked(b2, &body{size: 1000})
	q.offerLocked(b2)
	q.removeLocked(b1)
	q.shedLocked()
	if got := has(); got != "b2 c1" {
		t.Errorf("after the first of a lane is gone: %q", got)
	}
	if q.bytes != 2000 || q.bodies != 2 || len(q.keys) != 3 || len(q.held) != 5 {
		t.Errorf("%d bytes in %d bodies, %d keys, %d held", q.bytes, q.bodies, len(q.keys), len(q.held))
	}
}
