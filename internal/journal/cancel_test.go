package journal

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

func publishOne(t *testing.T, js jetstream.JetStream) Waiting {
	t.Helper()
	ack, err := js.PublishMsg(t.Context(), &nats.Msg{
		Subject: "kex.vorgang.123456.kommentare", Data: []byte(`["text"]`), Header: nats.Header{update.HeaderMsgID: {"crm-1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w, err := NewUpdates(js).Get(t.Context(), ack.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func cancelIt(t *testing.T, js jetstream.JetStream, seq uint64) error {
	t.Helper()
	publisher := NewPublisher(js, PublisherConfig{})
	defer publisher.Close()
	timing := defaultLeaseTiming()
	timing.stale, timing.poll = 300*time.Millisecond, 10*time.Millisecond // No relay of these tests lives.
	_, err := Cancel(t.Context(), js, Cancellation{
		Seq: seq, Reason: "by mistake", Source: source, Name: "test", Auditor: NewAuditor(js, publisher, Actor{}), timing: timing,
	})
	return err
}

// tenureOf is a relay that has taken over. End it with the function.
func tenureOf(t *testing.T, js jetstream.JetStream) (*Tenure, func(release bool)) {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	leases := NewLeases(js, "replica-a", quiet)
	leases.timing.stale, leases.timing.poll = 300*time.Millisecond, 10*time.Millisecond
	lease, err := leases.Campaign(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	tenure, err := TakeOver(t.Context(), js, lease, TenureConfig{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return tenure, func(release bool) {
		_ = tenure.Close(context.Background())
		if release {
			_ = lease.Release(context.Background())
			return
		}
		lease.stop() // As if the process died: the record stays as it is.
		<-lease.done
	}
}

func TestACancelledUpdateIsGoneAndSettledAsDiscarded(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	w := publishOne(t, js)
	if err := cancelIt(t, js, w.Seq); err != nil {
		t.Fatal(err)
	}
	if _, err := NewUpdates(js).Get(t.Context(), w.Seq); !errors.Is(err, ErrNoUpdate) {
		t.Errorf("it is still there: %v", err)
	}
	found := mustFind(t, NewIndex(js), "crm-1")
	if len(found.Events) != 1 || found.Events[0].Data.Outcome != update.Discarded || found.Events[0].Data.Detail != "cancelled: by mistake" {
		t.Errorf("results: %+v", found.Events)
	}
	audit, err := js.Stream(t.Context(), topology.StreamAudit)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.GetLastMsgForSubject(t.Context(), topology.AuditSubject(string(ActionCancel))); err != nil {
		t.Errorf("no audit event: %v", err)
	}
	// The next relay does not wait for the lease to expire.
	_, end := tenureOf(t, js)
	end(true)
}

func TestNothingIsCancelledWhileARelayRuns(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	w := publishOne(t, js)
	_, end := tenureOf(t, js)
	defer end(true)
	publisher := NewPublisher(js, PublisherConfig{})
	defer publisher.Close()
	_, err := Cancel(t.Context(), js, Cancellation{Seq: w.Seq, Source: source, Auditor: NewAuditor(js, publisher, Actor{})})
	if !errors.Is(err, ErrRelayRuns) {
		t.Errorf("Cancel: %v", err)
	}
	if _, err := NewUpdates(js).Get(t.Context(), w.Seq); err != nil {
		t.Errorf("it is gone: %v", err)
	}
}

func TestWhatMayBeBookedIsNotCancelled(t *testing.T) {
	t.Parallel()
	for name, attempt := range map[string]update.Attempt{
		"being sent when the relay died": {Attempts: 1, RequestID: "sys1"},
		"an unknown outcome before":      {Attempts: 2, Unknowns: 1, RequestID: "sys1-2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js := setUp(t, topology.Options{})
			w := publishOne(t, js)
			tenure, end := tenureOf(t, js)
			attempt.Seq, attempt.StoredAt, attempt.Timeout = w.Seq, w.StoredAt, time.Second
			if attempt.Unknowns == 0 {
				if err := tenure.Sending(t.Context(), attempt); err != nil {
					t.Fatal(err)
				}
			} else {
				tenure.Answered(attempt)
			}
			end(false)
			if err := cancelIt(t, js, w.Seq); !errors.Is(err, ErrMayBeBooked) {
				t.Errorf("Cancel: %v", err)
			}
			if _, err := NewUpdates(js).Get(t.Context(), w.Seq); err != nil {
				t.Errorf("it is gone: %v", err)
			}
		})
	}
}

func TestWhatWasOnlyRefusedSoFarIsCancelled(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	w := publishOne(t, js)
	tenure, end := tenureOf(t, js)
	tenure.Answered(update.Attempt{Seq: w.Seq, StoredAt: w.StoredAt, Attempts: 2, RequestID: "sys1-2", Timeout: time.Second})
	end(false)
	if err := cancelIt(t, js, w.Seq); err != nil {
		t.Fatal(err)
	}
}

// The result is there and the update still is: whoever takes over must not send it.
func TestACancellationThatWasInterruptedIsSettledForARelay(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	w := publishOne(t, js)
	j := newJournal(t, js)
	event := j.event(resultIDPrefix+Identity(w.Seq, w.StoredAt), EventData{
		UpdateID: w.UpdateID, Vorgangsnummer: w.Vorgangsnummer, Kind: w.Kind, Outcome: update.Discarded,
		UpdateSeq: w.Seq, ReceivedAt: w.StoredAt, SettledAt: time.Now(),
	}, "")
	if _, err := j.writeEvent(t.Context(), event); err != nil {
		t.Fatal(err)
	}
	tenure, end := tenureOf(t, js)
	defer end(true)
	if !tenure.Past(w.Seq, w.StoredAt).Settled {
		t.Error("a relay would send it")
	}
}
