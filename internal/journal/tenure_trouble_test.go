package journal

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// wantInterrupted checks that an error is no failure but the end of our right.
func wantInterrupted(t *testing.T, err, cause error) {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Kind != fault.Interrupted || !errors.Is(err, cause) {
		t.Errorf("got %v, want interrupted by %v", err, cause)
	}
}

func TestWithoutTheLeaseNothingIsRecorded(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := waiting(t, js, 1)
	a := aReplica(t, js, "a")
	if !a.tenure.Held() {
		t.Fatal("not held")
	}
	mustRelease(t, a.lease)
	before := streamState(t, js, ledgerStream).LastSeq
	wantInterrupted(t, a.tenure.Sending(t.Context(), u[0]), ErrLeaseLost)
	wantInterrupted(t, a.tenure.Opening(t.Context(), u[0]), ErrLeaseLost)
	if a.tenure.Held() {
		t.Error("held")
	}
	select {
	case <-a.tenure.Lost():
	default:
		t.Error("not lost")
	}
	if err := a.tenure.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := streamState(t, js, ledgerStream).LastSeq; after != before {
		t.Errorf("%d messages written", after-before)
	}
	if _, err := TakeOver(t.Context(), js, a.lease, TenureConfig{Logger: discard()}); err == nil {
		t.Error("taken over without the lease")
	} else {
		wantInterrupted(t, err, ErrLeaseLost)
	}
}

func TestAfterCloseNothingIsRecorded(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := waiting(t, js, 1)
	a := aReplica(t, js, "a")
	if err := a.tenure.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantInterrupted(t, a.tenure.Sending(t.Context(), u[0]), errLedgerClosed)
	a.tenure.Answered(u[0]) // Must not panic.
}

func TestAStopDuringSendingIsNoFailure(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := waiting(t, js, 1)
	a := aReplica(t, js, "a")
	reason := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(reason)
	wantInterrupted(t, a.tenure.Sending(ctx, u[0]), reason)
}

func TestAFullLedgerHoldsTheRelay(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := waiting(t, js, 1)
	a := aReplica(t, js, "a")
	updateStream(t, js, ledgerStream, func(cfg *jetstream.StreamConfig) { cfg.MaxBytes = 1 })
	wantStorage(t, a.tenure.Sending(t.Context(), u[0]), "update 1", "0.1.", "make room")
	updateStream(t, js, ledgerStream, func(cfg *jetstream.StreamConfig) { cfg.MaxBytes = -1 })
	a.sending(t, u[0])
}

func TestAMissingBucketIsAStorageFault(t *testing.T) {
	t.Parallel()
	for _, stream := range []string{ledgerStream, topology.StreamResults, topology.StreamUpdates} {
		t.Run(stream, func(t *testing.T) {
			js := setUp(t, topology.Options{})
			waiting(t, js, 1)
			lease := NewLeases(js, "a", discard()).mustCampaign(t)
			if err := js.DeleteStream(t.Context(), stream); err != nil {
				t.Fatal(err)
			}
			_, err := TakeOver(t.Context(), js, lease, TenureConfig{Logger: discard()})
			wantStorage(t, err, "partition 0", "kexrelay setup")
		})
	}
}

// A stream that was created again gives the same sequences to other updates.
func TestASequenceThatComesAgainIsAnotherUpdate(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	u := waiting(t, js, 3)
	a := aReplica(t, js, "a")
	for _, one := range u {
		a.sending(t, one)
	}
	result(t, js, u[0])
	if err := js.DeleteStream(t.Context(), topology.StreamUpdates); err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Setup(t.Context(), js, topology.Options{}); err != nil {
		t.Fatal(err)
	}
	again := waiting(t, js, 3)
	for _, one := range again {
		a.wantPast(t, one, update.Past{})
	}
	a.crash()
	b := aReplica(t, js, "b")
	b.wantPast(t, u[0], update.Past{Settled: true}) // Its result is a fact.
	if bound := b.tenure.Bound(); bound != 3 {
		t.Errorf("Bound = %d, want 3", bound)
	}
	for _, one := range again {
		b.wantPast(t, one, update.Past{})
	}
}

