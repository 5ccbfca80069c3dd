package journal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

func TestALostAnswerDoesNotLoseTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom()
		a, store := r.leases("a")
		b, _ := r.leases("b")
		lease := a.mustCampaign(t)
		var lost atomic.Int64
		store.end(func(ctx context.Context, do func(context.Context) (uint64, error)) (uint64, error) {
			if lost.Add(1)%2 == 1 {
				return noAnswer(ctx, do)
			}
			return do(ctx) // Refused: the one before was stored.
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if other, err := b.Campaign(ctx, 0); err == nil {
			t.Errorf("epoch %d was taken from its holder", other.Epoch())
		}
		if !lease.Held() {
			t.Error("lost by lost answers")
		}
		if n := lost.Load(); n < 3600 {
			t.Errorf("%d renewals only: nothing was tested", n)
		}
		mustRelease(t, lease)
	})
}

// An answer that was read from the record counts from when that renewal was sent, not from the reading.
func TestARenewalFoundLaterCountsFromItsSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom()
		a, store := r.leases("a")
		a.timing.renew = time.Hour // By hand.
		lease := a.mustCampaign(t)
		lease.die()
		lease = &Lease{
			leases: a, epoch: lease.epoch, lost: make(chan struct{}), done: lease.done, stop: func() {},
			revision: lease.revision, beat: lease.beat, sent: map[uint64]time.Duration{},
		}
		var now time.Duration
		a.clock = func() time.Duration { return now }
		lease.until.Store(int64(a.timing.valid))

		now = 100 * time.Millisecond
		store.end(noAnswer)
		if err := lease.renewOnce(t.Context()); !errors.Is(err, errNoAnswer) {
			t.Fatalf("got %v, want no answer", err)
		}
		if until := lease.until.Load(); until != int64(a.timing.valid) {
			t.Errorf("held until %s by a renewal nobody has acknowledged", time.Duration(until))
		}
		now = 300 * time.Millisecond
		store.end(nil)
		if err := lease.renewOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if until, want := time.Duration(lease.until.Load()), 100*time.Millisecond+a.timing.valid; until != want {
			t.Errorf("held until %s, want %s", until, want)
		}
		now = 350 * time.Millisecond
		if err := lease.renewOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if until, want := time.Duration(lease.until.Load()), 350*time.Millisecond+a.timing.valid; until != want {
			t.Errorf("held until %s, want %s", until, want)
		}
		store.end(func(ctx context.Context, do func(context.Context) (uint64, error)) (uint64, error) {
			revision, err := do(ctx)
			now += 50 * time.Millisecond // The answer takes its time.
			return revision, err
		})
		if err := lease.renewOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		if until, want := time.Duration(lease.until.Load()), 350*time.Millisecond+a.timing.valid; until != want {
			t.Errorf("held until %s, want from the sending on: %s", until, want)
		}
		now = lease.remaining() + now // An acknowledgement that comes after the end changes nothing.
		lease.extend(now)
		if lease.Held() {
			t.Error("held again after it had ended")
		}
	})
}

func TestATakingWhoseAnswerWasLostIsFoundAtTheNextLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom()
		a, store := r.leases("a")
		a.timing.stale = time.Hour
		var lost atomic.Int64
		store.end(func(ctx context.Context, do func(context.Context) (uint64, error)) (uint64, error) {
			if lost.Add(1) <= 2 {
				return noAnswer(ctx, do)
			}
			return do(ctx)
		})
		lease := a.mustCampaign(t)
		if lease.Epoch() != 3 || !lease.Held() {
			t.Errorf("epoch %d, held %v, want 3 and true", lease.Epoch(), lease.Held())
		}
	})
}

func TestALeaseLostByExpiryIsTakenBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom()
		a, store := r.leases("a")
		a.timing.stale = time.Hour
		first := a.mustCampaign(t)
		store.end(blocked)
		wantLost(t, first, 5*time.Second)
		store.end(nil)
		second := a.mustCampaign(t)
		if second.Epoch() != first.Epoch()+1 || first.Held() || !second.Held() {
			t.Errorf("epochs %d and %d, held %v and %v", first.Epoch(), second.Epoch(), first.Held(), second.Held())
		}
		mustRelease(t, first) // The old one's is not the new one's.
		var there leaseRecord
		if _, err := r.get(t.Context(), leaseKey(0), &there); err != nil || there.Released || there.Epoch != second.Epoch() {
			t.Errorf("the record is %+v, %v: the release of a lost lease ended its successor", there, err)
		}
		if !second.Held() {
			t.Error("the release of a lost lease ended its successor")
		}
	})
}

func TestALeaseThatIsHeldIsNotTakenTwiceByOneProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom()
		a, _ := r.leases("a")
		a.mustCampaign(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if second, err := a.Campaign(ctx, 0); err == nil {
			t.Errorf("taken again as epoch %d", second.Epoch())
		}
	})
}

