package journal

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/topology"
)

// faultyStore is KEX_CONTROL behind a bad network. Each update asks what shall become of it.
type faultyStore struct {
	leaseStore
	// how gets what would do the update; nil means that it is done.
	how atomic.Pointer[func(ctx context.Context, do func(context.Context) (uint64, error)) (uint64, error)]
}

func (s *faultyStore) end(how func(ctx context.Context, do func(context.Context) (uint64, error)) (uint64, error)) {
	if how == nil {
		s.how.Store(nil)
		return
	}
	s.how.Store(&how)
}

func (s *faultyStore) update(ctx context.Context, key string, value any, revision uint64) (uint64, error) {
	do := func(ctx context.Context) (uint64, error) { return s.leaseStore.update(ctx, key, value, revision) }
	if how := s.how.Load(); how != nil {
		return (*how)(ctx, do)
	}
	return do(ctx)
}

func (s *faultyStore) create(ctx context.Context, key string, value any) (uint64, error) {
	do := func(ctx context.Context) (uint64, error) { return s.leaseStore.create(ctx, key, value) }
	if how := s.how.Load(); how != nil {
		return (*how)(ctx, do)
	}
	return do(ctx)
}

// fastLeases passes leases on four times as fast as the real ones.
func fastLeases(tb testing.TB, serverURL, replica string) (*Leases, *faultyStore) {
	tb.Helper()
	l := NewLeases(connect(tb, serverURL), replica, discard())
	l.timing = leaseTiming{
		renew: 100 * time.Millisecond, valid: time.Second, stale: 1400 * time.Millisecond,
		poll: 25 * time.Millisecond, call: 200 * time.Millisecond,
	}
	store := &faultyStore{leaseStore: l.store}
	l.store = store
	return l, store
}

// leaseServer is a server with the topology.
func leaseServer(tb testing.TB) string {
	tb.Helper()
	return setUp(tb, topology.Options{}).Conn().ConnectedUrl()
}

func (l *Leases) mustCampaign(tb testing.TB) *Lease {
	tb.Helper()
	lease, err := l.Campaign(within(tb, time.Minute), 0)
	if err != nil {
		tb.Fatalf("Campaign: %v", err)
	}
	tb.Cleanup(func() { lease.die() })
	return lease
}

// die ends a holder as kill -9 does: nothing is renewed or released.
func (l *Lease) die() {
	l.stop()
	<-l.done
}

func mustRelease(tb testing.TB, lease *Lease) {
	tb.Helper()
	if err := lease.Release(within(tb, time.Minute)); err != nil {
		tb.Fatalf("Release: %v", err)
	}
	if lease.Held() {
		tb.Error("held after Release")
	}
}

func wantLost(tb testing.TB, lease *Lease, soon time.Duration) {
	tb.Helper()
	select {
	case <-lease.Lost():
	case <-time.After(soon):
		tb.Fatalf("not lost after %s", soon)
	}
	if lease.Held() {
		tb.Error("lost and held")
	}
}

// noAnswer does the update and loses the answer.
func noAnswer(ctx context.Context, do func(context.Context) (uint64, error)) (uint64, error) {
	_, _ = do(ctx)
	return 0, errNoAnswer
}

