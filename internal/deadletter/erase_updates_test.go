package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// fakeRelay has the right to send partition 0, and counts what it is asked of each update.
type fakeRelay struct {
	mu    sync.Mutex
	steps map[uint64][]journal.CancelStep
}

// relayThat answers an erasure's begin as it is told to, an empty state like ready, and confirms everything else. written
// takes its place before the commit is answered, unless it is nil.
func (b *bench) relayThat(t *testing.T, begin map[uint64]journal.CancelState, written func(journal.Waiting) journal.CancelState) *fakeRelay {
	t.Helper()
	leases := journal.NewLeases(b.js, "a relay", slog.New(slog.DiscardHandler))
	lease, err := leases.Campaign(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lease.Release(context.Background()) })
	f := &fakeRelay{steps: map[uint64][]journal.CancelStep{}}
	sub, err := b.js.Conn().Subscribe(topology.CancelSubject(leases.Process()), func(msg *nats.Msg) {
		var r journal.CancelRequest
		if err := json.Unmarshal(msg.Data, &r); err != nil {
			t.Error(err)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.steps[r.Seq] = append(f.steps[r.Seq], r.Step)
		state := journal.CancelReleased
		switch r.Step {
		case journal.CancelErase:
			if state = begin[r.Seq]; state == "" {
				state = journal.CancelReady
			}
		case journal.CancelCommit:
			state = b.erased(t, r, written)
		case journal.CancelBegin:
			t.Errorf("update %d is to be discarded", r.Seq)
		case journal.CancelRelease, journal.CancelEnd:
		}
		data, _ := json.Marshal(journal.CancelAnswer{State: state})
		_ = msg.Respond(data)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	return f
}

// erased writes the result that a relay writes.
func (b *bench) erased(t *testing.T, r journal.CancelRequest, written func(journal.Waiting) journal.CancelState) journal.CancelState {
	t.Helper()
	w, err := journal.NewUpdates(b.js).Get(context.Background(), r.Seq)
	if err == nil {
		err = b.journal.Withdraw(context.Background(), w, update.Erased, update.Past{}, nil, r.Reason)
	}
	if err != nil {
		t.Error(err)
	}
	if written != nil {
		return written(w)
	}
	return journal.CancelErased
}

func (f *fakeRelay) asked(seq uint64) []journal.CancelStep {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.steps[seq]
}

// publish publishes updates of Vorgang 100 and one of another.
func (b *bench) publish(t *testing.T, n int) {
	t.Helper()
	for i := range n + 1 {
		vorgang := "100"
		if i == n {
			vorgang = "1001"
		}
		if _, err := b.js.Publish(t.Context(), "kex.vorgang."+vorgang+".kommentare", []byte(`["text"]`), jetstream.WithMsgID(fmt.Sprintf("crm-%d", i+1))); err != nil {
			t.Fatal(err)
		}
	}
}

// left are the sequences of the updates that wait.
func (b *bench) left(t *testing.T) []uint64 {
	t.Helper()
	var seqs []uint64
	for _, msg := range b.updates(t) {
		seqs = append(seqs, msg.Sequence)
	}
	return seqs
}

// What the relay refuses is named and asked for once, however often Erase looks; everything else goes, dead letters included.
func TestWhatIsRefusedIsNamedAndTheRestErased(t *testing.T) {
	b := setUp(t)
	b.publish(t, 5)
	b.write(t, aDeadLetter(50, "100"))
	relay := b.relayThat(t, map[uint64]journal.CancelState{2: journal.CancelMayBeBooked, 4: journal.CancelSettled}, nil)
	done, err := b.store.Erase(t.Context(), "100", "Art. 17")
	left, some := errors.AsType[*LeftError](err)
	if !some || done != (Holding{Updates: 3, DeadLetters: 1}) {
		t.Fatalf("Erase: %+v, %v", done, err)
	}
	if len(left.Updates) != 2 || left.Updates[0].UpdateSeq != 2 || left.Updates[0].UpdateID != "crm-2" ||
		!errors.Is(left.Updates[0].Err, journal.ErrMayBeBooked) || left.Updates[1].UpdateSeq != 4 || !errors.Is(left.Updates[1].Err, journal.ErrSettled) {
		t.Errorf("left: %+v", left.Updates)
	}
	if got := b.left(t); !slices.Equal(got, []uint64{2, 4, 6}) {
		t.Errorf("waiting: %v", got)
	}
	for _, seq := range []uint64{2, 4} {
		if got := relay.asked(seq); len(got) != 1 {
			t.Errorf("update %d was asked for %d times", seq, len(got))
		}
	}
	if got := b.events(t, update.Erased); len(got) != 4 {
		t.Errorf("%d erased events", len(got))
	}
	audits := b.audits(t, journal.ActionErase)
	if last := audits[len(audits)-1]; last.Details["state"] != "incomplete" || last.Details["left"] != "2" {
		t.Errorf("audit %+v", last)
	}
}

// What nobody has confirmed is asked for once more, and goes on where it was: with one result.
func TestWhatWasNotConfirmedIsLookedAtOnceMore(t *testing.T) {
	b := setUp(t)
	b.publish(t, 2)
	begin := map[uint64]journal.CancelState{}
	b.relayThat(t, begin, func(w journal.Waiting) journal.CancelState {
		if w.Seq == 1 {
			begin[1] = journal.CancelSettled // Next time; the answer to this one is lost.
			return journal.CancelUnconfirmed
		}
		return journal.CancelErased
	})
	done, err := b.store.Erase(t.Context(), "100", "Art. 17")
	if err != nil || done.Updates != 2 {
		t.Errorf("Erase: %+v, %v", done, err)
	}
	if got := b.left(t); !slices.Equal(got, []uint64{3}) || len(b.events(t, update.Erased)) != 2 {
		t.Errorf("waiting: %v; %d erased events", got, len(b.events(t, update.Erased)))
	}
}

// An update that its relay lets go before it is overwritten is erased for the API, and not in the servers' files: said.
func TestWhatCouldNotBeOverwrittenIsNamed(t *testing.T) {
	b := setUp(t)
	b.publish(t, 1)
	stream, err := b.js.Stream(t.Context(), topology.StreamUpdates)
	if err != nil {
		t.Fatal(err)
	}
	b.relayThat(t, nil, func(w journal.Waiting) journal.CancelState {
		if err := stream.DeleteMsg(context.Background(), w.Seq); err != nil {
			t.Error(err)
		}
		return journal.CancelErased
	})
	_, err = b.store.Erase(t.Context(), "100", "Art. 17")
	if left, some := errors.AsType[*LeftError](err); !some || len(left.Updates) != 1 || !errors.Is(left.Updates[0].Err, journal.ErrNotOverwritten) {
		t.Errorf("Erase: %v", err)
	}
}

// An erasure that was killed between an update's result and its removal is gone on with: objects and all, and one result.
func TestAnInterruptedErasureOfUpdatesGoesOn(t *testing.T) {
	b := setUp(t)
	documents, err := b.js.ObjectStore(t.Context(), topology.BucketDocuments)
	if err != nil {
		t.Fatal(err)
	}
	const name = "0b5c3c1e-1111-4222-8333-444444444444"
	if _, err := documents.PutBytes(t.Context(), name, []byte("content")); err != nil {
		t.Fatal(err)
	}
	reference := fmt.Appendf(nil, `{"filename":"a.pdf","object":{"bucket":"KEX_DOCUMENTS","name":"%s","size":7,"digest":"x"}}`, name)
	if _, err := b.js.Publish(t.Context(), "kex.vorgang.100.dokument", reference); err != nil {
		t.Fatal(err)
	}
	w, err := journal.NewUpdates(b.js).Get(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.journal.Withdraw(t.Context(), w, update.Erased, update.Past{}, nil, "Art. 17"); err != nil {
		t.Fatal(err)
	}
	b.forgetIn(t, topology.StreamResults, "kex.result.probe.0.probe")
	done, err := b.store.Erase(t.Context(), "100", "again")
	if err != nil || done != (Holding{Updates: 1, Objects: 1}) {
		t.Errorf("Erase: %+v, %v", done, err)
	}
	if got := b.left(t); len(got) != 0 || len(b.events(t, update.Erased)) != 1 {
		t.Errorf("waiting: %v; %d erased events", got, len(b.events(t, update.Erased)))
	}
}