func TestAReleaseIsRepeatedUntilItIsStored(t *testing.T) {
	t.Parallel()
	url := leaseServer(t)
	a, store := fastLeases(t, url, "a")
	b, _ := fastLeases(t, url, "b")
	b.timing.stale = time.Hour
	for name, how := range map[string]func(n int64) bool{ // Which of the tries arrive.
		"answer lost":  func(int64) bool { return true },
		"request lost": func(int64) bool { return false },
		"all mixed up": func(n int64) bool { return n%2 == 0 },
	} {
		t.Run(name, func(t *testing.T) {
			lease := a.mustCampaign(t)
			var tries atomic.Int64
			store.end(func(ctx context.Context, do func(context.Context) (uint64, error)) (uint64, error) {
				n := tries.Add(1)
				switch {
				case n > 4:
					return do(ctx)
				case how(n):
					return noAnswer(ctx, do)
				}
				return 0, errNoAnswer
			})
			mustRelease(t, lease)
			store.end(nil)
			mustRelease(t, b.mustCampaign(t))
		})
	}
}

func TestAReleaseThatDoesNotArriveSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom()
		a, store := r.leases("a")
		lease := a.mustCampaign(t)
		store.end(blocked)
		begin := time.Now()
		if err := lease.Release(within(t, 300*time.Millisecond)); err == nil {
			t.Error("no error")
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("it took %s", took)
		}
		wantLost(t, lease, time.Second)
	})
}

func TestALeaseWhoseRecordWasRemovedIsLost(t *testing.T) {
	t.Parallel()
	url := leaseServer(t)
	js := connect(t, url)
	kv, err := js.KeyValue(t.Context(), topology.BucketControl)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(epoch uint64) error{
		"deleted": func(uint64) error { return kv.Delete(t.Context(), leaseKey(0)) },
		"overwritten": func(uint64) error {
			_, err := kv.PutString(t.Context(), leaseKey(0), "mine")
			return err
		},
		"taken": func(epoch uint64) error {
			_, err := kv.PutString(t.Context(), leaseKey(0), fmt.Sprintf(`{"process":"x","epoch":%d}`, epoch+1))
			return err
		},
		"taken in the same epoch": func(epoch uint64) error { // By a record from a backup.
			_, err := kv.PutString(t.Context(), leaseKey(0), fmt.Sprintf(`{"process":"x","epoch":%d}`, epoch))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := fastLeases(t, url, "a")
			lease := a.mustCampaign(t)
			if err := change(lease.Epoch()); err != nil {
				t.Fatal(err)
			}
			wantLost(t, lease, 5*time.Second)
			b, _ := fastLeases(t, url, "b")
			mustRelease(t, b.mustCampaign(t))
		})
	}
}

// Without its record an epoch would begin at 1 again, among the ledger's records of greater ones.
func TestEpochsGrowAlsoWithoutTheRecord(t *testing.T) {
	js := setUp(t, topology.Options{})
	kv, err := js.KeyValue(t.Context(), topology.BucketLedger)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"0.41.w.0", "0.7.w.1", "1.99.w.0", "0.x.w.0", "0.100"} {
		if _, err := kv.Put(t.Context(), k, nil); err != nil {
			t.Fatal(err)
		}
	}
	a := NewLeases(js, "a", discard())
	if lease := a.mustCampaign(t); lease.Epoch() != 42 {
		t.Errorf("epoch %d, want 42", lease.Epoch())
	}
}

func TestHoldersAreListed(t *testing.T) {
	url := leaseServer(t)
	a, _ := fastLeases(t, url, "a")
	b, _ := fastLeases(t, url, "b")
	begin := time.Now().Add(-time.Minute)
	for partition, l := range map[int]*Leases{10: a, 2: b} {
		lease, err := l.Campaign(within(t, 10*time.Second), partition)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(lease.die)
		if partition == 2 {
			mustRelease(t, lease)
		}
	}
	holders, err := a.Holders(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range holders {
		if holders[i].WrittenAt.Before(begin) {
			t.Errorf("written at %s", holders[i].WrittenAt)
		}
		if want := map[int]string{2: b.process, 10: a.process}[holders[i].Partition]; holders[i].Process != want {
			t.Errorf("partition %d is held by process %s, want %s", holders[i].Partition, holders[i].Process, want)
		}
		holders[i].WrittenAt, holders[i].Process = time.Time{}, ""
	}
	want := []Holder{{Partition: 2, Replica: "b", Epoch: 1, Released: true}, {Partition: 10, Replica: "a", Epoch: 1}}
	if diff := cmp.Diff(want, holders); diff != "" {
		t.Errorf("holders (-want +got):\n%s", diff)
	}
}

// TestNeverTwoHolders lets many candidates take, lose, release and take again over a network that loses requests and
// answers and delivers late: for hours on a bubble's clock, and as often as is worth it on a server.
func TestNeverTwoHolders(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Run("on a server", func(t *testing.T) {
		url := leaseServer(t)
		neverTwo(t, seed, time.Minute, 8, 500*time.Millisecond, func() (*Leases, *faultyStore) { return fastLeases(t, url, "a") })
	})
	t.Run("for long", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newRoom()
			neverTwo(t, seed, 12*time.Hour, 500, 10*time.Second, func() (*Leases, *faultyStore) { return r.leases("a") })
		})
	})
}

