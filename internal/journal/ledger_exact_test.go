package journal

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// witness knows of one update what the ledger must know at least and can know at most. Its records count up in their
// attempts.
type witness struct {
	key     key
	issued  atomic.Int64
	acked   atomic.Int64
	settled atomic.Bool
}

// TestACrashAtAnyPointLeavesTheLastRecordOrALaterOne is the ledger's promise: whatever the network does, and whenever
// the process dies, what is found of an update is the last record that was acknowledged, or a later one that was on
// its way.
func TestACrashAtAnyPointLeavesTheLastRecordOrALaterOne(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	b := newFakeBucket()
	l := aLedger(t, b)
	l.cfg = PublisherConfig{Timeout: 20 * time.Millisecond, Patience: 100 * time.Millisecond}
	var late sync.WaitGroup
	t.Cleanup(late.Wait)
	b.end(badNetwork(seed, &late))

	var mu sync.Mutex
	var witnesses []*witness
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var owners sync.WaitGroup
	for owner := range uint64(24) {
		random := rand.New(rand.NewPCG(seed, owner+1))
		owners.Go(func() {
			for n := uint64(0); ctx.Err() == nil; n++ {
				w := &witness{key: key{seq: owner<<32 | n, at: 1}}
				mu.Lock()
				witnesses = append(witnesses, w)
				mu.Unlock()
				w.live(ctx, t, l, random)
			}
		})
	}
	checked := 0
	enough := func() bool {
		puts, _, _ := b.counts()
		return checked >= 10_000 && puts >= 500
	}
	for ctx.Err() == nil && !enough() {
		mu.Lock()
		all := witnesses
		mu.Unlock()
		checked += compare(t, b, all)
	}
	cancel()
	owners.Wait()
	puts, keys, most := b.counts()
	t.Logf("%d updates, %d compared, %d messages, %d slots", len(witnesses), checked, puts, keys)
	if most > maxCommits {
		t.Errorf("%d messages on their way at a time, want at most %d", most, maxCommits)
	}
	if !enough() {
		t.Errorf("only %d comparisons and %d messages: nothing was tested", checked, puts)
	}
}

// live is an update's life: some attempts with or without definite answers, and mostly a settlement.
func (w *witness) live(ctx context.Context, t *testing.T, l *ledger, random *rand.Rand) {
	t.Helper()
	for range 1 + random.IntN(4) {
		n := w.issued.Add(1)
		if l.store(ctx, record{key: w.key, state: stateSending, attempts: int(n)}, nil) == nil {
			w.acked.Store(n)
		}
		if random.IntN(3) == 0 {
			n := w.issued.Add(1)
			if err := l.enqueue(&ticket{rec: record{key: w.key, state: stateIdle, attempts: int(n)}}); err != nil {
				t.Error(err)
			}
		}
		if random.IntN(4) == 0 {
			pause(ctx, time.Duration(random.IntN(20))*time.Millisecond)
		}
	}
	if random.IntN(20) > 0 { // Some stay open for ever.
		w.settled.Store(true)
		l.settled(w.key)
	}
}

// compare holds a crash at this moment against the witnesses, and gives how many updates it compared.
func compare(t *testing.T, b *fakeBucket, all []*witness) int {
	t.Helper()
	floors := make([]int64, len(all))
	for i, w := range all {
		floors[i] = w.acked.Load()
	}
	left := b.snapshot(t)
	compared := 0
	for i, w := range all {
		if w.settled.Load() || floors[i] == 0 {
			continue
		}
		compared++
		r, ok := left[w.key]
		if got, ceiling := int64(r.attempts), w.issued.Load(); !ok || got < floors[i] || got > ceiling {
			t.Errorf("update %x: record %d (found %v), want from %d to %d", w.key.seq, got, ok, floors[i], ceiling)
		}
	}
	return compared
}

// badNetwork loses requests and answers, refuses, and delivers copies late.
func badNetwork(seed uint64, late *sync.WaitGroup) func(context.Context, []byte, func()) error {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 0))
	return func(ctx context.Context, _ []byte, store func()) error {
		mu.Lock()
		fate, delay := random.IntN(100), time.Duration(random.IntN(60))*time.Millisecond
		mu.Unlock()
		switch {
		case fate < 4: // The request is lost.
			return errNoAnswer
		case fate < 8: // The answer is lost.
			store()
			return errNoAnswer
		case fate < 12: // The request arrives late, perhaps after its repeat.
			late.Go(func() {
				pause(context.WithoutCancel(ctx), delay)
				store()
			})
			return errNoAnswer
		case fate < 14:
			return &jetstream.APIError{Code: 503, ErrorCode: codeStreamStoreFailed, Description: "full"}
		case fate < 40:
			pause(ctx, delay/30)
		}
		store()
		return nil
	}
}

// While a partition is taken over nothing is sent, and to give up would mean to begin again from nothing: a ledger without
// a leader is waited for as long as an election takes. Once requests wait for a record, the lack of one is told sooner.
func TestATakeoverWaitsForTheLedgersElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bucket := newFakeBucket()
		noLeader := func(context.Context, []byte, func()) error { return jetstream.ErrNoStreamResponse }
		bucket.end(noLeader)
		l := newLedger(t.Context(), bucket.put, ledgerWriter{epoch: 1, id: "w"}, "p", PublisherConfig{})
		defer func() {
			l.stop(errTenureOver)
			l.work.Wait()
		}()
		l.takingOver = true
		time.AfterFunc(9*time.Second, func() { bucket.end(nil) })
		if _, err := l.fence(t.Context()); err != nil {
			t.Errorf("the fence: %v", err)
		}
		bucket.end(noLeader)
		time.AfterFunc(9*time.Second, func() { bucket.end(nil) })
		if err := l.store(t.Context(), aRecord(1, stateSending, 1), nil); err != nil {
			t.Errorf("a record carried over: %v", err)
		}
		l.takenOver()
		bucket.end(noLeader)
		begin := time.Now()
		if err := l.store(t.Context(), aRecord(2, stateSending, 1), nil); err == nil {
			t.Error("stored without a leader")
		}
		if took := time.Since(begin); took > defaultPatience {
			t.Errorf("told after %v", took)
		}
	})
}
