package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
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
	updates := publishSome(t, js, "123456", 200)
	if _, err := js.Publish(t.Context(), "kex.vorgang.123456.x.y", []byte("text")); err != nil { // It has no partition.
		t.Fatal(err)
	}
	updates = publishSome(t, js, "123456", 0)
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

// fakeRelay has the right to send partition 0 and answers as it is told to.
type fakeRelay struct {
	mu    sync.Mutex
	asked map[uint64][]CancelStep
}

func (f *fakeRelay) steps(seq uint64) []CancelStep {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[seq]
}

// relayThat answers each request; an empty state is no answer.
func relayThat(t *testing.T, js jetstream.JetStream, answer func(CancelRequest) CancelAnswer) *fakeRelay {
	t.Helper()
	tenure, end := tenureOf(t, js)
	f := &fakeRelay{asked: map[uint64][]CancelStep{}}
	sub, err := js.Conn().Subscribe(topology.CancelSubject(tenure.lease.leases.Process()), func(msg *nats.Msg) {
		var r CancelRequest
		if err := json.Unmarshal(msg.Data, &r); err != nil {
			t.Error(err)
		}
		f.mu.Lock()
		f.asked[r.Seq] = append(f.asked[r.Seq], r.Step)
		f.mu.Unlock()
		if a := answer(r); a.State != "" {
			data, _ := json.Marshal(a)
			_ = msg.Respond(data)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sub.Unsubscribe()
		end(true)
	})
	return f
}

// A relay that only knows how to discard must not do that to what is to be erased.
func TestAnOlderRelayIsNotAskedToDiscardWhatIsErased(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	updates := publishSome(t, js, "123456", 1)
	relayThat(t, js, func(r CancelRequest) CancelAnswer { // As one did that knew no erasure.
		switch r.Step {
		case CancelBegin:
			return CancelAnswer{State: CancelReady}
		case CancelCommit:
			return CancelAnswer{State: CancelDone}
		default:
			return CancelAnswer{State: CancelFailed, Detail: "the relay does not know the step: it is of another version"}
		}
	})
	said, err := eraseThem(t, js, updates, func(w Waiting) { t.Errorf("update %d is removed", w.Seq) })
	refused := said[updates[0].Seq]
	if err != nil || refused == nil || !strings.Contains(refused.Error(), "of another version; if it is an older one it cannot erase: run this version of it") {
		t.Errorf("%v, %v", refused, err)
	}
	if !isWaiting(t, js, updates[0]) || len(outcomes(t, js)) != 0 {
		t.Error("something was done to it")
	}
}

// What a relay refuses, or does not confirm, stays, and why is said of each; the others go on.
func TestWhatARelayDoesNotEraseStaysAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	updates := publishSome(t, js, "123456", 10)
	j := newJournal(t, js)
	u := anUpdate(updates[7].Seq)
	u.ID, u.StoredAt = updates[7].UpdateID, updates[7].StoredAt
	settle(t, j, delivered(u))
	refuse := map[uint64]CancelState{2: CancelMayBeBooked, 3: CancelBeingSent, 4: CancelGone, 5: CancelSettled, 8: CancelSettled}
	commit := map[uint64]CancelState{6: CancelUnconfirmed, 7: CancelDone, 9: CancelErased}
	relay := relayThat(t, js, func(r CancelRequest) CancelAnswer {
		state := CancelReady
		switch r.Step {
		case CancelErase:
			if refused, ok := refuse[r.Seq]; ok {
				state = refused
			}
		case CancelCommit:
			state = CancelErased
			if other, ok := commit[r.Seq]; ok {
				state = other
			}
			if r.Seq == 9 { // It is taken out before anybody could overwrite it.
				if _, err := deleteUpdate(context.Background(), js, updates[8]); err != nil {
					t.Error(err)
				}
			}
		case CancelBegin, CancelRelease, CancelEnd:
			state = CancelReleased
		}
		return CancelAnswer{State: state, Detail: "detail"}
	})
	said, err := eraseThem(t, js, updates, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[uint64]error{
		2: ErrMayBeBooked, 3: ErrBeingSent, 4: ErrNoUpdate, 5: ErrSettled, 6: ErrCancelUnknown, 9: ErrNotOverwritten,
	}
	for _, w := range updates {
		refused := said[w.Seq]
		if w.Seq == 7 { // Discarded, which nobody asked for.
			if refused == nil {
				t.Error("a relay's word that it discarded is taken for an erasure")
			}
		} else if !errors.Is(refused, want[w.Seq]) {
			t.Errorf("update %d: %v, want %v", w.Seq, refused, want[w.Seq])
		}
		if gone := refused == nil || w.Seq == 9; isWaiting(t, js, w) == gone {
			t.Errorf("update %d (%v) is there: %v", w.Seq, refused, !gone)
		}
	}
	if got := relay.steps(1); !slices.Equal(got, []CancelStep{CancelErase, CancelCommit, CancelEnd}) {
		t.Errorf("steps of an erasure: %v", got)
	}
	for seq := range refuse {
		if got := relay.steps(seq); slices.Contains(got, CancelCommit) {
			t.Errorf("update %d: %v", seq, got)
		}
	}
}

// With nobody confirming anything not every update costs its time.
func TestARelayThatConfirmsNothingEndsTheErasure(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	updates := publishSome(t, js, "123456", 20)
	relay := relayThat(t, js, func(r CancelRequest) CancelAnswer {
		if r.Step == CancelCommit {
			return CancelAnswer{State: CancelUnconfirmed, Detail: "storage"}
		}
		return CancelAnswer{State: CancelReady}
	})
	said, err := eraseThem(t, js, updates, func(w Waiting) { t.Errorf("update %d is removed", w.Seq) })
	if !errors.Is(err, ErrCancelUnknown) || len(said) != maxUnconfirmed || relay.steps(updates[maxUnconfirmed].Seq) != nil {
		t.Errorf("%v, %v", said, err)
	}
}

// A relay that dies between begin and commit leaves it open whether the result is there: nothing is removed, and with the
// next try who has the right to send then says.
func TestARelayThatDiesInTheMiddleLeavesTheUpdate(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	updates := publishSome(t, js, "123456", 2)
	tenure, end := tenureOf(t, js)
	dead := make(chan struct{})
	if _, err := js.Conn().Subscribe(topology.CancelSubject(tenure.lease.leases.Process()), func(msg *nats.Msg) {
		data, _ := json.Marshal(CancelAnswer{State: CancelReady})
		_ = msg.Sub.Unsubscribe()
		_ = msg.Respond(data)
		close(dead)
	}); err != nil {
		t.Fatal(err)
	}
	go func() {
		<-dead
		end(false)
	}()
	said, err := eraseThem(t, js, updates, nil)
	if err != nil {
		t.Fatal(err)
	}
	if first := said[updates[0].Seq]; !errors.Is(first, ErrCancelUnknown) || !isWaiting(t, js, updates[0]) {
		t.Errorf("the one that was being erased: %v", first)
	}
	if second := said[updates[1].Seq]; second != nil || isWaiting(t, js, updates[1]) {
		t.Errorf("the next one: %v", second)
	}
	if said, err = eraseThem(t, js, updates, nil); err != nil || said[updates[0].Seq] != nil || isWaiting(t, js, updates[0]) {
		t.Errorf("again: %v, %v", said, err)
	}
	want := map[uint64][]update.Outcome{1: {update.Erased}, 2: {update.Erased}}
	if diff := cmp.Diff(want, outcomes(t, js)); diff != "" {
		t.Errorf("results: %s", diff)
	}
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
