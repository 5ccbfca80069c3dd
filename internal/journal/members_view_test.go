package journal

import (
	"slices"
	"testing"
	"time"
)

// scene is a view with a clock of its own.
type scene struct {
	*view
	now      time.Duration
	revision uint64
	own      map[int]standing
}

func newScene() *scene {
	v := newView("me", defaultLeaseTiming())
	return &scene{view: &v, own: map[int]standing{}, now: time.Hour}
}

func (s *scene) seen() sighting {
	s.revision++
	return sighting{revision: s.revision, since: s.now}
}

func (s *scene) replica(slot int, process string) {
	s.sawReplica(slot, s.seen(), replicaRecord{Replica: Replica{Process: process}})
}

func (s *scene) gone(slot int, process string) {
	s.sawReplica(slot, s.seen(), replicaRecord{Replica: Replica{Process: process}, Gone: true})
}

func (s *scene) lease(partition int, process string) {
	s.sawLease(partition, s.seen(), leaseRecord{Process: process, Epoch: 1}, false)
}

func (s *scene) free(partition int, process string) {
	s.sawLease(partition, s.seen(), leaseRecord{Process: process, Epoch: 1, Released: true}, true)
}

// pass lets time pass in which this process and the named ones beat, and those who hold renew.
func (s *scene) pass(d time.Duration, alive ...func()) {
	for ; d > 0; d -= time.Second {
		s.now += min(d, time.Second)
		s.replica(0, "me")
		for _, beat := range alive {
			beat()
		}
	}
}

func (s *scene) look() (Fleet, bool) {
	return s.view.look(s.now, 2, func(partition int) standing { return s.own[partition] })
}

func (s *scene) wantLive(t *testing.T, live ...string) {
	t.Helper()
	fleet, ok := s.look()
	if !ok || !slices.Equal(fleet.Live, live) {
		t.Errorf("alive are %v (%v), want %v", fleet.Live, ok, live)
	}
}

func (s *scene) wantHeld(t *testing.T, partition int, want Held) {
	t.Helper()
	fleet, ok := s.look()
	if !ok || fleet.Partitions[partition] != want {
		t.Errorf("partition %d: %+v (%v), want %+v", partition, fleet.Partitions[partition], ok, want)
	}
}

func TestNothingIsDecidedBeforeOneSeesOneself(t *testing.T) {
	s := newScene()
	s.free(0, "x")
	if _, ok := s.look(); ok {
		t.Error("something to decide by, although more may come")
	}
	s.replica(0, "me")
	s.wantLive(t, "me")
	s.wantHeld(t, 0, Held{})
	s.wantHeld(t, 1, Held{FreeFor: 0}) // Never held by anybody.
}

func TestOnlyWhoBeatsLives(t *testing.T) {
	s := newScene()
	s.replica(1, "dead before we came")
	s.replica(2, "x")
	s.replica(0, "me")
	s.wantLive(t, "me")
	x := func() { s.replica(2, "x") }
	s.pass(time.Second, x)
	s.wantLive(t, "me", "x")
	s.replica(3, "y") // It came after us: no need to wait for a second beat.
	s.wantLive(t, "me", "x", "y")
	s.gone(3, "y")
	s.wantLive(t, "me", "x")
	s.replica(3, "z")
	s.wantLive(t, "me", "x", "z") // In a slot that somebody left.
	s.pass(5*time.Second-1, x)
	s.wantLive(t, "me", "x", "z")
	s.pass(1, x)
	s.wantLive(t, "me", "x")
}

// Leases of one process do not become stale in the same moment. Between them what was taken of it must not be handed over to
// it again.
func TestWhoLetOneLeaseBecomeStaleIsDeadUntilItIsHeardOf(t *testing.T) {
	s := newScene()
	s.replica(0, "me")
	s.lease(0, "x")
	s.now += 100 * time.Millisecond
	s.replica(1, "x")
	s.lease(1, "x")
	s.pass(5*time.Second - 100*time.Millisecond)
	s.wantHeld(t, 0, Held{})
	s.wantHeld(t, 1, Held{Holder: "x"})
	s.wantLive(t, "me")
	s.lease(0, "me")
	s.wantLive(t, "me")
	s.replica(1, "x") // It goes on.
	s.wantLive(t, "me", "x")
	s.pass(5 * time.Second)
	s.wantLive(t, "me")
}

func TestAStaleLeaseIsFreeAndItsHolderDead(t *testing.T) {
	s := newScene()
	s.replica(0, "me")
	s.replica(1, "x")
	s.lease(0, "x")
	s.pass(5*time.Second-1, func() { s.replica(1, "x") })
	s.wantHeld(t, 0, Held{Holder: "x"})
	s.now++ // Its replica's record is younger: it must not count until that is stale too.
	s.wantHeld(t, 0, Held{})
	s.wantLive(t, "me")
	s.pass(time.Second)
	s.wantHeld(t, 0, Held{FreeFor: time.Second})
	s.lease(0, "y")
	s.wantHeld(t, 0, Held{Holder: "y"})
	s.free(0, "y")
	s.pass(2 * time.Second)
	s.wantHeld(t, 0, Held{FreeFor: 2 * time.Second})
}

