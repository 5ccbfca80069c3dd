package journal

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestRecordsThatBecomeReadyTogetherGoOutTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBucket()
		l := aLedger(t, b)
		open := b.gate()
		var waiters sync.WaitGroup
		begin := func(first, last uint64) {
			for seq := first; seq <= last; seq++ {
				waiters.Go(func() { l.mustStore(t, aRecord(seq, stateSending, 1)) })
			}
			synctest.Wait()
		}
		want := func(commits, records int) {
			t.Helper()
			l.mu.Lock()
			defer l.mu.Unlock()
			if puts, _, _ := b.counts(); puts != commits || len(l.pending) != records {
				t.Errorf("%d commits on their way and %d records waiting, want %d and %d", puts, len(l.pending), commits, records)
			}
		}
		begin(1, 1)
		want(1, 0)
		begin(2, 11)
		want(1, 10)
		pause(t.Context(), slowCommit) // Nothing more comes, and yet they do not wait any longer.
		synctest.Wait()
		want(2, 0)
		begin(12, 311)
		pause(t.Context(), slowCommit)
		synctest.Wait()
		want(2, 300)
		open()
		waiters.Wait()
		if puts, _, most := b.counts(); puts != 4 || most != 2 {
			t.Errorf("311 records in %d messages, at most %d at a time, want 1, 10, %d and the rest, at most 2", puts, most, maxCommitRecords)
		}
		if n := len(b.snapshot(t)); n != 311 {
			t.Errorf("%d records are there, want 311", n)
		}
	})
}