// A stream that ends before what the ledger knows was created again, or restored from a backup; or who answers does not
// know yet that it leads no more.
func TestAStreamThatEndsTooEarlyIsAskedAgain(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	u := waiting(t, js, 2)
	a := aReplica(t, js, "a")
	future := update.Attempt{Seq: 3, StoredAt: u[1].StoredAt.Add(time.Millisecond), Attempts: 1}
	a.sending(t, future)
	a.crash()

	published := make(chan struct{})
	go func() {
		defer close(published)
		pause(t.Context(), 500*time.Millisecond)
		waiting(t, js, 1)
	}()
	b := aReplica(t, js, "b")
	<-published
	if bound := b.tenure.Bound(); bound != 3 {
		t.Errorf("Bound = %d: it did not wait for the stream that the ledger knows of", bound)
	}
	b.crash()

	if err := js.DeleteStream(t.Context(), topology.StreamUpdates); err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Setup(t.Context(), js, topology.Options{}); err != nil {
		t.Fatal(err)
	}
	lease := leasesOf(js, "c").mustCampaign(t)
	begin := time.Now()
	tenure, err := TakeOver(t.Context(), js, lease, TenureConfig{Logger: discard()})
	if err != nil {
		t.Fatal(err)
	}
	defer crash(tenure)
	if took := time.Since(begin); took > 5*time.Second || tenure.Bound() != 0 {
		t.Errorf("bound %d after %s: records of a stream that is no more were waited for", tenure.Bound(), took)
	}
}