// Whoever was cut off, or frozen, or whose NATS was away, cannot know when it goes on whether the others could have been
// heard: NATS may have been away for them too. Nobody is taken for dead before who lives has had the time to say so.
func TestOwnSilenceIsNotTheirs(t *testing.T) {
	s := newScene()
	s.replica(0, "me")
	s.replica(1, "x")
	s.replica(2, "y")
	s.lease(0, "x")
	s.lease(1, "y")
	s.now += s.gap() + 1
	if _, ok := s.look(); ok {
		t.Error("something to decide by although our own beats are missing")
	}
	s.now += time.Minute
	s.replica(0, "me")
	s.wantLive(t, "me", "x", "y")
	s.wantHeld(t, 0, Held{Holder: "x"})
	s.pass(s.settle() - 1)
	s.wantHeld(t, 0, Held{Holder: "x"})
	s.lease(1, "y") // It lives.
	s.replica(2, "y")
	s.pass(1)
	s.wantHeld(t, 0, Held{})
	s.wantHeld(t, 1, Held{Holder: "y"})
	s.wantLive(t, "me", "y")
}

// A cluster may lose one server after the other and never have a leader for the whole 5 s in between. A lease that was
// unchanged all that time is stale at the first moment in which a living holder would have spoken: were its silence
// counted anew each time, a dead holder would keep its partitions for as long as it goes on.
func TestAnOutageDoesNotMakeALeaseYounger(t *testing.T) {
	s := newScene()
	s.replica(0, "me")
	s.replica(1, "x")
	s.lease(0, "x")
	for range 5 {
		s.pass(s.settle() - 1)
		s.wantHeld(t, 0, Held{Holder: "x"})
		s.now += s.gap() + time.Second // No leader.
		s.replica(0, "me")
	}
	s.pass(s.settle())
	s.wantHeld(t, 0, Held{})
	s.wantLive(t, "me")
}

// What is stale must still have been seen unchanged for 5 s: a short outage makes no lease older than it is.
func TestAnOutageDoesNotMakeALeaseOlder(t *testing.T) {
	s := newScene()
	s.replica(0, "me")
	s.pass(time.Second)
	s.now += s.gap() + 1
	s.replica(0, "me")
	s.replica(1, "x")
	s.lease(0, "x")
	s.pass(5*time.Second - 1)
	s.wantHeld(t, 0, Held{Holder: "x"})
	s.pass(1)
	s.wantHeld(t, 0, Held{})
}

func TestRecordsReadAgainAreNotNews(t *testing.T) {
	s := newScene()
	s.replica(0, "me")
	lease := s.seen()
	record := leaseRecord{Process: "x"}
	s.sawLease(0, lease, record, false)
	for range 5 {
		s.pass(time.Second)
		s.sawLease(0, sighting{revision: lease.revision, since: s.now}, record, false)
	}
	s.wantHeld(t, 0, Held{})
	if got := s.sightingOf(0); got != lease {
		t.Errorf("seen %+v, want %+v", got, lease)
	}
}

func TestWhatOneKnowsOneselfIsNewerThanTheRecord(t *testing.T) {
	s := newScene()
	s.replica(0, "me")
	s.free(0, "x")
	s.own[0] = standing{held: true, epoch: 2}
	s.wantHeld(t, 0, Held{Holder: "me"}) // Taken, and the record is on its way.
	s.sawLease(0, s.seen(), leaseRecord{Process: "me", Epoch: 2}, false)
	s.own[0] = standing{epoch: 2}
	s.wantHeld(t, 0, Held{Own: true}) // Lost by expiry: nobody else can know yet.
	s.own[0] = standing{released: true, epoch: 2}
	s.wantHeld(t, 0, Held{}) // Released, and the record is on its way.
	s.sawLease(0, s.seen(), leaseRecord{Process: "me", Epoch: 3}, false)
	s.wantHeld(t, 0, Held{Own: true}) // The release of an earlier one says nothing about it.
	s.sawLease(0, s.seen(), leaseRecord{Process: "y", Epoch: 4}, false)
	s.wantHeld(t, 0, Held{Holder: "y"})
}

func TestWhoLeftTakesNothing(t *testing.T) {
	s := newScene()
	s.replica(0, "me")
	s.gone(0, "me")
	if _, ok := s.look(); ok {
		t.Error("something to decide by after the goodbye")
	}
}