func TestAMessageOfTheLedgerStaysSmall(t *testing.T) {
	b := newFakeBucket()
	l := aLedger(t, b)
	open := b.gate()
	for seq := range uint64(1000) {
		r := aRecord(seq, stateIdle, 1)
		r.requestID = strings.Repeat("x", maxRequestID)
		if err := l.enqueue(&ticket{rec: r}); err != nil {
			t.Fatal(err)
		}
	}
	open()
	if err := l.close(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	if n := len(b.snapshot(t)); n != 1000 {
		t.Errorf("%d records are there, want 1000", n)
	}
	for name, data := range b.values {
		if len(data) > maxCommitSize+100 {
			t.Errorf("%s has %d bytes", name, len(data))
		}
	}
}

func TestASlotIsUsedAgainOnlyWhenNothingInItMatters(t *testing.T) {
	b := newFakeBucket()
	l := aLedger(t, b)
	for n := range 1000 {
		l.mustStore(t, aRecord(1, stateSending, n+1))
		l.mustStore(t, aRecord(2, stateSending, n+1))
		l.settled(key{seq: 2, at: 1})
	}
	if _, keys, _ := b.counts(); keys > 3 {
		t.Errorf("%d slots for two updates", keys)
	}
	if r := b.snapshot(t)[key{seq: 1, at: 1}]; r.attempts != 1000 {
		t.Errorf("the last record is %+v, want attempt 1000", r)
	}
}

// Records that live long, such as those of updates in a long backoff, must not keep a message each alive.
func TestLongLivedRecordsAreMovedTogether(t *testing.T) {
	t.Parallel()
	b := newFakeBucket()
	l := aLedger(t, b)
	const kept = 3000
	for seq := range uint64(kept) {
		l.mustStore(t, aRecord(seq, stateIdle, int(seq)+1))
		for busy := range uint64(3) {
			l.mustStore(t, aRecord(kept+busy, stateSending, 1))
			l.settled(key{seq: kept + busy, at: 1})
		}
	}
	if _, keys, _ := b.counts(); keys > fewSlots+kept/recordsPerSlot+3 {
		t.Errorf("%d slots for %d records", keys, kept)
	}
	left := b.snapshot(t)
	for seq := range uint64(kept) {
		if r, ok := left[key{seq: seq, at: 1}]; !ok || r.attempts != int(seq)+1 || r.state != stateIdle {
			t.Fatalf("record %d is %+v, want attempt %d", seq, r, seq+1)
		}
	}
}

func TestARecordNobodyWaitsForIsRepeatedUntilItIsStored(t *testing.T) {
	b := newFakeBucket()
	l := aLedger(t, b)
	full := &jetstream.APIError{Code: 503, ErrorCode: codeStreamStoreFailed, Description: "maximum bytes exceeded"}
	b.end(func(context.Context, []byte, func()) error { return full })
	if err := l.enqueue(&ticket{rec: aRecord(1, stateIdle, 1)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a refused put", func() bool { puts, _, _ := b.counts(); return puts > 0 })
	b.end(nil)
	eventually(t, "the record is there", func() bool { return b.snapshot(t)[key{seq: 1, at: 1}].attempts == 1 })
}

func TestARecordIsNotRepeatedOverALaterOne(t *testing.T) {
	b := newFakeBucket()
	l := aLedger(t, b)
	b.end(func(_ context.Context, data []byte, store func()) error {
		if strings.Contains(string(data), "\ni ") {
			return &jetstream.APIError{Code: 400, ErrorCode: 1, Description: "refused"}
		}
		store()
		return nil
	})
	if err := l.enqueue(&ticket{rec: aRecord(1, stateIdle, 1)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a refused put", func() bool { puts, _, _ := b.counts(); return puts > 0 })
	// It waits to be repeated while the next request begins.
	eventually(t, "the next request is recorded", func() bool {
		return l.store(within(t, time.Minute), aRecord(1, stateSending, 2), nil) == nil
	})
	b.end(nil)
	if err := l.close(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	if r := b.snapshot(t)[key{seq: 1, at: 1}]; r.state != stateSending || r.attempts != 2 {
		t.Errorf("the last record is %+v, want sending, attempt 2", r)
	}
}

func TestARecordOfASettledUpdateIsNotRepeated(t *testing.T) {
	b := newFakeBucket()
	l := aLedger(t, b)
	arrived, refuse := make(chan struct{}), make(chan struct{})
	b.end(func(context.Context, []byte, func()) error {
		close(arrived)
		<-refuse
		return &jetstream.APIError{Code: 400, ErrorCode: 1, Description: "refused"}
	})
	if err := l.enqueue(&ticket{rec: aRecord(1, stateIdle, 1)}); err != nil {
		t.Fatal(err)
	}
	<-arrived
	l.settled(key{seq: 1, at: 1})
	b.end(nil)
	close(refuse)
	if err := l.close(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	if puts, _, _ := b.counts(); puts != 1 || len(l.entries) != 0 {
		t.Errorf("%d puts and %d updates known, want 1 and none", puts, len(l.entries))
	}
}

// A copy of a message whose answer was late may be stored long after it was sent again.
func TestALateCopyOverwritesNothing(t *testing.T) {
	b := newFakeBucket()
	l := aLedger(t, b)
	var late []func()
	b.end(func(_ context.Context, _ []byte, store func()) error {
		if len(late) == 0 {
			late = append(late, store)
			return errNoAnswer
		}
		store()
		return nil
	})
	l.mustStore(t, aRecord(1, stateSending, 1))
	l.settled(key{seq: 1, at: 1})
	for seq := range uint64(20) {
		l.mustStore(t, aRecord(100+seq, stateSending, 1))
	}
	late[0]()
	if left := b.snapshot(t); len(left) != 21 {
		t.Errorf("%d records are there, want 21: the late copy took a slot that was in use", len(left))
	}
}

func TestASlotOfALateCopyIsUsedAgainInTheEnd(t *testing.T) {
	var s slots
	now := time.Now()
	first := s.take(now)
	s.done(first, true, now)
	if second := s.take(now); second == first {
		t.Error("used again at once")
	}
	if third := s.take(now.Add(slotRest - 1)); third == first {
		t.Error("used again too early")
	}
	if fourth := s.take(now.Add(slotRest)); fourth != first {
		t.Error("never used again")
	}
}

func TestNobodyWaitsLongerThanHisContextOrTheLease(t *testing.T) {
	b := newFakeBucket()
	l := aLedger(t, b)
	open := b.gate()
	for n := range 2 { // These two are on their way; what comes after them is pending.
		pause(t.Context(), 2*slowCommit)
		if err := l.enqueue(&ticket{rec: aRecord(99, stateIdle, 1)}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a commit on its way", func() bool { puts, _, _ := b.counts(); return puts == n+1 })
	}

	reason := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(reason)
	if err := l.store(ctx, aRecord(1, stateSending, 1), nil); !errors.Is(err, reason) {
		t.Errorf("got %v, want the context's cause", err)
	}
	lost := make(chan struct{})
	close(lost)
	if err := l.store(t.Context(), aRecord(2, stateSending, 1), lost); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("got %v, want ErrLeaseLost", err)
	}
	open()
	if err := l.close(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	if left := b.snapshot(t); len(left) != 1 {
		t.Errorf("%v is there: nobody waited for the records of 1 and 2", left)
	}
	if err := l.store(t.Context(), aRecord(3, stateSending, 1), nil); !errors.Is(err, errLedgerClosed) {
		t.Errorf("got %v, want errLedgerClosed", err)
	}
}

func TestClosingGivesUpWhenItsContextEnds(t *testing.T) {
	b := newFakeBucket()
	l := aLedger(t, b)
	b.end(func(ctx context.Context, _ []byte, _ func()) error { <-ctx.Done(); return ctx.Err() })
	if err := l.enqueue(&ticket{rec: aRecord(1, stateIdle, 1)}); err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error)
	go func() { waiting <- l.store(t.Context(), aRecord(2, stateSending, 1), nil) }()
	eventually(t, "both on their way", func() bool { return l.holds(2) })
	begin := time.Now()
	err := l.close(within(t, 20*time.Millisecond))
	if err := <-waiting; !errors.Is(err, errTenureOver) {
		t.Errorf("who waited got %v, want errTenureOver", err)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want that it was not stored", err)
	}
	if took := time.Since(begin); took > 9*time.Second { // Less than one write may take.
		t.Errorf("it took %s", took)
	}
}

func TestARefusedRecordSaysWhy(t *testing.T) {
	b := newFakeBucket()
	l := aLedger(t, b)
	l.cfg.Patience = 200 * time.Millisecond
	for want, answer := range map[Refusal]error{
		RefusedByStream: &jetstream.APIError{Code: 503, ErrorCode: codeStreamStoreFailed, Description: "full"},
		RefusedMessage:  nats.ErrMaxPayload,
		RefusedForNow:   errNoAnswer,
	} {
		b.end(func(context.Context, []byte, func()) error { return answer })
		err := l.store(t.Context(), aRecord(1, stateSending, 1), nil)
		p, ok := errors.AsType[*PublishError](err)
		if !ok || p.Refusal != want || !errors.Is(err, answer) || !strings.HasPrefix(p.Subject, "$KV.KEX_LEDGER.0.1.w.") {
			t.Errorf("%v is %v, want refusal %v with the subject", answer, err, want)
		}
	}
	b.end(nil)
	l.mustStore(t, aRecord(1, stateSending, 1))
}