// neverTwo goes on until so many have held the lease, each at most for the longest time, and fails if they have not within
// the limit.
func neverTwo(t *testing.T, seed uint64, limit time.Duration, enough int64, longest time.Duration, replica func() (*Leases, *faultyStore)) {
	t.Helper()
	t.Logf("seed %d", seed)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var tenures atomic.Int64
	var epochs, holders sync.Map
	var all, late sync.WaitGroup
	for n := range uint64(4) {
		l, store := replica()
		store.end(badControl(seed+n, &late))
		random := rand.New(rand.NewPCG(seed, n))
		all.Go(func() {
			for ctx.Err() == nil {
				lease, err := l.Campaign(ctx, 0)
				if err != nil {
					continue
				}
				if tenures.Add(1) == enough {
					cancel()
				}
				if _, twice := epochs.LoadOrStore(lease.Epoch(), true); twice {
					t.Errorf("epoch %d was given twice", lease.Epoch())
				}
				holders.Store(lease, true)
				for until := time.Now().Add(time.Duration(random.Int64N(int64(longest)))); lease.Held() && ctx.Err() == nil && time.Now().Before(until); {
					// Whose lease has ended may not have noticed yet: each is asked, ours last, which then was held before too.
					holders.Range(func(other, _ any) bool {
						if other != lease && other.(*Lease).Held() && lease.Held() { //nolint:errcheck // Nothing else is in it.
							t.Error("two hold the lease")
						}
						return true
					})
					pause(ctx, longest/500)
				}
				if random.IntN(3) > 0 {
					_ = lease.Release(ctx)
				}
				lease.die()
				holders.Delete(lease)
			}
		})
	}
	all.Wait()
	late.Wait()
	if n := tenures.Load(); n < enough {
		t.Errorf("%d holders only: nothing was tested", n)
	}
}

// badControl loses a tenth of the requests and of the answers, and delivers a tenth late.
func badControl(seed uint64, late *sync.WaitGroup) func(context.Context, func(context.Context) (uint64, error)) (uint64, error) {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 1))
	return func(ctx context.Context, do func(context.Context) (uint64, error)) (uint64, error) {
		mu.Lock()
		fate, delay := random.IntN(10), time.Duration(random.IntN(2000))*time.Millisecond
		mu.Unlock()
		switch fate {
		case 0:
			return 0, errNoAnswer
		case 1:
			return noAnswer(ctx, do)
		case 2:
			later := context.WithoutCancel(ctx)
			late.Go(func() {
				pause(later, delay)
				_, _ = do(later)
			})
			return 0, errNoAnswer
		}
		return do(ctx)
	}
}

// A bucket whose leader has just died answers only what it is asked when it has the next one. A lease is taken in that
// moment: a question that got lost is put again long before it is given up.
func TestALeaseIsTakenAsSoonAsItsBucketHasALeader(t *testing.T) {
	t.Parallel()
	url := leaseServer(t)
	js := connect(t, url)
	var lost atomic.Bool
	if _, err := js.Conn().Subscribe("electing.>", func(m *nats.Msg) {
		subject := strings.TrimPrefix(m.Subject, "electing.")
		if strings.HasPrefix(subject, "STREAM.MSG.GET.") && lost.CompareAndSwap(false, true) {
			return
		}
		if !strings.HasPrefix(subject, "$KV.") { // The client puts the prefix before what it writes, too.
			subject = "$JS.API." + subject
		}
		if err := js.Conn().PublishMsg(&nats.Msg{Subject: subject, Reply: m.Reply, Header: m.Header, Data: m.Data}); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	electing, err := jetstream.NewWithAPIPrefix(js.Conn(), "electing")
	if err != nil {
		t.Fatal(err)
	}
	l := NewLeases(electing, "a", discard())
	l.timing.call = time.Minute // One question may wait for longer than the test.
	lease, err := l.try(within(t, 20*time.Second), 0, &sighting{})
	if err != nil || lease == nil {
		t.Fatalf("lease %v, error %v", lease, err)
	}
	if !lost.Load() {
		t.Error("no question got lost")
	}
	mustRelease(t, lease)
}
