package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// publishSome publishes n updates of a Vorgang and gives them as they wait.
func publishSome(t *testing.T, js jetstream.JetStream, vorgangsnummer string, n int) []Waiting {
	t.Helper()
	for i := range n {
		if _, err := js.PublishMsg(t.Context(), &nats.Msg{
			Subject: "kex.vorgang." + vorgangsnummer + ".kommentare", Data: []byte(`["text"]`),
			Header: nats.Header{update.HeaderMsgID: {fmt.Sprintf("crm-%s-%d", vorgangsnummer, i)}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	var all []Waiting
	for w, err := range NewUpdates(js).OfVorgang(t.Context(), vorgangsnummer) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, w)
	}
	return all
}

// told is what Each said of each update, by its sequence.
type told map[uint64]error

// eraseThem erases updates; remove is called beside the deletion, unless it is nil.
func eraseThem(t *testing.T, js jetstream.JetStream, updates []Waiting, remove func(Waiting)) (told, error) {
	t.Helper()
	publisher := NewPublisher(js, PublisherConfig{})
	defer publisher.Close()
	timing := defaultLeaseTiming()
	timing.stale, timing.poll = 300*time.Millisecond, 10*time.Millisecond // No relay of these tests lives.
	said := told{}
	err := Cancellation{
		Outcome: update.Erased, Reason: "Art. 17", Source: source, Name: "test", Auditor: NewAuditor(js, publisher, Actor{}), timing: timing,
		Remove: func(ctx context.Context, w Waiting) (bool, error) {
			if remove != nil {
				remove(w)
			}
			return deleteUpdate(ctx, js, w)
		},
	}.Each(t.Context(), js, updates, func(w Waiting, refused error) error {
		if _, twice := said[w.Seq]; twice {
			t.Errorf("update %d was told of twice", w.Seq)
		}
		said[w.Seq] = refused
		return nil
	})
	return said, err
}

// outcomes are those of the results there are, by update.
func outcomes(t *testing.T, js jetstream.JetStream) map[uint64][]update.Outcome {
	t.Helper()
	all := map[uint64][]update.Outcome{}
	for e, err := range NewResults(js).List(t.Context(), ResultFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		all[e.Data.UpdateSeq] = append(all[e.Data.UpdateSeq], e.Data.Outcome)
	}
	return all
}

// isWaiting reports whether an update is in the stream.
func isWaiting(t *testing.T, js jetstream.JetStream, w Waiting) bool {
	t.Helper()
	_, err := NewUpdates(js).Get(t.Context(), w.Seq)
	if err != nil && !errors.Is(err, ErrNoUpdate) {
		t.Fatal(err)
	}
	return err == nil
}

// A person's many updates cost one taking over and not one each; each has one result before it goes, and others stay.
func TestManyAreErasedWithTheRightToSendTakenOnce(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	other := publishSome(t, js, "7", 1)
	publishSome(t, js, "123456", 200)
	if _, err := js.Publish(t.Context(), "kex.vorgang.123456.x.y", []byte("text")); err != nil { // It has no partition.
		t.Fatal(err)
	}
	updates := publishSome(t, js, "123456", 0)
	if len(updates) != 201 {
		t.Fatalf("%d updates", len(updates))
	}
	results := NewResults(js)
	said, err := eraseThem(t, js, updates, func(w Waiting) {
		if e, found, err := results.Settlement(t.Context(), w); err != nil || !found || e.Data.Outcome != update.Erased || e.Data.Detail != "Art. 17" {
			t.Errorf("update %d goes before its result: %+v, %v", w.Seq, e.Data, err)
		}
		if len(w.Body) == 0 {
			t.Errorf("update %d is removed by somebody who does not know its objects", w.Seq)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	got := outcomes(t, js)
	for _, w := range updates {
		if refused, ok := said[w.Seq]; !ok || refused != nil || isWaiting(t, js, w) || !slices.Equal(got[w.Seq], []update.Outcome{update.Erased}) {
			t.Errorf("update %d: %v, results %v", w.Seq, refused, got[w.Seq])
		}
	}
	if !isWaiting(t, js, other[0]) || got[other[0].Seq] != nil {
		t.Error("another Vorgang's update is gone")
	}
	holders, err := NewLeases(js, "", discard()).Holders(t.Context())
	if err != nil || len(holders) != 1 || holders[0].Epoch != 1 || !holders[0].Released {
		t.Errorf("holders: %+v, %v", holders, err)
	}
}

// The result is there and the update still is, as after a crash: whoever takes over must not send it, and another erasure
// goes on without a second result. What was delivered and only not acknowledged goes too.
func TestWhatHasItsResultIsTakenOutAndNotSettledTwice(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	updates := publishSome(t, js, "123456", 3)
	j := newJournal(t, js)
	if err := j.Withdraw(t.Context(), updates[0], update.Erased, update.Past{}, nil, "Art. 17"); err != nil {
		t.Fatal(err)
	}
	if err := j.Withdraw(t.Context(), updates[0], update.Erased, update.Past{}, nil, "again"); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := j.Withdraw(t.Context(), updates[0], update.Discarded, update.Past{}, nil, "x"); !errors.Is(err, ErrSettled) {
		t.Errorf("discarding what is erased: %v", err)
	}
	u := anUpdate(updates[1].Seq)
	u.ID, u.StoredAt = updates[1].UpdateID, updates[1].StoredAt
	settle(t, j, delivered(u))
	tenure, end := tenureOf(t, js)
	for i, settled := range []bool{true, true, false} {
		if got := tenure.Past(updates[i].Seq, updates[i].StoredAt).Settled; got != settled {
			t.Errorf("update %d is settled for a relay: %v", updates[i].Seq, got)
		}
	}
	end(true)
	said, err := eraseThem(t, js, updates, nil)
	if diff := cmp.Diff(told{1: nil, 2: nil, 3: nil}, said); diff != "" || err != nil {
		t.Errorf("%v: %s", err, diff)
	}
	want := map[uint64][]update.Outcome{1: {update.Erased}, 2: {update.Delivered}, 3: {update.Erased}}
	if diff := cmp.Diff(want, outcomes(t, js)); diff != "" {
		t.Errorf("results: %s", diff)
	}
	for _, w := range updates {
		if isWaiting(t, js, w) {
			t.Errorf("update %d is still there", w.Seq)
		}
	}
}

// A booking that comes to light after the erasure is told of in words that fit.
func TestABookingAfterAnErasureIsTold(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	w := publishOne(t, js)
	j := newJournal(t, js)
	if err := j.Withdraw(t.Context(), w, update.Erased, update.Past{}, nil, "Art. 17"); err != nil {
		t.Fatal(err)
	}
	u := anUpdate(w.Seq)
	u.ID, u.StoredAt = w.UpdateID, w.StoredAt
	settle(t, j, delivered(u))
	for e, err := range NewResults(js).List(t.Context(), ResultFilter{Outcomes: []update.Outcome{update.DoubleBooked}}) {
		if err != nil || !strings.Contains(e.Data.Detail, "an operator had taken it back before: it is erased") {
			t.Errorf("%+v, %v", e.Data, err)
		}
		return
	}
	t.Error("nobody is told")
}

// The server forgets IDs after the duplicate window; a repeat finds the result all the same.
func TestARepeatedErasureWritesNoSecondResultWhenTheServerHasForgottenTheFirst(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	w := publishOne(t, js)
	j := newJournal(t, js)
	if err := j.Withdraw(t.Context(), w, update.Erased, update.Past{}, nil, "Art. 17"); err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), topology.StreamResults)
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	for taken, n := 0, 0; taken < 2; n++ { // Each time another window: the server may set its timer by the one before.
		cfg.Duplicates = 100*time.Millisecond + time.Duration(n%2)*time.Millisecond
		if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		ack, err := js.Publish(t.Context(), "kex.result.probe.0.probe", nil, jetstream.WithMsgID("probe"))
		if err != nil || n > 1000 {
			t.Fatal("the duplicate window does not end", err)
		}
		if !ack.Duplicate {
			taken++
		}
		<-ticks.C
	}
	if err := j.Withdraw(t.Context(), w, update.Erased, update.Past{}, nil, "again"); err != nil {
		t.Fatal(err)
	}
	if err := j.Withdraw(t.Context(), w, update.Discarded, update.Past{}, nil, "x"); !errors.Is(err, ErrSettled) {
		t.Errorf("discarding what is erased: %v", err)
	}
	if got := outcomes(t, js)[w.Seq]; !slices.Equal(got, []update.Outcome{update.Erased}) {
		t.Errorf("results %v", got)
	}
}
