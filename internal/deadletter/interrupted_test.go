package deadletter

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

func aReason(r fault.Reason) []fault.Reason { return []fault.Reason{r} }

var errKilled = errors.New("killed")

// killAt ends a store's replays after a step, as a crash would.
func killAt(s *Store, at step) {
	s.interrupt = func(now step) error {
		if now == at {
			return errKilled
		}
		return nil
	}
}

// forget lets the server forget all message IDs, as after the duplicate window or a restart.
func (b *bench) forget(tb testing.TB) {
	tb.Helper()
	b.forgetIn(tb, topology.StreamUpdates, "kex.vorgang.0.probe")
	b.forgetIn(tb, topology.StreamResults, "kex.result.probe.0.probe")
}

// forgetIn shortens a stream's duplicate window until an ID of its own is taken a second time. It is changed each time,
// because a server that is changing the window may set its timer by the one before.
func (b *bench) forgetIn(tb testing.TB, name, subject string) {
	tb.Helper()
	stream, err := b.js.Stream(tb.Context(), name)
	if err != nil {
		tb.Fatal(err)
	}
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	for taken, n := 0, 0; taken < 2; n++ {
		if n > 1000 {
			tb.Fatal("the duplicate window does not end")
		}
		b.change(tb, name, func(cfg *jetstream.StreamConfig) {
			cfg.Duplicates = 100*time.Millisecond + time.Duration(n%2)*time.Millisecond
		})
		ack, err := b.js.Publish(tb.Context(), subject, nil, jetstream.WithMsgID("probe"))
		if err != nil {
			tb.Fatal(err)
		}
		if !ack.Duplicate {
			taken++
			if err := stream.DeleteMsg(tb.Context(), ack.Sequence); err != nil {
				tb.Fatal(err)
			}
		}
		<-ticks.C
	}
}

// What happens to the update between the crash and the next call.
var fates = map[string]func(*testing.T, *bench){
	"waits": func(*testing.T, *bench) {},
	"was delivered": func(t *testing.T, b *bench) {
		t.Helper()
		for _, msg := range b.updates(t) {
			b.settleReplay(t, msg.Sequence, asDelivered)
		}
	},
	"became a dead letter": func(t *testing.T, b *bench) {
		t.Helper()
		for _, msg := range b.updates(t) {
			b.settleReplay(t, msg.Sequence, asDeadLetter)
		}
	},
}

func TestAReplayIsContinuedWhereverItWasInterrupted(t *testing.T) {
	for _, at := range []step{stepClaimed, stepPublished, stepMarked, stepTold, stepBodyRemoved} {
		for fate, happens := range fates {
			for _, forgotten := range []bool{false, true} {
				t.Run(fmt.Sprintf("killed when %s, the update %s, IDs forgotten %v", at, fate, forgotten), func(t *testing.T) {
					b := setUp(t)
					s := aDeadLetter(1, "123456")
					s.Update.Header["X-Large"] = []string{strings.Repeat("v", 9000)} // Its body is in an object.
					b.write(t, s)
					crashed := newStore(t, b.js)
					killAt(crashed, at)
					if _, _, err := replay(t, crashed, Selection{Seqs: []uint64{1}}, PlanOptions{}); !errors.Is(err, errKilled) {
						t.Fatalf("killed: %v", err)
					}
					happens(t, b)
					if forgotten {
						b.forget(t)
					}
					for again := range 2 {
						items, _, err := replay(t, b.store, Selection{Seqs: []uint64{1}}, PlanOptions{})
						if err != nil || len(items) != 1 {
							t.Fatalf("continued: %v, %v", items, err)
						}
						want := Duplicate
						if at == stepClaimed {
							want = Replayed
						}
						if again > 0 {
							want = Skipped
						}
						if items[0].Result != want || again == 0 && items[0].UpdateSeq == 0 {
							t.Errorf("continued: %+v, want %s", items[0], want)
						}
					}
					b.wantPublishedOnce(t, fate != "waits" && at != stepClaimed)
				})
			}
		}
	}
}

