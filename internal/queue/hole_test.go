package queue

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// What is held comes again behind one that was lost: that must not hide the loss from what comes next.
func TestARedeliveryDoesNotHideWhatWasLostBeforeIt(t *testing.T) {
	t.Parallel()
	conn := prepared(t)
	fill(t, conn, 10, 1)
	var busy atomic.Bool
	q := open(t, conn, Config{Busy: busy.Load})
	r := start(t, q)
	taken := r.await(10)
	busy.Store(true)
	eventually(t, "nothing is asked for", func() bool { return q.Stats().State == StateBusy })
	fillFrom(t, conn, 10, 1, 1)
	steal(t, conn, 1)
	if err := conn.NATS().Publish(taken[4].reply, []byte("-NAK")); err != nil {
		t.Fatal(err)
	}
	busy.Store(false)
	q.Wake()
	eventually(t, "the fifth has come again", func() bool { return q.Stats().Redelivered == 1 })
	fillFrom(t, conn, 11, 3, 1)
	got := seqs(r.await(14))
	if !slices.IsSorted(got) {
		t.Errorf("handed over in the order %v", got)
	}
	ackAll(t, r.all())
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
}

func TestWhatARunLeavesUnreadIncludesWhatItKept(t *testing.T) {
	q := &Queue{seen: 4}
	kept := func(seqs ...uint64) (messages []*nats.Msg) {
		for _, seq := range seqs {
			messages = append(messages, &nats.Msg{Reply: q.ackHandle(ackMeta{streamSeq: seq})})
		}
		return messages
	}
	for name, test := range map[string]struct {
		f    fetcher
		want span
	}{
		"nothing":       {fetcher{}, span{}},
		"unread":        {fetcher{unread: span{2, 7}}, span{2, 7}},
		"kept":          {fetcher{unread: span{5, 7}, kept: kept(8, 11)}, span{5, 11}},
		"a hole beyond": {fetcher{unread: span{5, 7}, kept: kept(8), behindKept: 20}, span{5, 20}},
	} {
		test.f.q = q
		if got := test.f.left(); got != test.want && (!got.empty() || !test.want.empty()) {
			t.Errorf("%s: %v is left, want %v", name, got, test.want)
		}
	}
}

// In a cluster the consumer tells of a delivery only when its quorum has it. One that was on its way there at the
// take-over, to a process that is gone, is found although nothing comes behind it.
func TestTheLastDeliveryToAFormerProcessIsFound(t *testing.T) {
	t.Parallel()
	conn := prepared(t, ackWait(time.Hour), pinnedTTL(time.Hour))
	fill(t, conn, 3, 1)
	q := open(t, conn, Config{})
	if err := q.TakeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	steal(t, conn, 3)
	if err := q.unpin(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := start(t, q)
	if got := seqs(r.await(3)); !slices.Equal(got, []uint64{1, 2, 3}) {
		t.Errorf("handed over: %v", got)
	}
	ackAll(t, r.all())
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
}

// The same when it is somebody else who gets them for a while, and then nobody does.
func TestWhatAnotherGotLastIsFound(t *testing.T) {
	t.Parallel()
	conn := prepared(t, ackWait(time.Hour), pinnedTTL(time.Hour))
	fill(t, conn, 3, 1)
	var busy atomic.Bool
	q := open(t, conn, Config{Busy: busy.Load})
	r := start(t, q)
	r.await(3)
	busy.Store(true)
	eventually(t, "nothing is asked for", func() bool { return q.Stats().State == StateBusy })
	if err := q.unpin(t.Context()); err != nil {
		t.Fatal(err)
	}
	fillFrom(t, conn, 3, 2, 1)
	steal(t, conn, 2)
	if err := q.unpin(t.Context()); err != nil {
		t.Fatal(err)
	}
	busy.Store(false)
	q.Wake()
	if got := seqs(r.await(5)); !slices.Equal(got, []uint64{1, 2, 3, 4, 5}) {
		t.Errorf("handed over: %v", got)
	}
	ackAll(t, r.all())
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
}
