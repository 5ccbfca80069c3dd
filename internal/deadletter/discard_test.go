package deadletter

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// audits are all audit events of an action.
func (b *bench) audits(tb testing.TB, action journal.Action) []journal.AuditEvent {
	tb.Helper()
	scan := journal.Scan{Stream: topology.StreamAudit, Filters: []string{topology.AuditSubject(string(action))}}
	var all []journal.AuditEvent
	for msg, err := range scan.Messages(tb.Context(), b.js) {
		if err != nil {
			tb.Fatal(err)
		}
		var event journal.AuditEvent
		if err := json.Unmarshal(msg.Data(), &event); err != nil {
			tb.Fatal(err)
		}
		all = append(all, event)
	}
	return all
}

func (b *bench) one(tb testing.TB, ref string) Summary {
	tb.Helper()
	found, err := b.store.Find(tb.Context(), ref)
	if err != nil || len(found) != 1 {
		tb.Fatalf("Find(%s): %v, %v", ref, found, err)
	}
	return found[0]
}

// objects counts the messages that hold objects, marks of removal left out.
func (b *bench) objectChunks(tb testing.TB) int {
	tb.Helper()
	n := 0
	scan := journal.Scan{Stream: streamDocuments, Filters: []string{"$O." + topology.BucketDocuments + ".C.>"}}
	for _, err := range scan.Messages(tb.Context(), b.js) {
		if err != nil {
			tb.Fatal(err)
		}
		n++
	}
	return n
}

func TestADiscardTellsAndRemovesTheObjectToo(t *testing.T) {
	b := setUp(t)
	large := aDeadLetter(1, "123456")
	large.Update.Header["X-Large"] = []string{strings.Repeat("v", 9000)}
	b.write(t, large, aDeadLetter(2, "123456"))
	if n := b.objectChunks(t); n != 1 {
		t.Fatalf("%d chunks of objects before", n)
	}
	done, err := b.store.Discard(t.Context(), 1, DiscardOptions{Because: "the customer withdrew"})
	if err != nil || done.Err != nil || done.UpdateID != "crm-1" {
		t.Fatalf("Discard: %+v, %v", done, err)
	}
	if got := b.letters(t); len(got) != 1 || got[0] != 2 {
		t.Errorf("left are %v", got)
	}
	if n := b.objectChunks(t); n != 0 {
		t.Errorf("%d chunks of objects are left", n)
	}
	events := b.events(t, update.Discarded)
	if len(events) != 1 || events[0].Data.DeadLetterSeq != 1 || events[0].Data.Detail != "the customer withdrew" || events[0].Data.UpdateSeq != 1 {
		t.Errorf("events %+v", events)
	}
	audits := b.audits(t, journal.ActionDiscard)
	if len(audits) != 1 || audits[0].Reason != "the customer withdrew" || audits[0].UpdateID != "crm-1" || audits[0].DeadLetterSeq != 1 || audits[0].Actor.Account == "" {
		t.Errorf("audit %+v", audits)
	}
	if done, err = b.store.Discard(t.Context(), 1, DiscardOptions{Because: "x"}); err != nil || !errors.Is(done.Err, ErrNotFound) {
		t.Errorf("again: %+v, %v", done, err)
	}
}

func TestAnInterruptedDiscardGoesOnAndIsToldOnce(t *testing.T) {
	for _, at := range []step{stepClaimed, stepTold, stepBodyRemoved} {
		t.Run(string(at), func(t *testing.T) {
			b := setUp(t)
			b.write(t, aDeadLetter(1, "123456"))
			killed := errors.New("killed")
			b.store.interrupt = func(now step) error {
				if now == at {
					return killed
				}
				return nil
			}
			if _, err := b.store.Discard(t.Context(), 1, DiscardOptions{Because: "x"}); !errors.Is(err, killed) {
				t.Fatalf("Discard: %v", err)
			}
			b.store.interrupt = nil
			// Nobody sends what somebody is discarding.
			items, _, err := replay(t, b.store, Selection{Seqs: []uint64{1}}, PlanOptions{})
			if err == nil && (len(items) != 1 || items[0].Result != Skipped) || len(b.updates(t)) != 0 {
				t.Errorf("a replay of it: %+v, %v", items, err)
			}
			if done, err := b.store.Discard(t.Context(), 1, DiscardOptions{Because: "x"}); err != nil || done.Err != nil {
				t.Fatalf("again: %+v, %v", done, err)
			}
			if len(b.letters(t)) != 0 || len(b.events(t, update.Discarded)) != 1 || len(b.audits(t, journal.ActionDiscard)) != 1 {
				t.Errorf("letters %v, events %v", b.letters(t), b.events(t, update.Discarded))
			}
		})
	}
}

func TestWhatIsBeingReplayedIsNotDiscarded(t *testing.T) {
	b := setUp(t)
	b.write(t, aDeadLetter(1, "123456"))
	letter := b.one(t, "1")
	claims := journal.NewClaims(b.js)
	_, _, err := claims.Acquire(t.Context(), journal.Claim{
		DeadLetterSeq: 1, DeadLetterAt: letter.StoredAt, UpdateID: letter.UpdateID, TraceID: letter.TraceID, Replays: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, force := range []bool{false, true} { // It was begun a moment ago: whoever began it is at it.
		done, err := b.store.Discard(t.Context(), 1, DiscardOptions{Because: "x", Force: force})
		if err != nil || !errors.Is(done.Err, ErrClaimed) || !strings.Contains(done.Err.Error(), "kexrelay deadletters replay 1") {
			t.Errorf("force %v: %+v, %v", force, done, err)
		}
	}
	if len(b.letters(t)) != 1 || len(b.events(t, update.Discarded)) != 0 {
		t.Error("it was discarded")
	}
}