func TestARestoredStreamIsBelievedInTheEnd(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	u := waiting(t, js, 1)
	a := aReplica(t, js, "a")
	a.sending(t, u[0])
	a.sending(t, update.Attempt{Seq: 99, StoredAt: u[0].StoredAt.Add(time.Second), Attempts: 1})
	a.crash()
	lease := leasesOf(js, "b").mustCampaign(t)
	tenure, err := TakeOver(t.Context(), js, lease, TenureConfig{Logger: discard(), catchUp: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer crash(tenure)
	if tenure.Bound() != 1 || len(tenure.carried) != 1 || !tenure.Past(u[0].Seq, u[0].StoredAt).Left {
		t.Errorf("bound %d, %d records carried over, want 1 and 1", tenure.Bound(), len(tenure.carried))
	}
}

func TestForeignMessagesInTheLedgerAreTold(t *testing.T) {
	js := setUp(t, topology.Options{})
	kv, err := js.KeyValue(t.Context(), topology.BucketLedger)
	if err != nil {
		t.Fatal(err)
	}
	u := waiting(t, js, 1)
	a := aReplica(t, js, "a")
	a.sending(t, u[0])
	a.crash()
	for key, value := range map[string]string{"0.somebody": "x", "0.0.a.b": "kexrelay-ledger/1", "0.1.x.0": "", "1.1.x.0": "other partition"} {
		if _, err := kv.PutString(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := kv.Delete(t.Context(), "0.1.x.0"); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	b := &replica{js: js, leases: leasesOf(js, "b")}
	if b.lease, err = b.leases.Campaign(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	defer b.lease.die()
	if b.tenure, err = TakeOver(t.Context(), js, b.lease, TenureConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))}); err != nil {
		t.Fatal(err)
	}
	defer crash(b.tenure)
	b.wantPast(t, u[0], update.Past{Attempts: 1, Crashes: 1, Left: true, RequestID: requestID})
	for _, key := range []string{"0.somebody", "0.0.a.b"} {
		if strings.Count(log.String(), key) != 1 {
			t.Errorf("%s is not told of, or not once:\n%s", key, log.String())
		}
	}
	if strings.Contains(log.String(), "0.1.x.0") || strings.Contains(log.String(), "1.1.x.0") {
		t.Errorf("told of what is no message, or of another partition's:\n%s", log.String())
	}
}

// A record that cannot be read may be one of a request under way.
func TestANewerVersionsRecordsStopTheTakeover(t *testing.T) {
	js := setUp(t, topology.Options{})
	kv, err := js.KeyValue(t.Context(), topology.BucketLedger)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.PutString(t.Context(), "0.1.x.0", "kexrelay-ledger/2 whatever\n"); err != nil {
		t.Fatal(err)
	}
	lease := NewLeases(js, "a", discard()).mustCampaign(t)
	_, err = TakeOver(t.Context(), js, lease, TenureConfig{Logger: discard()})
	wantStorage(t, err, "0.1.x.0", "newer version of kexrelay")
}

func TestForgettingKeepsWhatIsOurs(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := waiting(t, js, 4)
	a := aReplica(t, js, "a")
	a.sending(t, u[0])
	a.sending(t, u[1])
	a.sending(t, u[2])
	result(t, js, u[2])
	a.crash()
	b := aReplica(t, js, "b")
	b.sending(t, u[1])
	p := b.past(u[0])
	b.tenure.Forget()
	b.wantResolved(t, p)
	b.wantPast(t, u[0], update.Past{})
	b.wantPast(t, u[1], update.Past{Attempts: 1, Left: true, Own: true, RequestID: requestID})
	b.wantPast(t, u[2], update.Past{})
	b.wantNotFollowing(t, "everything is forgotten")
}

func TestTheLedgerOutlivesARestartOfTheServer(t *testing.T) {
	t.Parallel()
	server := startRestartable(t)
	js := connect(t, server.URL())
	if _, err := topology.Setup(t.Context(), js, topology.Options{}); err != nil {
		t.Fatal(err)
	}
	u := waiting(t, js, 3)
	a := aReplica(t, js, "a")
	p := make([]update.Past, 2)
	for range 2 { // The second time there is something to follow.
		a.sending(t, u[0])
		a.sending(t, u[1])
		server.stop(t)
		a.tenure.ledger.cfg.Patience = 200 * time.Millisecond // Nothing can go through now.
		if err := a.tenure.Sending(t.Context(), u[2]); err == nil {
			t.Error("recorded without a server")
		}
		server.start(t)
		a.crash()
		a = aReplica(t, js, "b")
		for i := range p {
			p[i] = a.past(u[i])
			if !p[i].Left || p[i].Crashes == 0 {
				t.Errorf("Past(%d) = %+v, want it left", u[i].Seq, p[i])
			}
		}
		a.wantPast(t, u[2], update.Past{})
	}
	server.stop(t)
	server.start(t)
	result(t, js, u[0])
	a.wantResolved(t, p[0])
	a.wantPast(t, u[0], update.Past{Settled: true})
}

// A relay may be denied the removal: it costs the next holder time, nothing else.
func TestARemovalThatFailsIsOnlyTold(t *testing.T) {
	t.Parallel()
	js := connect(t, embeddedtest.Run(t).URL())
	if _, err := topology.Setup(t.Context(), js, topology.Options{}); err != nil {
		t.Fatal(err)
	}
	u := waiting(t, js, 1)
	a := aReplica(t, js, "a")
	a.sending(t, u[0])
	a.crash()
	updateStream(t, js, ledgerStream, func(cfg *jetstream.StreamConfig) { cfg.DenyPurge, cfg.AllowRollup = true, false })
	for crashes := range 3 { // The old records stay and stay the older ones.
		r := aReplica(t, js, "b")
		r.wantPast(t, u[0], update.Past{Attempts: 1 + crashes, Crashes: 1 + crashes, Left: true, RequestID: requestID})
		r.sending(t, update.Attempt{
			Seq: u[0].Seq, StoredAt: u[0].StoredAt, Attempts: 2 + crashes, Crashes: 1 + crashes, Timeout: time.Second, RequestID: requestID,
		})
		r.crash()
	}
}
