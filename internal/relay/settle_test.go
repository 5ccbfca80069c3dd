package relay

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// slowJournal confirms what was begun when a test says so.
type slowJournal struct {
	fakeJournal

	mu    sync.Mutex
	begun []func(error)
}

func (j *slowJournal) Begin(_ *update.Settlement, done func(error)) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.begun = append(j.begun, done)
	return true
}

func (j *slowJournal) answer(err error) {
	j.mu.Lock()
	begun := slices.Clone(j.begun)
	j.begun = nil
	j.mu.Unlock()
	for _, done := range begun {
		done(err)
	}
}

// startSlow is start with a journal that confirms late.
func startSlow(t *testing.T, concurrency int) (*bench, *slowJournal) {
	t.Helper()
	journal := &slowJournal{}
	b := startWith(t, &fakeAPI{}, journal, func(c *Config) { c.Concurrency = concurrency })
	return b, journal
}

// While a result is on its way, its worker goes on with another Vorgang; the same Vorgang's next update waits.
func TestAWorkerDoesNotWaitForAResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, journal := startSlow(t, 1)
		first, next, other := comments(1, "1"), comments(2, "1"), comments(3, "2")
		b.Accept(first)
		b.Accept(next)
		synctest.Wait()
		b.Accept(other)
		synctest.Wait()
		if sent := b.api.requests(); len(sent) != 2 || sent[1].vorgang != "2" {
			t.Fatalf("requests %+v, want one of Vorgang 1, then one of 2", sent)
		}
		if isClosed(first.acked) {
			t.Fatal("acked before its result was confirmed")
		}
		journal.answer(nil)
		<-first.acked
		<-other.acked // Beyond the first one, a worker waits for its own result.
		synctest.Wait()
		journal.answer(nil)
		<-next.acked
	})
}

// No more settlements are open without a worker than there are workers.
func TestRequestsDoNotRunAheadOfResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, journal := startSlow(t, 2)
		journal.refuse = func(*update.Settlement) error {
			return &fault.Error{Kind: fault.Systemic, Reason: fault.Storage, Detail: "no answer"}
		}
		var all []*fakeDelivery
		for i := range 10 {
			d := comments(uint64(i+1), string(rune('1'+i)))
			all = append(all, d)
			b.Accept(d)
		}
		time.Sleep(time.Minute)
		if sent := len(b.api.requests()); sent > 4 {
			t.Errorf("%d requests while no result was confirmed, want at most 4", sent)
		}
		journal.fakeJournal.mu.Lock()
		journal.refuse = nil
		journal.fakeJournal.mu.Unlock()
		for range 10 {
			journal.answer(nil)
			time.Sleep(time.Minute)
		}
		for _, d := range all {
			<-d.acked
		}
	})
}

// A result of which nobody knows whether it was stored is written again, and only then is the update acked; nothing is
// sent again.
func TestAResultThatIsUnsureIsWrittenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, journal := startSlow(t, 4)
		d := comments(1, "1")
		b.Accept(d)
		synctest.Wait()
		journal.answer(errors.New("no answer in time"))
		<-d.acked
		if n := journal.count(update.Delivered); n != 1 || len(b.api.requests()) != 1 {
			t.Errorf("settled %d times after %d requests", n, len(b.api.requests()))
		}
	})
}

// The relay ends only when every result that was begun has its answer.
func TestRunWaitsForResultsOnTheirWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, journal := startSlow(t, 4)
		d := comments(1, "1")
		b.Accept(d)
		synctest.Wait()
		b.stop()
		synctest.Wait()
		if isClosed(b.done) {
			t.Fatal("ended while a result was on its way")
		}
		journal.answer(nil)
		<-b.done
		if !isClosed(d.acked) {
			t.Error("not acked")
		}
	})
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