// wantPublishedOnce checks that the update was published once (gone says that it was settled since) and told once.
func (b *bench) wantPublishedOnce(t *testing.T, gone bool) {
	t.Helper()
	published := len(b.updates(t))
	if gone {
		published += len(b.events(t, update.Delivered)) + len(b.events(t, update.DeadLettered)) - 1 // One is the first dead letter's.
	}
	if published != 1 {
		t.Errorf("published %d times", published)
	}
	if n := len(b.events(t, update.Replayed)); n != 1 {
		t.Errorf("%d replayed events, want 1", n)
	}
	for _, seq := range b.letters(t) {
		if seq == 1 {
			t.Error("the dead letter is still there")
		}
	}
}

func TestAReplayThatNobodyCanKnowAboutIsNotRepeatedUnasked(t *testing.T) {
	b := setUp(t)
	b.write(t, aDeadLetter(1, "123456"))
	crashed := newStore(t, b.js)
	killAt(crashed, stepPublished)
	if _, _, err := replay(t, crashed, Selection{Seqs: []uint64{1}}, PlanOptions{}); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	b.settleReplay(t, 1, asDelivered)
	b.forget(t)
	results, err := b.js.Stream(t.Context(), topology.StreamResults)
	if err != nil {
		t.Fatal(err)
	}
	if err := results.Purge(t.Context()); err != nil { // As if they had expired.
		t.Fatal(err)
	}
	for range 2 {
		items, _, err := replay(t, b.store, Selection{All: true}, PlanOptions{})
		if err != nil || len(items) != 1 || items[0].Result != Skipped || !errors.Is(items[0].Err, ErrUnsure) {
			t.Fatalf("%+v, %v; want it skipped as unsure", items, err)
		}
	}
	if n := len(b.updates(t)); n != 0 {
		t.Errorf("%d updates published unasked", n)
	}
	items, _, err := replay(t, b.store, Selection{All: true}, PlanOptions{AllowDuplicates: true})
	if err != nil || len(items) != 1 || items[0].Result != Replayed {
		t.Errorf("asked for: %+v, %v", items, err)
	}
}

