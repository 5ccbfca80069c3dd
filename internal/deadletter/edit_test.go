package deadletter

import (
	"errors"
	"strings"
	"testing"

	"kexrelay/internal/journal"
	"kexrelay/internal/update"
)

func TestAnEditIsAReplayWithAnotherBodyAndItsLineage(t *testing.T) {
	b := setUp(t)
	b.write(t, aDeadLetter(7, "123456"))
	letter := b.one(t, "crm-7")
	item, err := b.store.Edit(t.Context(), letter, []byte(`["better"]`))
	if err != nil || item.Result != Replayed || item.UpdateSeq != 1 {
		t.Fatalf("Edit: %+v, %v", item, err)
	}
	updates := b.updates(t)
	if len(updates) != 1 || string(updates[0].Data) != `["better"]` || updates[0].Header.Get("X-Tenant") != "a" {
		t.Fatalf("updates %v", updates)
	}
	lineage, err := journal.NewClaims(b.js).Lookup(t.Context(), updates[0].Header)
	if err != nil || lineage == nil || lineage.UpdateID != "crm-7" || lineage.DeadLetterSeq != letter.Seq || lineage.Replays != 1 {
		t.Errorf("lineage %+v, %v", lineage, err)
	}
	if events := b.events(t, update.Replayed); len(events) != 1 || events[0].Data.ReplayOf != letter.Seq {
		t.Errorf("events %+v", events)
	}
	audits := b.audits(t, journal.ActionEdit)
	if len(audits) != 1 || audits[0].DigestBefore != digestOf([]byte(`["comment 7"]`)) || audits[0].DigestAfter != digestOf([]byte(`["better"]`)) {
		t.Errorf("audit %+v", audits)
	}
	if len(b.letters(t)) != 0 {
		t.Error("the dead letter is still there")
	}
	if _, err := b.store.Edit(t.Context(), letter, []byte(`["again"]`)); !errors.Is(err, ErrNotFound) {
		t.Errorf("an edit of what is gone: %v", err)
	}
}

func TestWhatCannotBeRightOrIsTheSameIsNotSent(t *testing.T) {
	b := setUp(t)
	b.write(t, aDeadLetter(1, "123456"))
	letter := b.one(t, "1")
	for body, want := range map[string]error{
		`["comment 1"]`: ErrUnchanged, `[]`: ErrInvalidBody, `["x"`: ErrInvalidBody, ``: ErrInvalidBody, `{"filename":"a"}`: ErrInvalidBody,
	} {
		if _, err := b.store.Edit(t.Context(), letter, []byte(body)); !errors.Is(err, want) {
			t.Errorf("%s: %v", body, err)
		}
	}
	if len(b.updates(t)) != 0 || len(b.letters(t)) != 1 || len(b.audits(t, journal.ActionEdit)) != 0 {
		t.Error("something was done")
	}
	claim, found, err := journal.NewClaims(b.js).Get(t.Context(), letter.Seq, letter.StoredAt)
	if err != nil || found {
		t.Errorf("it is claimed: %+v, %v", claim, err)
	}
}

func TestAnInterruptedEditGoesOnAndSendsOnce(t *testing.T) {
	for _, at := range []step{stepClaimed, stepPublished, stepMarked, stepTold} {
		t.Run(string(at), func(t *testing.T) {
			b := setUp(t)
			b.write(t, aDeadLetter(1, "123456"))
			letter := b.one(t, "1")
			killed := errors.New("killed")
			b.store.interrupt = func(now step) error {
				if now == at {
					return killed
				}
				return nil
			}
			if _, err := b.store.Edit(t.Context(), letter, []byte(`["first"]`)); !errors.Is(err, killed) {
				t.Fatalf("Edit: %v", err)
			}
			b.store.interrupt = nil
			if items, _, err := replay(t, b.store, Selection{Seqs: []uint64{1}}, PlanOptions{}); err == nil && len(items) == 1 && items[0].Result != Skipped {
				t.Errorf("the old body is sent: %+v", items)
			}
			item, err := b.store.Edit(t.Context(), letter, []byte(`["second"]`))
			if err != nil {
				t.Fatalf("again: %v", err)
			}
			want, result := `["first"]`, Duplicate
			if at == stepClaimed { // The first was not sent.
				want, result = `["second"]`, Replayed
			}
			updates := b.updates(t)
			if len(updates) != 1 || string(updates[0].Data) != want || item.Result != result {
				t.Errorf("sent %d, %s; %+v", len(updates), updates[0].Data, item)
			}
			if len(b.letters(t)) != 0 || len(b.events(t, update.Replayed)) != 1 {
				t.Errorf("letters %v", b.letters(t))
			}
		})
	}
}

func TestARevealIsToldBeforeItIsShown(t *testing.T) {
	b := setUp(t)
	b.write(t, aDeadLetter(1, "123456"))
	letter := b.one(t, "sys1")
	for n := 1; n <= 2; n++ {
		body, err := b.store.Reveal(t.Context(), letter)
		if err != nil || string(body.Data) != `["comment 1"]` {
			t.Fatalf("Reveal: %s, %v", body.Data, err)
		}
		if audits := b.audits(t, journal.ActionReveal); len(audits) != n || audits[0].DeadLetterSeq != 1 || audits[0].Vorgangsnummer != "123456" {
			t.Errorf("audit %+v", audits)
		}
	}
	if err := b.js.DeleteStream(t.Context(), "KEX_AUDIT"); err != nil {
		t.Fatal(err)
	}
	if body, err := b.store.Reveal(t.Context(), letter); err == nil || body.Data != nil || !strings.Contains(err.Error(), "setup") {
		t.Errorf("without an audit: %s, %v", body.Data, err)
	}
}
