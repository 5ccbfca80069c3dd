package journal

import (
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// replica is one process of the relay, as far as leases and the ledger go.
type replica struct {
	js     jetstream.JetStream
	leases *Leases
	lease  *Lease
	tenure *Tenure
}

// aReplica takes partition 0 over.
func aReplica(tb testing.TB, js jetstream.JetStream, name string) *replica {
	tb.Helper()
	r := &replica{js: js, leases: leasesOf(js, name)}
	r.takeOver(tb)
	return r
}

// leasesOf makes leases that are never lost by a slow machine and yet taken at once: in these tests whoever held them
// is known to be gone.
func leasesOf(js jetstream.JetStream, name string) *Leases {
	l := NewLeases(js, name, discard())
	l.timing = leaseTiming{
		renew: time.Second, valid: time.Minute, stale: 20 * time.Millisecond,
		poll: 10 * time.Millisecond, call: 5 * time.Second,
	}
	return l
}

func (r *replica) takeOver(tb testing.TB) {
	tb.Helper()
	var err error
	if r.lease, err = r.leases.Campaign(within(tb, 20*time.Second), 0); err != nil {
		tb.Fatalf("Campaign: %v", err)
	}
	tb.Cleanup(r.lease.stop)
	if r.tenure, err = TakeOver(within(tb, 20*time.Second), r.js, r.lease, TenureConfig{
		Logger: discard(), PublishTimeout: time.Second, Patience: 200 * time.Millisecond,
	}); err != nil {
		tb.Fatalf("TakeOver: %v", err)
	}
	tenure := r.tenure
	tb.Cleanup(func() { crash(tenure) })
}

// crash ends everything without a word, as kill -9 does: nothing is written any more, the lease is not released.
func (r *replica) crash() {
	r.lease.stop()
	<-r.lease.done
	crash(r.tenure)
}

func crash(t *Tenure) {
	t.stop()
	t.ledger.stop(errTenureOver)
	t.ledger.work.Wait()
	t.work.Wait()
}

// waiting publishes n updates and gives them as they lie in the stream.
func waiting(tb testing.TB, js jetstream.JetStream, n int) []update.Attempt {
	tb.Helper()
	stream, err := js.Stream(tb.Context(), topology.StreamUpdates)
	if err != nil {
		tb.Fatal(err)
	}
	attempts := make([]update.Attempt, n)
	for i := range attempts {
		ack, err := js.Publish(tb.Context(), "kex.vorgang.123456.kommentare", []byte(`["Testkommentar"]`))
		if err != nil {
			tb.Fatal(err)
		}
		msg, err := stream.GetMsg(tb.Context(), ack.Sequence)
		if err != nil {
			tb.Fatal(err)
		}
		attempts[i] = update.Attempt{Seq: msg.Sequence, StoredAt: msg.Time, Attempts: 1, Timeout: time.Second, RequestID: "sys12345678"}
	}
	return attempts
}

func (r *replica) sending(tb testing.TB, a update.Attempt) {
	tb.Helper()
	if err := r.tenure.Sending(within(tb, 10*time.Second), a); err != nil {
		tb.Fatalf("Sending: %v", err)
	}
}

func (r *replica) opening(tb testing.TB, a update.Attempt) {
	tb.Helper()
	if err := r.tenure.Opening(within(tb, 10*time.Second), a); err != nil {
		tb.Fatalf("Opening: %v", err)
	}
}

func (r *replica) past(a update.Attempt) update.Past { return r.tenure.Past(a.Seq, a.StoredAt) }

// wantPast compares what is known, without the moment and the channel.
func (r *replica) wantPast(tb testing.TB, a update.Attempt, want update.Past) {
	tb.Helper()
	got := r.past(a)
	got.Until, got.Resolved = time.Time{}, nil
	if got != want {
		tb.Errorf("Past(%d) = %+v, want %+v", a.Seq, got, want)
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// result writes an update's result, as whoever sent it does.
func result(tb testing.TB, js jetstream.JetStream, a update.Attempt) {
	tb.Helper()
	u := anUpdate(a.Seq)
	u.StoredAt = a.StoredAt
	settle(tb, newJournal(tb, js), delivered(u))
}

// wantResolved waits until something became known.
func (r *replica) wantResolved(tb testing.TB, p update.Past) {
	tb.Helper()
	select {
	case <-p.Resolved:
	case <-time.After(10 * time.Second):
		tb.Fatal("not resolved after 10 s")
	}
}

func (r *replica) following() bool {
	done := make(chan struct{})
	go func() { r.tenure.work.Wait(); close(done) }()
	select {
	case <-done:
		return false
	case <-time.After(100 * time.Millisecond):
		return true
	}
}
