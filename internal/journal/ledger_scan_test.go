package journal

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kexrelay/internal/topology"
)

func TestTheLedgerIsExactOnARealServer(t *testing.T) {
	js := setUp(t, topology.Options{})
	kv, err := js.KeyValue(t.Context(), topology.BucketLedger)
	if err != nil {
		t.Fatal(err)
	}
	writer := ledgerWriter{partition: 3, epoch: 7, id: randomID()}
	l := newLedger(t.Context(), kv.Put, writer, "p", PublisherConfig{})
	var workers sync.WaitGroup
	for worker := range uint64(32) {
		workers.Go(func() {
			for n := range uint64(20) {
				seq := worker*100 + n
				for attempt := range 3 {
					l.mustStore(t, aRecord(seq, stateSending, attempt+1))
					if err := l.enqueue(&ticket{rec: aRecord(seq, stateIdle, attempt+1)}); err != nil {
						t.Error(err)
					}
				}
				if n != 19 { // The last one of each is still open when the process dies.
					l.settled(key{seq: seq, at: 1})
				}
			}
		})
	}
	workers.Wait()
	if err := l.close(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	next := newLedger(t.Context(), kv.Put, ledgerWriter{partition: 3, epoch: 8, id: randomID()}, "q", PublisherConfig{})
	fence, err := next.fence(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	left, err := readLedger(t.Context(), js, next.writer, "q", fence, discard())
	if err != nil {
		t.Fatal(err)
	}
	for worker := range uint64(32) {
		k := key{seq: worker*100 + 19, at: 1}
		if f := left.records[k]; f.state != stateIdle || f.attempts != 3 || f.own || f.writer != writer {
			t.Errorf("record of %d is %+v, want idle after attempt 3", k.seq, f)
		}
	}
	if err := purgeWriters(t.Context(), js, left.writers, fence); err != nil {
		t.Fatal(err)
	}
	if state := streamState(t, js, ledgerStream); state.Msgs != 1 {
		t.Errorf("%d messages after the removal, want the fence alone", state.Msgs)
	}
	if err := next.close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if next.number != fence {
		t.Errorf("commits are numbered from %d, want from the fence %d", next.number, fence)
	}
}

// A replica that lags gives an end that is none: one's own fence must have come.
func TestAReaderOfTheLedgerWaitsForItsFence(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	kv, err := js.KeyValue(t.Context(), topology.BucketLedger)
	if err != nil {
		t.Fatal(err)
	}
	former := ledgerWriter{epoch: 1, id: "w"}
	l := newLedger(t.Context(), kv.Put, former, "p", PublisherConfig{})
	l.mustStore(t, aRecord(1, stateSending, 1))
	own := ledgerWriter{epoch: 2, id: "x"}
	fence := streamState(t, js, ledgerStream).LastSeq + 2
	done := make(chan leftovers)
	go func() {
		left, err := readLedger(within(t, time.Minute), js, own, "q", fence, discard())
		if err != nil {
			t.Error(err)
		}
		done <- left
	}()
	select {
	case <-done:
		t.Fatal("it did not wait")
	case <-time.After(300 * time.Millisecond):
	}
	l.mustStore(t, aRecord(2, stateSending, 1))
	if _, err := kv.Put(t.Context(), own.key(0), []byte("the fence")); err != nil {
		t.Fatal(err)
	}
	if left := <-done; len(left.records) != 2 {
		t.Errorf("%d records, want 2", len(left.records))
	}
	if err := l.close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// What a former holder writes after it was read, its successor has yet to see.
func TestTheRemovalKeepsWhatWasNotRead(t *testing.T) {
	js := setUp(t, topology.Options{})
	kv, err := js.KeyValue(t.Context(), topology.BucketLedger)
	if err != nil {
		t.Fatal(err)
	}
	former, other := ledgerWriter{partition: 1, epoch: 1, id: "w"}, ledgerWriter{partition: 1, epoch: 1, id: "x"}
	for _, k := range []string{former.key(0), other.key(0), former.key(1), former.key(2)} {
		if _, err := kv.Put(t.Context(), k, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := purgeWriters(t.Context(), js, map[ledgerWriter]struct{}{former: {}}, 3); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, msg := range messages(t, js, ledgerStream) {
		left = append(left, strings.TrimPrefix(msg.Subject(), ledgerPrefix))
	}
	if want := []string{other.key(0), former.key(2)}; !slices.Equal(left, want) {
		t.Errorf("%q are left, want %q", left, want)
	}
}