// blocked never reaches the server.
func blocked(ctx context.Context, _ func(context.Context) (uint64, error)) (uint64, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

func TestTheLeaseOutlastsTheCandidate(t *testing.T) {
	for name, timing := range map[string]leaseTiming{"real": defaultLeaseTiming()} {
		if timing.stale < timing.valid+timing.renew/2 {
			t.Errorf("%s: a record is stale after %s although its holder may send for %s", name, timing.stale, timing.valid)
		}
		if 3*(timing.renew+timing.call) > 2*timing.valid {
			t.Errorf("%s: one renewal without an answer loses the lease", name)
		}
	}
}

func TestAReleasedLeaseIsTakenAtOnce(t *testing.T) {
	t.Parallel()
	url := leaseServer(t)
	js := connect(t, url)
	a, b := NewLeases(js, "a", discard()), NewLeases(js, "b", discard()) // With the real times.
	holder, waiting := a, b
	first := holder.mustCampaign(t)
	if !first.Held() || first.Epoch() != 1 || first.Partition() != 0 {
		t.Errorf("got epoch %d of partition %d, held %v", first.Epoch(), first.Partition(), first.Held())
	}
	var second *Lease
	promised(t, "handed over", time.Second, func() time.Duration {
		taken := make(chan *Lease, 1)
		go func() {
			lease, err := waiting.Campaign(within(t, time.Minute), 0)
			if err != nil {
				t.Error(err)
			}
			taken <- lease
		}()
		select {
		case <-taken:
			t.Fatal("taken while it was held")
		case <-time.After(600 * time.Millisecond):
		}
		begin := time.Now()
		mustRelease(t, first)
		second = <-taken
		took := time.Since(begin)
		if second == nil || !second.Held() || second.Epoch() != first.Epoch()+1 {
			t.Fatalf("the second lease is %+v", second)
		}
		t.Cleanup(second.die)
		wantLost(t, first, time.Second)
		mustRelease(t, first) // Again, and although it is somebody else's now.
		if !second.Held() {
			t.Error("a second Release took the lease from its next holder")
		}
		first, holder, waiting = second, waiting, holder
		return took
	})
	mustRelease(t, second)
	if third := holder.mustCampaign(t); third.Epoch() != second.Epoch()+1 {
		t.Errorf("epoch %d after %d", third.Epoch(), second.Epoch())
	}
}

// promised holds the leases to a time, as the integration tests do the relay: each try makes the moment anew, and one that
// is late is the machine's, which is busy with something else for a while, only if both of two more are in time.
func promised(t *testing.T, what string, limit time.Duration, try func() time.Duration) {
	t.Helper()
	var took []time.Duration
	for n := range 3 {
		took = append(took, try())
		switch late := took[n] > limit; {
		case late && n > 0:
			t.Errorf("%s after %v, want within %v, and after one that is late twice", what, took, limit)
			return
		case !late && n == 0:
			return
		}
	}
}

func TestADeadHoldersLeaseIsTakenWhenItWasSeenUnchangedForLong(t *testing.T) {
	t.Parallel()
	url := leaseServer(t)
	js := connect(t, url)
	a, b := NewLeases(js, "same name", discard()), NewLeases(js, "same name", discard()) // With the real times.
	dying, next := a, b
	first := dying.mustCampaign(t)
	promised(t, "taken", 7*time.Second, func() time.Duration {
		first.die()
		begin := time.Now()
		second := next.mustCampaign(t)
		took := time.Since(begin)
		if took < 5*time.Second {
			t.Errorf("taken after %s, want at least 5 s", took)
		}
		if first.Held() || second.Epoch() != first.Epoch()+1 {
			t.Errorf("the first is held: %v, the second has epoch %d", first.Held(), second.Epoch())
		}
		first, dying, next = second, next, dying
		return took
	})
}

// The age of a record says nothing to a candidate that has just come: only what it has watched itself counts.
func TestACandidateWatchesTheRecordItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom()
		a, _ := r.leases("a")
		a.mustCampaign(t).die()
		pause(t.Context(), 2*a.timing.stale)
		b, _ := r.leases("b")
		begin := time.Now()
		b.mustCampaign(t)
		if took := time.Since(begin); took != b.timing.stale {
			t.Errorf("taken after %s, want %s", took, b.timing.stale)
		}
	})
}

func TestALeaseIsKeptWhileItIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom()
		a, _ := r.leases("a")
		b, _ := r.leases("b")
		lease := a.mustCampaign(t)
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Hour, errors.New("waited enough"))
		defer cancel()
		if other, err := b.Campaign(ctx, 0); err == nil || !strings.Contains(err.Error(), "waited enough") || other != nil {
			t.Errorf("got %v, %v, want the context's cause", other, err)
		}
		if !lease.Held() {
			t.Error("lost although it was renewed")
		}
		if other, err := b.Campaign(within(t, 5*time.Second), 1); err != nil {
			t.Errorf("another partition: %v", err)
		} else {
			other.die()
		}
	})
}

func TestALeaseWithoutRenewalsIsLostBeforeItIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom()
		a, store := r.leases("a")
		b, _ := r.leases("b")
		for range 3 {
			first := a.mustCampaign(t)
			store.end(blocked)
			var end atomic.Int64
			var watch sync.WaitGroup
			watch.Go(func() {
				for first.Held() {
					end.Store(int64(b.clock()))
					pause(t.Context(), time.Millisecond)
				}
			})
			second := b.mustCampaign(t)
			taken := b.clock()
			watch.Wait()
			// A candidate sees a renewal not before it is sent.
			if gap := taken - time.Duration(end.Load()); gap < time.Second {
				t.Errorf("taken %s after it was last held, want at least the second between 4 and 5", gap)
			}
			wantLost(t, first, time.Second)
			store.end(nil)
			mustRelease(t, second)
		}
	})
}

// A process that was stopped and continues must not send before its first renewal, whatever its timers do first.
func TestAFrozenHolderIsNotHolderWhenItGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom()
		a, _ := r.leases("a")
		var frozen atomic.Int64
		clock := a.clock
		a.clock = func() time.Duration { return clock() + time.Duration(frozen.Load()) }
		lease := a.mustCampaign(t)
		if !lease.Held() {
			t.Fatal("not held")
		}
		frozen.Store(int64(a.timing.valid))
		if lease.Held() {
			t.Error("held after it was frozen")
		}
		frozen.Store(0) // Even a clock that could go back would not help.
		pause(t.Context(), 3*a.timing.renew)
		wantLost(t, lease, time.Second)
	})
}

func TestTheBootClockGoesForward(t *testing.T) {
	clock := bootClock()
	begin, boot := time.Now(), clock()
	pause(t.Context(), 20*time.Millisecond)
	if went, want := clock()-boot, time.Since(begin); went < 20*time.Millisecond || went > want+time.Second {
		t.Errorf("it went %s in %s", went, want)
	}
}
