package journal

import (
	"context"
	"testing"
	"time"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

const requestID = "sys12345678"

func TestWhatIsSettledButNotAckedIsKnown(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := waiting(t, js, 3)
	a := aReplica(t, js, "a")
	a.sending(t, u[0])
	result(t, js, u[0])
	a.sending(t, u[1])
	a.crash()

	b := aReplica(t, js, "b")
	if bound := b.tenure.Bound(); bound != 3 {
		t.Errorf("Bound = %d, want 3", bound)
	}
	b.wantPast(t, u[0], update.Past{Settled: true})
	b.wantPast(t, u[1], update.Past{Attempts: 1, Crashes: 1, Left: true, RequestID: requestID})
	b.wantPast(t, u[2], update.Past{})
	above := update.Attempt{Seq: 4, StoredAt: u[1].StoredAt}
	b.wantPast(t, above, update.Past{})
	if n := len(b.tenure.carried); n != 1 {
		t.Errorf("%d records carried over, want the one that is still needed", n)
	}
}

func TestTheAnswerOfALeftPostIsWaitedFor(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	u := waiting(t, js, 3)
	u[0].Timeout = 7 * time.Second
	a := aReplica(t, js, "a")
	a.sending(t, u[0])
	a.sending(t, u[1])
	a.crash()

	before := time.Now()
	b := aReplica(t, js, "b")
	p := b.past(u[0])
	if until := p.Until.Sub(b.lease.takenAt); until != 12*time.Second || b.lease.takenAt.Before(before) {
		t.Errorf("waited for %s from the taking of the lease, want the record's timeout and 5 s", until)
	}
	select {
	case <-p.Resolved:
		t.Fatal("resolved without an answer")
	default:
	}
	result(t, js, u[2]) // Somebody else's.
	result(t, js, u[0])
	b.wantResolved(t, p)
	b.wantPast(t, u[0], update.Past{Settled: true})
	b.wantPast(t, u[1], update.Past{Attempts: 1, Crashes: 1, Left: true, RequestID: requestID})
	b.wantFollowing(t, "the other one's answer")
	other := b.past(u[1]) // Before its result, which may be seen at once.
	result(t, js, u[1])
	b.wantResolved(t, other)
	b.wantNotFollowing(t, "nothing is open")
	b.tenure.Settled(u[0].Seq, u[0].StoredAt)
	b.crash()
	c := aReplica(t, js, "c")
	c.wantPast(t, u[0], update.Past{Settled: true})
}

// A holder that gives its lease back finishes what it is sending. An answer that settles nothing is no unknown outcome.
func TestTheDefiniteAnswerOfALeavingHolderIsTakenOver(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := waiting(t, js, 2)
	a := aReplica(t, js, "a")
	a.sending(t, u[0])
	a.sending(t, u[1])
	mustRelease(t, a.lease)
	b := aReplica(t, js, "b")
	p := b.past(u[0])
	if !p.Left || p.Crashes != 1 {
		t.Fatalf("Past = %+v, want it left", p)
	}
	a.tenure.Answered(u[0])
	b.wantResolved(t, p)
	b.wantPast(t, u[0], update.Past{Attempts: 1, RequestID: requestID})
	b.crash()
	c := aReplica(t, js, "c")
	c.wantPast(t, u[0], update.Past{Attempts: 1, RequestID: requestID})
	c.wantPast(t, u[1], update.Past{Attempts: 1, Crashes: 1, Left: true, RequestID: requestID})
}

// What a former holder still says must not look later than our own request.
func TestAFormerHoldersAnswerDoesNotHideOurOwnRequest(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := waiting(t, js, 2)
	a := aReplica(t, js, "a")
	a.sending(t, u[0])
	a.sending(t, u[1])
	mustRelease(t, a.lease)
	b := aReplica(t, js, "b")
	again := u[0]
	again.Attempts, again.Unknowns, again.Crashes = 2, 1, 1
	p, other := b.past(u[0]), b.past(u[1])
	b.sending(t, again)
	b.wantResolved(t, p)
	a.tenure.Answered(u[0])
	a.tenure.Answered(u[1])
	b.wantResolved(t, other) // So the one before was seen too.
	b.wantPast(t, u[0], update.Past{Attempts: 2, Unknowns: 1, Crashes: 1, Left: true, Own: true, RequestID: requestID})
	b.crash()
	c := aReplica(t, js, "c")
	c.wantPast(t, u[0], update.Past{Attempts: 2, Unknowns: 1, Crashes: 2, Left: true, RequestID: requestID})
}

// The same while our request's record is still on its way, and for a copy of what was read before.
func TestAFormerHoldersAnswerDoesNotOvertakeOurRecord(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := waiting(t, js, 2)
	a := aReplica(t, js, "a")
	a.sending(t, u[0])
	a.sending(t, u[1])
	mustRelease(t, a.lease)
	b := aReplica(t, js, "b")
	k := keyOf(u[0].Seq, u[0].StoredAt)
	old := recordOf(u[0], stateIdle)
	if b.tenure.supersede(b.tenure.open[k].number, old) != nil {
		t.Error("a record that was read before counts as a later one")
	}

	put, gate := b.tenure.ledger.put, make(chan struct{})
	arrived := make(chan struct{}, 10)
	b.tenure.ledger.put = func(ctx context.Context, key string, data []byte) (uint64, error) {
		arrived <- struct{}{}
		<-gate
		return put(ctx, key, data)
	}
	again := u[0]
	again.Attempts, again.Unknowns = 2, 1
	sent := make(chan error)
	go func() { sent <- b.tenure.Sending(within(t, time.Minute), again) }()
	<-arrived
	p := b.past(u[1])
	a.tenure.Answered(u[0])
	a.tenure.Answered(u[1])
	<-arrived // The second one's is taken over, so the first one's was seen.
	close(gate)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	b.wantResolved(t, p)
	if err := b.tenure.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.crash()
	c := aReplica(t, js, "c")
	c.wantPast(t, u[0], update.Past{Attempts: 2, Unknowns: 1, Crashes: 1, Left: true, RequestID: requestID})
}

func TestEveryStateIsKnownToTheNextHolder(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := waiting(t, js, 5)
	a := aReplica(t, js, "a")
	idle := u[0]
	idle.Attempts, idle.Unknowns, idle.Crashes, idle.RequestID = 4, 2, 1, requestID+"-4"
	a.sending(t, idle)
	a.tenure.Answered(idle)
	opened := u[1]
	opened.Attempts, opened.RequestID = 0, ""
	a.opening(t, opened)
	decoded := u[2]
	a.opening(t, decoded)
	a.sending(t, decoded)
	settled := u[3]
	a.sending(t, settled)
	result(t, js, settled)
	a.tenure.Settled(settled.Seq, settled.StoredAt)
	if r, ok := a.tenure.ledger.last(keyOf(settled.Seq, settled.StoredAt)); ok {
		t.Errorf("%+v is kept for a settled update", r)
	}
	if err := a.tenure.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.crash()

	wantAll := func(r *replica) {
		t.Helper()
		r.wantPast(t, u[0], update.Past{Attempts: 4, Unknowns: 2, Crashes: 1, RequestID: requestID + "-4"})
		r.wantPast(t, u[1], update.Past{Crashes: 1, Opened: true})
		r.wantPast(t, u[2], update.Past{Attempts: 1, Crashes: 1, Left: true, RequestID: requestID})
		r.wantPast(t, u[3], update.Past{Settled: true})
		r.wantPast(t, u[4], update.Past{})
	}
	// Holders that die before they have touched anything add no crash and lose nothing.
	for _, name := range []string{"b", "c", "d"} {
		r := aReplica(t, js, name)
		wantAll(r)
		r.crash()
	}
	if state := streamState(t, js, ledgerStream); state.NumSubjects > 2 {
		t.Errorf("%d messages left in the ledger, want the last holder's", state.NumSubjects)
	}
}

func TestCrashesAreCountedFromHolderToHolder(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := waiting(t, js, 2)
	sent, beside := u[0], u[1]
	for crashes := range 3 {
		r := aReplica(t, js, "a")
		p := r.past(sent)
		if p.Crashes != crashes {
			t.Errorf("%d crashes known, want %d", p.Crashes, crashes)
		}
		sent.Attempts, sent.Crashes, sent.Unknowns = p.Attempts+1, p.Crashes, crashes
		if crashes == 1 {
			r.opening(t, sent) // It kills the decoder this time.
		} else {
			r.sending(t, sent)
		}
		if crashes == 0 {
			r.sending(t, beside)
			r.tenure.Answered(beside)
			if err := r.tenure.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		r.crash()
	}
	r := aReplica(t, js, "a")
	if p := r.past(sent); p.Crashes != 3 || !p.Left {
		t.Errorf("Past = %+v, want 3 crashes", p)
	}
	if p := r.past(beside); p.Crashes != 0 || p.Left {
		t.Errorf("Past = %+v, want no crash for the one beside", p)
	}
}

func TestLookingAtAnUpdateDoesNotHideThatItWasLeft(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := waiting(t, js, 2)
	a := aReplica(t, js, "a")
	a.sending(t, u[0])
	a.sending(t, u[1])
	a.crash()
	b := aReplica(t, js, "b")
	early, counted := u[0], u[1]
	early.Crashes, early.Timeout = 1, 0
	b.opening(t, early)
	counted.Crashes, counted.Unknowns = 1, 1
	b.opening(t, counted)
	if p := b.past(u[0]); !p.Left || !p.Opened || p.Own || p.Until.IsZero() || p.Resolved == nil {
		t.Errorf("Past = %+v, want it still left by another", p)
	}
	b.crash()
	c := aReplica(t, js, "c")
	c.wantPast(t, u[0], update.Past{Attempts: 1, Crashes: 2, Left: true, Opened: true, RequestID: requestID})
	if until := c.past(u[0]).Until.Sub(c.lease.takenAt); until != 6*time.Second {
		t.Errorf("waited for %s, want the first record's timeout and 5 s", until)
	}
	c.wantPast(t, u[1], update.Past{Attempts: 1, Unknowns: 1, Crashes: 2, Opened: true, RequestID: requestID})
}

// A process that lost its lease and takes it again has not died.
func TestAProcessIsNotItsOwnCrash(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	u := waiting(t, js, 2)
	a := aReplica(t, js, "a")
	a.sending(t, u[0])
	a.opening(t, u[1])
	first := a.tenure
	mustRelease(t, a.lease)
	a.takeOver(t)
	a.wantPast(t, u[0], update.Past{Attempts: 1, Left: true, Own: true, RequestID: requestID})
	a.wantPast(t, u[1], update.Past{Attempts: 1, Opened: true, Own: true, RequestID: requestID})
	p := a.past(u[0])
	first.Answered(u[0])
	a.wantResolved(t, p)
	a.wantPast(t, u[0], update.Past{Attempts: 1, RequestID: requestID})
	a.sending(t, u[0])
	a.crash()
	b := aReplica(t, js, "b")
	b.wantPast(t, u[0], update.Past{Attempts: 1, Crashes: 1, Left: true, RequestID: requestID})
	b.wantPast(t, u[1], update.Past{Attempts: 1, Crashes: 1, Opened: true, RequestID: requestID})
}

// A former holder that goes on writing is not heard any more.
func TestWhoLostTheLeaseChangesNothing(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := waiting(t, js, 1)
	a := aReplica(t, js, "a")
	a.sending(t, u[0])
	mustRelease(t, a.lease)
	b := aReplica(t, js, "b")
	again := u[0]
	again.Attempts, again.Unknowns, again.Crashes = 2, 1, 1
	b.sending(t, again)
	stale := u[0]
	stale.Attempts = 99
	for range 20 {
		if err := a.tenure.ledger.store(t.Context(), recordOf(stale, stateSending), nil); err != nil {
			t.Fatal(err)
		}
	}
	b.crash()
	c := aReplica(t, js, "c")
	c.wantPast(t, u[0], update.Past{Attempts: 2, Unknowns: 1, Crashes: 2, Left: true, RequestID: requestID})
}
