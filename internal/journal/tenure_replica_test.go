package journal

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
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
	if r.lease, err = r.leases.Campaign(within(tb, time.Minute), 0); err != nil {
		tb.Fatalf("Campaign: %v", err)
	}
	tb.Cleanup(r.lease.stop)
	if r.tenure, err = TakeOver(within(tb, time.Minute), r.js, r.lease, TenureConfig{
		Logger: discard(), PublishTimeout: 10 * time.Second, Patience: 30 * time.Second,
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
	// Patient: a server of a cluster may not know yet who leads the stream, or that there is one.
	ctx := within(tb, 2*time.Minute)
	stream, err := topology.Ask(ctx, func(ctx context.Context) (jetstream.Stream, error) { return js.Stream(ctx, topology.StreamUpdates) })
	if err != nil {
		tb.Fatal(err)
	}
	publisher := NewPublisher(js, PublisherConfig{Timeout: 5 * time.Second, Patience: time.Minute})
	defer publisher.Close()
	attempts := make([]update.Attempt, n)
	for i := range attempts {
		m := &nats.Msg{Subject: "kex.vorgang.123456.kommentare", Data: []byte(`["Testkommentar"]`), Header: nats.Header{update.HeaderMsgID: {randomID()}}}
		ack, err := publisher.Publish(ctx, m)
		if err != nil {
			tb.Fatal(err)
		}
		msg, err := topology.Ask(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) { return stream.GetMsg(ctx, ack.Sequence) })
		if err != nil {
			tb.Fatal(err)
		}
		attempts[i] = update.Attempt{Seq: msg.Sequence, StoredAt: msg.Time, Attempts: 1, Timeout: time.Second, RequestID: "sys12345678"}
	}
	return attempts
}

func (r *replica) sending(tb testing.TB, a update.Attempt) {
	tb.Helper()
	if err := r.tenure.Sending(within(tb, time.Minute), a); err != nil {
		tb.Fatalf("Sending: %v", err)
	}
}

func (r *replica) opening(tb testing.TB, a update.Attempt) {
	tb.Helper()
	if err := r.tenure.Opening(within(tb, time.Minute), a); err != nil {
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
	settle(tb, newJournal(tb, js), delivered(updateOf(a)))
}

// updateOf is the update that an attempt was made with.
func updateOf(a update.Attempt) *update.Update {
	u := anUpdate(a.Seq)
	u.StoredAt = a.StoredAt
	return u
}

// wantResolved waits until something became known.
func (r *replica) wantResolved(tb testing.TB, p update.Past) {
	tb.Helper()
	select {
	case <-p.Resolved:
	case <-time.After(time.Minute):
		tb.Fatal("not resolved after a minute")
	}
}

// following gives a channel that is closed when nobody waits any more for answers to what former holders have sent.
func (r *replica) following() <-chan struct{} {
	done := make(chan struct{})
	go func() { r.tenure.work.Wait(); close(done) }()
	return done
}

func (r *replica) wantFollowing(tb testing.TB, what string) {
	tb.Helper()
	select {
	case <-r.following():
		tb.Errorf("nobody waits for %s", what)
	case <-time.After(100 * time.Millisecond):
	}
}

func (r *replica) wantNotFollowing(tb testing.TB, although string) {
	tb.Helper()
	select {
	case <-r.following():
	case <-time.After(time.Minute):
		tb.Errorf("followed although %s", although)
	}
}
