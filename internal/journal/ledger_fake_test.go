package journal

import (
	"context"
	"maps"
	"sync"
	"testing"
	"time"
)

// holds reports whether n updates are known to the ledger.
func (l *ledger) holds(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries) == n
}

// fakeBucket is a bucket in memory. Each put asks how it shall end.
type fakeBucket struct {
	mu      sync.Mutex
	values  map[string][]byte
	puts    int
	underWy int
	most    int // The most puts at a time.
	// how is called for each put, not under the mutex; nil means stored.
	how func(ctx context.Context, data []byte, store func()) error
}

func newFakeBucket() *fakeBucket { return &fakeBucket{values: map[string][]byte{}} }

func (b *fakeBucket) put(ctx context.Context, key string, data []byte) (uint64, error) {
	b.mu.Lock()
	b.puts++
	b.underWy++
	b.most = max(b.most, b.underWy)
	seq, how := uint64(b.puts), b.how
	b.mu.Unlock()
	store := func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.values[key] = data
	}
	var err error
	if how == nil {
		store()
	} else {
		err = how(ctx, data, store)
	}
	b.mu.Lock()
	b.underWy--
	b.mu.Unlock()
	return seq, err
}

func (b *fakeBucket) end(how func(ctx context.Context, data []byte, store func()) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.how = how
}

// snapshot is what a crash at this moment would leave.
func (b *fakeBucket) snapshot(tb testing.TB) map[key]found {
	tb.Helper()
	b.mu.Lock()
	values := maps.Clone(b.values)
	b.mu.Unlock()
	left := newLeftovers()
	for name, data := range values {
		writer, ok := parseLedgerSubject(ledgerPrefix + name)
		batch, err := decodeBatch(data)
		if !ok || err != nil {
			tb.Fatalf("%s holds %q: %v", name, data, err)
		}
		left.take(writer, batch, false)
	}
	return left.records
}

func (b *fakeBucket) counts() (puts, keys, most int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.puts, len(b.values), b.most
}

// aLedger writes into a fake bucket.
func aLedger(tb testing.TB, b *fakeBucket) *ledger {
	tb.Helper()
	l := newLedger(tb.Context(), b.put, ledgerWriter{epoch: 1, id: "w"}, "p", PublisherConfig{Timeout: 10 * time.Second, Patience: 30 * time.Second})
	tb.Cleanup(func() {
		l.stop(errTenureOver)
		l.work.Wait()
	})
	return l
}

func aRecord(seq uint64, s state, attempts int) record {
	return record{key: key{seq: seq, at: 1}, state: s, attempts: attempts, requestID: "sys12345678"}
}

func (l *ledger) mustStore(tb testing.TB, r record) {
	tb.Helper()
	if err := l.store(within(tb, time.Minute), r, nil); err != nil {
		tb.Fatalf("storing %+v: %v", r, err)
	}
}

// eventually polls until ok, because nobody tells when a record is stored that nobody waits for.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	ctx := within(tb, time.Minute)
	for !ok() {
		if ctx.Err() != nil {
			tb.Fatalf("not after a minute: %s", what)
		}
		pause(ctx, 2*time.Millisecond)
	}
}

var errNoAnswer = context.DeadlineExceeded

// gate makes every put wait until it is opened.
func (b *fakeBucket) gate() (open func()) {
	gate := make(chan struct{})
	b.end(func(ctx context.Context, _ []byte, store func()) error {
		select {
		case <-gate:
			store()
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return func() { close(gate); b.end(nil) }
}