func TestResultsYoungerThanTheClaimProveNothing(t *testing.T) {
	b := setUp(t)
	reaches := func(at time.Time) bool {
		t.Helper()
		certain, err := b.store.resultsReachBack(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		return certain
	}
	if reaches(time.Now().Add(-time.Hour)) {
		t.Error("a stream created after the claim counts as evidence")
	}
	if !reaches(time.Now()) {
		t.Error("a stream that never lost anything does not count as evidence")
	}
	before := time.Now()
	b.write(t, asDeliveredSeq(1), asDeliveredSeq(2))
	stream, err := b.js.Stream(t.Context(), topology.StreamResults)
	if err != nil {
		t.Fatal(err)
	}
	if !reaches(before) {
		t.Error("results that are all there do not count as evidence")
	}
	if err := stream.DeleteMsg(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if reaches(before) {
		t.Error("a result that is gone could have been the one")
	}
	if !reaches(time.Now()) {
		t.Error("the results go back far enough")
	}
}

func asDeliveredSeq(seq uint64) *update.Settlement {
	s := asDelivered(aDeadLetter(seq, "1").Update)
	s.RequestID = "x"
	return s
}

func TestOldClaimsAreSweptWhenNothingNeedsThem(t *testing.T) {
	b := setUp(t)
	b.write(t, aDeadLetter(1, "1"), aDeadLetter(2, "1"), aDeadLetter(3, "1"))
	interrupted := newStore(t, b.js)
	killAt(interrupted, stepTold)
	if _, _, err := replay(t, interrupted, Selection{Seqs: []uint64{3}}, PlanOptions{}); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	if _, totals, err := replay(t, b.store, Selection{Seqs: []uint64{1, 2}}, PlanOptions{}); err != nil || totals.Replayed != 2 {
		t.Fatalf("%+v, %v", totals, err)
	}
	b.settleReplay(t, 1, asDelivered) // That of dead letter 3, which is still there.
	b.settleReplay(t, 2, asDelivered) // That of dead letter 1; the message of 2 still waits.
	claims := journal.NewClaims(b.js)
	if n, err := b.store.sweepClaims(t.Context(), 10, time.Now().Add(-time.Hour), 0); n != 0 || err != nil {
		t.Errorf("young claims: %d swept, %v", n, err)
	}
	if n, err := b.store.sweepClaims(t.Context(), 10, time.Now().Add(time.Hour), 0); n != 1 || err != nil {
		t.Errorf("%d swept, %v; want the one of the settled update", n, err)
	}
	letter, err := b.store.Show(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	if _, found, err := claims.Get(t.Context(), 3, letter.StoredAt); !found || err != nil {
		t.Errorf("a dead letter that is still there lost its claim: %v", err)
	}
	for _, msg := range b.updates(t) {
		if claim, err := claims.Lookup(t.Context(), msg.Header); claim == nil || err != nil {
			t.Errorf("update %d lost its claim: %v", msg.Sequence, err)
		}
	}
}

func TestUnconfirmedClaimsAreSweptWhenNoUpdateCanBeTheirs(t *testing.T) {
	b := setUp(t)
	b.write(t, aDeadLetter(1, "1"), aDeadLetter(2, "1"), aDeadLetter(3, "1"))
	for i, at := range []step{stepClaimed, stepPublished, stepClaimed} {
		interrupted := newStore(t, b.js)
		killAt(interrupted, at)
		if _, _, err := replay(t, interrupted, Selection{Seqs: []uint64{uint64(i + 1)}}, PlanOptions{}); !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
	}
	letters, err := b.js.Stream(t.Context(), topology.StreamDeadLetters)
	if err != nil {
		t.Fatal(err)
	}
	for _, seq := range []uint64{1, 2} { // By hand.
		if err := letters.DeleteMsg(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	sweep := func(want int, margin time.Duration, why string) {
		t.Helper()
		if n, err := b.store.sweepClaims(t.Context(), 10, time.Now().Add(time.Hour), margin); n != want || err != nil {
			t.Errorf("%s: %d swept, %v; want %d", why, n, err, want)
		}
	}
	sweep(0, time.Hour, "one of them has an update that waits")
	for _, msg := range b.updates(t) {
		b.settleReplay(t, msg.Sequence, asDelivered)
	}
	if _, err := b.js.Publish(t.Context(), "kex.vorgang.7.kommentare", []byte(`["younger"]`)); err != nil {
		t.Fatal(err)
	}
	sweep(0, time.Hour, "the oldest update is not much younger")
	sweep(2, 0, "the oldest update is much younger")
	if err := letters.DeleteMsg(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	updates, err := b.js.Stream(t.Context(), topology.StreamUpdates)
	if err != nil {
		t.Fatal(err)
	}
	if err := updates.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	sweep(0, time.Hour, "no update, but the claim is young")
	sweep(1, 0, "no update, and the claim is old")
}

// Whoever took the new message back has told of it, and the server has forgotten its ID: it must not be published again.
func TestAnInterruptedReplayThatWasTakenBackIsNotPublishedAgain(t *testing.T) {
	for _, outcome := range []update.Outcome{update.Discarded, update.Erased} {
		t.Run(string(outcome), func(t *testing.T) {
			b := setUp(t)
			b.write(t, aDeadLetter(1, "123456"))
			crashed := newStore(t, b.js)
			killAt(crashed, stepPublished)
			if _, _, err := replay(t, crashed, Selection{Seqs: []uint64{1}}, PlanOptions{}); !errors.Is(err, errKilled) {
				t.Fatalf("killed: %v", err)
			}
			msg := b.updates(t)[0]
			if err := b.store.journal.Notice(t.Context(), journal.Notice{
				Outcome: outcome, Key: "test",
				Data: journal.EventData{
					UpdateID: "crm-1", Vorgangsnummer: "123456", Kind: update.Comments, UpdateSeq: msg.Sequence, ReplayOf: 1,
				},
			}); err != nil {
				t.Fatal(err)
			}
			stream, err := b.js.Stream(t.Context(), topology.StreamUpdates)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.DeleteMsg(t.Context(), msg.Sequence); err != nil {
				t.Fatal(err)
			}
			b.forget(t)
			items, _, err := replay(t, b.store, Selection{Seqs: []uint64{1}}, PlanOptions{})
			if err != nil || len(items) != 1 || items[0].Result != Duplicate || items[0].UpdateSeq != msg.Sequence {
				t.Fatalf("continued: %+v, %v", items, err)
			}
			if end := items[0].End; end == nil || end.Outcome != outcome {
				t.Errorf("it ended as %+v, want %s", end, outcome)
			}
			if n := len(b.updates(t)); n != 0 {
				t.Errorf("it was published again: %d updates", n)
			}
		})
	}
}
