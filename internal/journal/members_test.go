package journal

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"kexrelay/internal/topology"
)

// memberLeases are leases of processes that must not be taken for dead because a machine stands still for a second or two.
func memberLeases(tb testing.TB, serverURL, replica string) (*Leases, *faultyStore) {
	tb.Helper()
	l, store := fastLeases(tb, serverURL, replica)
	l.timing = leaseTiming{
		renew: 300 * time.Millisecond, valid: 3 * time.Second, stale: 4200 * time.Millisecond,
		poll: 50 * time.Millisecond, call: time.Second,
	}
	return l, store
}

// runMembers registers a process until the test ends, or die ends it as kill -9 does.
func runMembers(tb testing.TB, leases *Leases) (m *Members, die func()) {
	tb.Helper()
	m = NewMembers(leases, Replica{Host: "host of " + leases.replica, PID: 7, Version: "v1", StartedAt: time.Now()})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { m.Watch(ctx) })
	running.Go(func() { m.Run(ctx) })
	die = func() {
		cancel()
		running.Wait()
		<-m.beaten
	}
	tb.Cleanup(die)
	return m, die
}

// awaitFleet waits until what is seen is as wanted.
func awaitFleet(tb testing.TB, m *Members, what string, wanted func(Fleet) bool) {
	tb.Helper()
	var fleet Fleet
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		var ok bool
		if fleet, ok = m.Look(2); ok && wanted(fleet) {
			return
		}
		pause(tb.Context(), 5*time.Millisecond)
	}
	tb.Fatalf("not seen: %s; but %+v", what, fleet)
}

func alive(leases ...*Leases) func(Fleet) bool {
	var want []string
	for _, l := range leases {
		want = append(want, l.process)
	}
	slices.Sort(want)
	return func(f Fleet) bool { return slices.Equal(f.Live, want) }
}

func TestReplicasSeeEachOtherComeAndGo(t *testing.T) {
	t.Parallel()
	url := leaseServer(t)
	a, _ := memberLeases(t, url, "a")
	b, _ := memberLeases(t, url, "b")
	c, _ := memberLeases(t, url, "c")
	ma, _ := runMembers(t, a)
	awaitFleet(t, ma, "itself", alive(a))
	mb, _ := runMembers(t, b)
	_, kill := runMembers(t, c)
	awaitFleet(t, ma, "all three", alive(a, b, c))
	awaitFleet(t, mb, "all three", alive(a, b, c))
	begin := time.Now()
	kill()
	awaitFleet(t, ma, "the one that died", alive(a, b))
	if took := time.Since(begin); took < a.timing.stale-2*a.timing.renew {
		t.Errorf("taken for dead after %v", took)
	}
	begin = time.Now()
	if err := mb.Leave(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	awaitFleet(t, ma, "the one that left", alive(a))
	if took := time.Since(begin); took > a.timing.stale {
		t.Errorf("seen after %v, want at once", took)
	}
	if _, ok := mb.Look(2); ok {
		t.Error("who left still decides")
	}
}

func TestLeasesAreTakenByWhatIsSeen(t *testing.T) {
	t.Parallel()
	url := leaseServer(t)
	a, _ := memberLeases(t, url, "a")
	b, _ := memberLeases(t, url, "b")
	ma, _ := runMembers(t, a)
	mb, _ := runMembers(t, b)
	awaitFleet(t, ma, "both", alive(a, b))
	awaitFleet(t, mb, "both", alive(a, b))
	lease, err := ma.Take(t.Context(), 0)
	if err != nil || lease == nil {
		t.Fatalf("got %v, %v", lease, err)
	}
	t.Cleanup(lease.die)
	awaitFleet(t, mb, "the holder", func(f Fleet) bool { return f.Partitions[0].Holder == a.process })
	if other, err := mb.Take(t.Context(), 0); other != nil || err != nil {
		t.Errorf("taken from its holder: %v, %v", other, err)
	}
	mustRelease(t, lease)
	awaitFleet(t, mb, "the release", func(f Fleet) bool { return f.Partitions[0].Holder == "" && !f.Partitions[0].Own })
	awaitFleet(t, ma, "the release", func(f Fleet) bool { return f.Partitions[0].Holder == "" && !f.Partitions[0].Own })
	second, err := mb.Take(t.Context(), 0)
	if err != nil || second == nil || second.Epoch() != 2 {
		t.Fatalf("got %v, %v", second, err)
	}
	// Else what is seen may still be the release.
	awaitFleet(t, ma, "the second holder", func(f Fleet) bool { return f.Partitions[0].Holder == b.process })
	second.die()
	awaitFleet(t, ma, "the stale lease", func(f Fleet) bool { return f.Partitions[0].Holder == "" })
	third, err := ma.Take(t.Context(), 0)
	if err != nil || third == nil || third.Epoch() != 3 {
		t.Fatalf("got %v, %v", third, err)
	}
	third.die()
}

// A process that cannot take part yet, because a cluster that has lost a server does not let it verify its topology, watches
// all the same: what is stale by then it need not wait for.
func TestWhatIsSeenBeforeTakingPartCounts(t *testing.T) {
	t.Parallel()
	url := leaseServer(t)
	a, _ := memberLeases(t, url, "a")
	b, _ := memberLeases(t, url, "b")
	_, dieA := runMembers(t, a)
	lease := a.mustCampaign(t)
	mb := NewMembers(b, Replica{})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { mb.Watch(ctx) })
	for seen := uint64(0); seen == 0; seen = mb.view.sightingOf(0).revision {
		pause(within(t, time.Minute), 5*time.Millisecond)
	}
	lease.die()
	dieA()
	for b.clock()-mb.view.sightingOf(0).since < b.timing.stale {
		if _, ok := mb.Look(2); ok {
			t.Fatal("it decides without taking part")
		}
		pause(t.Context(), 5*time.Millisecond)
	}
	begin := b.clock()
	running.Go(func() { mb.Run(ctx) })
	awaitFleet(t, mb, "the stale lease", func(f Fleet) bool { return f.Partitions[0].Holder == "" })
	took := b.clock() - begin
	if took < mb.view.settle() {
		t.Errorf("free after %v, before a living holder had the time to speak", took)
	}
	if took >= b.timing.stale {
		t.Errorf("free after %v: it was watched anew", took)
	}
	again, err := mb.Take(t.Context(), 0)
	if err != nil || again == nil || again.Epoch() != 2 {
		t.Fatalf("got %v, %v", again, err)
	}
	again.die()
}

