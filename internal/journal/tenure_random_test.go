package journal

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// expected is what the next holder may find of an update: the last acknowledged record, or one after it that nobody
// waited for.
type expected struct {
	rec     update.Attempt
	may     []update.Past
	settled bool
}

func (e *expected) recorded(p update.Past, awaited bool) {
	p.Attempts, p.Unknowns, p.RequestID = e.rec.Attempts, e.rec.Unknowns, e.rec.RequestID
	if p.Crashes = e.rec.Crashes; p.Left || p.Opened {
		p.Crashes++ // Found by another process, after this one has died.
	}
	if awaited {
		e.may = nil
	}
	e.may = append(e.may, p)
}

// TestWhateverDiesTheNextHolderKnows lets holders do at random what relays do, and die at random moments. Each next one
// must find for every update what was acknowledged last, or a later answer.
func TestWhateverDiesTheNextHolderKnows(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	js := setUp(t, topology.Options{})
	var all []*expected
	for range 30 {
		for _, u := range waiting(t, js, 2) {
			u.Attempts = 0
			all = append(all, &expected{rec: u})
		}
		r := &replica{js: js, leases: leasesOf(js, "a")}
		r.takeOver(t)
		for _, e := range all {
			r.check(t, e)
		}
		for range random.IntN(30) {
			r.act(t, random, all[random.IntN(len(all))])
		}
		mustRelease(t, r.lease) // The next one need not wait for it. What matters is that the ledger ends in the middle.
		r.crash()
	}
}

// check compares what is known with what may be, and goes on from there.
func (r *replica) check(t *testing.T, e *expected) {
	t.Helper()
	p := r.past(e.rec)
	if p.Left && (p.Until.IsZero() || p.Resolved == nil) {
		t.Errorf("Past(%d) = %+v: nobody says how long to wait", e.rec.Seq, p)
	}
	p.Until, p.Resolved = time.Time{}, nil
	if e.settled != p.Settled || !e.settled && len(e.may) > 0 && !slices.Contains(e.may, p) || len(e.may) == 0 && p != (update.Past{}) {
		t.Fatalf("Past(%d) = %+v, want settled %v or one of %+v", e.rec.Seq, p, e.settled, e.may)
	}
	if !e.settled && len(e.may) > 0 {
		e.may = []update.Past{p}
		e.rec.Attempts, e.rec.Unknowns, e.rec.Crashes = p.Attempts, p.Unknowns, p.Crashes
	}
}

// act does something with an update that a relay may do.
func (r *replica) act(t *testing.T, random *rand.Rand, e *expected) {
	t.Helper()
	if e.settled {
		return
	}
	left := len(e.may) > 0 && e.may[len(e.may)-1].Left
	switch random.IntN(5) {
	case 0:
		r.opening(t, e.rec)
		e.recorded(update.Past{Opened: true, Left: left}, true)
	case 1, 2:
		e.rec.Attempts++
		if left {
			e.rec.Unknowns++
		}
		r.sending(t, e.rec)
		e.recorded(update.Past{Left: true}, true)
	case 3:
		if left && e.rec.Attempts > 0 {
			r.tenure.Answered(e.rec)
			e.recorded(update.Past{}, false)
		}
	case 4:
		if left {
			result(t, r.js, e.rec)
			r.tenure.Settled(e.rec.Seq, e.rec.StoredAt)
			e.settled = true
		}
	}
}
