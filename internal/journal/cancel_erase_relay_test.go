package journal

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

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
		case CancelRelease:
			return CancelAnswer{State: CancelReleased}
		case CancelErase, CancelEnd:
		}
		return CancelAnswer{State: CancelFailed, Detail: "the relay does not know the step: it is of another version"}
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
