package journal

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// Fleet is the replicas and partitions at one moment, as one of the replicas sees them.
type Fleet struct {
	// Me is the process that looks.
	Me string
	// Live are the processes that take part, in order, Me among them.
	Live []string
	// Partitions has all of them, by number.
	Partitions []Held
}

// Held is who has a partition.
type Held struct {
	// Holder is the process that holds the lease, empty if it may be taken.
	Holder string
	// FreeFor is how long it has been free under our eyes.
	FreeFor time.Duration
	// Own says that this process held it last and lost it without releasing it: nobody else may take it yet.
	Own bool
}

// standing is what this process itself knows about its last lease of a partition.
type standing struct {
	held, released bool
	epoch          uint64
}

func (l *Leases) standing(partition int) standing {
	l.mu.Lock()
	last := l.held[partition]
	l.mu.Unlock()
	if last == nil {
		return standing{}
	}
	return standing{held: last.Held(), released: last.released.Load(), epoch: last.epoch}
}

// view is what was seen of the records, by this process's clock.
type view struct {
	me     string
	timing leaseTiming

	mu       sync.Mutex
	leases   map[int]seenLease
	replicas map[int]seenReplica
	// beaten is when our own record was last seen: what was written before it has been seen too. steady is since when
	// our own beats have been coming without a gap; see silentFor.
	beaten, steady time.Duration
	known          bool // Our own record was seen.
}

type seenLease struct {
	sighting
	process string
	epoch   uint64
	free    bool // Released or removed.
}

type seenReplica struct {
	sighting
	process string
	gone    bool
	// beats says that the record has changed under our eyes: it is not what a process left that died before we came.
	beats bool
	// dead says that a lease of it was seen to be stale since. When that one is taken, another of its leases may still
	// have a moment to go, and until then it would look alive: what was just taken would be handed over to it.
	dead bool
}

func newView(me string, timing leaseTiming) view {
	return view{me: me, timing: timing, leases: map[int]seenLease{}, replicas: map[int]seenReplica{}}
}

// gap is how long our own beats may stay out before what we see is nothing to judge by.
func (v *view) gap() time.Duration { return 5 * v.timing.renew / 2 }

// settle is for how long our own beats must have been coming before the silence of others means something: while they
// did not come, the others' may not have got through either, and who lives needs a moment to say so. A call that was
// begun just before NATS came back has failed after call, the next one is made poll later, and then there is as long
// again until its record is seen.
func (v *view) settle() time.Duration { return min(v.timing.call+2*v.timing.poll, v.timing.stale) }

// silentFor is for how long a record has been silent that was last changed at since. The time in which our own beats did
// not come counts: that our own came back shows that the other was not changed meanwhile. Were it counted anew after
// each such time, a cluster that loses one server after another would leave a dead holder its partitions for as long as
// that goes on. Until the beats have settled it counts as settle less than stale at most.
func (v *view) silentFor(now, since time.Duration) time.Duration {
	return min(now-since, v.timing.stale-v.settle()+now-v.steady)
}

func (v *view) sawLease(partition int, seen sighting, record leaseRecord, free bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	before := v.leases[partition].sighting
	if before.revision != seen.revision && !seen.olderThan(before) { // Else it is read again after trouble.
		v.leases[partition] = seenLease{sighting: seen, process: record.Process, epoch: record.Epoch, free: free}
	}
}

func (v *view) sawReplica(slot int, seen sighting, record replicaRecord) {
	v.mu.Lock()
	defer v.mu.Unlock()
	before := v.replicas[slot]
	if before.revision == seen.revision || seen.olderThan(before.sighting) {
		return
	}
	v.replicas[slot] = seenReplica{
		sighting: seen, process: record.Process, gone: record.Gone,
		beats: v.known || before.process == record.Process,
	}
	if record.Process != v.me {
		return
	}
	if !v.known || seen.since-v.beaten > v.gap() {
		v.steady = seen.since
	}
	v.known, v.beaten = !record.Gone, seen.since
}

// sightingOf is since when a partition's record has been as it is.
func (v *view) sightingOf(partition int) sighting {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.leases[partition].sighting
}

// partitions is above the number of every partition of which a record was seen.
func (v *view) partitions() (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for number := range v.leases {
		n = max(n, number+1)
	}
	return n
}

// look sums up what was seen. own tells what this process itself knows of its leases, which is newer than the records.
func (v *view) look(now time.Duration, partitions int, own func(partition int) standing) (Fleet, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.known || now-v.beaten > v.gap() {
		return Fleet{}, false
	}
	fleet := Fleet{Me: v.me, Live: []string{v.me}, Partitions: make([]Held, partitions)}
	dead := make(map[string]bool)
	for number := range fleet.Partitions {
		fleet.Partitions[number] = v.heldLocked(now, number, own(number), dead)
	}
	for slot, r := range v.replicas {
		r.dead = r.dead || dead[r.process]
		v.replicas[slot] = r
		if r.process != v.me && !r.gone && r.beats && v.silentFor(now, r.since) < v.timing.stale && !r.dead {
			fleet.Live = append(fleet.Live, r.process)
		}
	}
	slices.SortFunc(fleet.Live, strings.Compare)
	fleet.Live = slices.Compact(fleet.Live)
	return fleet, true
}

// heldLocked says who has one partition, and notes who let its lease become stale.
func (v *view) heldLocked(now time.Duration, number int, own standing, dead map[string]bool) Held {
	seen, ok := v.leases[number]
	// Nobody could take it while no record could be written.
	free := now - max(seen.since, v.steady)
	silent := v.silentFor(now, seen.since)
	switch {
	case own.held:
		return Held{Holder: v.me}
	case !ok, seen.free:
		return Held{FreeFor: free}
	case seen.process == v.me && own.released && own.epoch == seen.epoch: // Its record is on its way to us.
		return Held{FreeFor: min(free, v.timing.renew)}
	case seen.process == v.me:
		return Held{Own: true}
	case silent >= v.timing.stale:
		dead[seen.process] = true
		return Held{FreeFor: silent - v.timing.stale}
	}
	return Held{Holder: seen.process}
}