// However many processes come and go, their slots are used again; whoever lost its slot takes another one.
func TestSlotsAreUsedAgain(t *testing.T) {
	t.Parallel()
	url := leaseServer(t)
	js := connect(t, url)
	kv, err := js.KeyValue(t.Context(), topology.BucketControl)
	if err != nil {
		t.Fatal(err)
	}
	slots := func() []string {
		keys, err := kv.ListKeysFiltered(t.Context(), replicaPrefix+">")
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for key := range keys.Keys() {
			all = append(all, key)
		}
		slices.Sort(all)
		return all
	}
	// An answer that is late is no lost one: whose answer is lost may take another slot, and leaves one behind.
	patient := func(replica string) *Leases {
		l, _ := memberLeases(t, url, replica)
		l.timing.call = time.Minute
		return l
	}
	a := patient("a")
	ma, _ := runMembers(t, a)
	awaitFleet(t, ma, "itself", alive(a))
	for range 5 {
		l := patient("b")
		m, die := runMembers(t, l)
		awaitFleet(t, ma, "the other", alive(a, l))
		if err := m.Leave(within(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
		die()
	}
	if got := slots(); !slices.Equal(got, []string{"replica.0", "replica.1"}) {
		t.Errorf("slots %v after five that came and went", got)
	}
	if _, err := kv.PutString(t.Context(), "replica.0", `{"process":"somebody"}`); err != nil {
		t.Fatal(err)
	}
	b := patient("b")
	mb, _ := runMembers(t, b)
	awaitFleet(t, mb, "the one that lost its slot", alive(a, b))
	if got := slots(); len(got) > 3 {
		t.Errorf("slots %v", got)
	}
}

func TestARegistrationOutlivesLostAnswers(t *testing.T) {
	t.Parallel()
	url := leaseServer(t)
	a, store := memberLeases(t, url, "a")
	b, _ := memberLeases(t, url, "b")
	mb, _ := runMembers(t, b)
	store.end(noAnswer)
	ma, _ := runMembers(t, a)
	awaitFleet(t, mb, "the other, whose answers are lost", alive(a, b))
	store.end(nil)
	awaitFleet(t, ma, "both", alive(a, b))
	replicas, err := b.Replicas(t.Context())
	if err != nil || len(replicas) != 2 {
		t.Errorf("%d replicas, %v: %+v", len(replicas), err, replicas)
	}
}

func TestReplicasAreListed(t *testing.T) {
	t.Parallel()
	url := leaseServer(t)
	a, _ := memberLeases(t, url, "name")
	b, _ := memberLeases(t, url, "name")
	if replicas, err := a.Replicas(t.Context()); err != nil || len(replicas) > 0 {
		t.Errorf("%v, %v, want none", replicas, err)
	}
	ma, die := runMembers(t, a)
	mb, _ := runMembers(t, b)
	awaitFleet(t, ma, "both", alive(a, b))
	if err := mb.Leave(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	die()
	pause(t.Context(), 300*time.Millisecond)
	replicas, err := a.Replicas(t.Context())
	if err != nil || len(replicas) != 1 {
		t.Fatalf("%+v, %v, want the one that did not leave", replicas, err)
	}
	r := replicas[0]
	if r.Process != a.process || r.Name != "name" || r.Host != "host of name" || r.PID != 7 || r.Version != "v1" || r.StartedAt.IsZero() {
		t.Errorf("got %+v", r)
	}
	if r.SilentFor < 200*time.Millisecond || r.SilentFor > 10*time.Second {
		t.Errorf("silent for %v", r.SilentFor)
	}
}
