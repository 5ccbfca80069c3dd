package deadletter

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

func export(tb testing.TB, s *Store, reveal bool) []Exported {
	tb.Helper()
	var all []Exported
	n, err := s.Export(tb.Context(), Filter{}, reveal, func(e Exported) error {
		line, err := json.Marshal(e) // As it lies in a file.
		if err != nil {
			return err
		}
		var back Exported
		if err := json.Unmarshal(line, &back); err != nil {
			return err
		}
		all = append(all, back)
		return nil
	})
	if err != nil || n != len(all) {
		tb.Fatalf("Export: %d of %d, %v", n, len(all), err)
	}
	return all
}

func TestAnExportHasNoContentUnlessItReveals(t *testing.T) {
	b := setUp(t)
	b.write(t, aDeadLetter(1, "1"), aDeadLetter(2, "2"))
	for _, e := range export(t, b.store, false) {
		if e.Revealed || e.Body != nil || e.BodyDigest != "" {
			t.Errorf("exported %+v", e)
		}
	}
	if got := b.audits(t, journal.ActionExport); len(got) != 0 {
		t.Errorf("audit %+v", got)
	}
	if got := export(t, b.store, true); len(got) != 2 || string(got[1].Body) != `["comment 2"]` {
		t.Errorf("exported %+v", got)
	}
	if got := b.audits(t, journal.ActionExport); len(got) != 1 || got[0].Details["deadLetterSeqs"] != "1,2" {
		t.Errorf("audit %+v", got)
	}
}

func TestWhatWasExportedComesBackAsItWas(t *testing.T) {
	b := setUp(t)
	large := aDeadLetter(2, "22")
	large.Update.Header["X-Large"] = []string{strings.Repeat("v", 9000)}
	replayed := aDeadLetter(3, "33")
	replayed.Update.Replay, replayed.MayBeBooked = &update.Replay{DeadLetterSeq: 1, Replays: 2}, true
	b.write(t, aDeadLetter(1, "11"), large, replayed)
	all := export(t, b.store, true)

	elsewhere := setUp(t)
	for range 2 {
		im, err := elsewhere.store.Importer(t.Context(), "a file", false)
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range all {
			if _, err := im.Import(t.Context(), e); err != nil && !errors.Is(err, ErrThere) {
				t.Fatalf("Import of %d: %v", i, err)
			}
		}
		if err := im.Done(t.Context(), len(all)); err != nil {
			t.Fatal(err)
		}
	}
	back := export(t, elsewhere.store, true)
	for i := range back {
		back[i].StoredAt = all[i].StoredAt
		back[i].BodyObject = all[i].BodyObject
	}
	if diff := cmp.Diff(all, back); diff != "" {
		t.Errorf("back (-want +got):\n%s", diff)
	}
	if audits := elsewhere.audits(t, journal.ActionImport); len(audits) != 4 || audits[1].Details["imported"] != "3" {
		t.Errorf("audit %+v", audits)
	}
}

// The server's memory of IDs ends after two hours.
func TestAnImportIsIdempotentWithoutTheServersMemory(t *testing.T) {
	b := setUp(t)
	b.change(t, topology.StreamDeadLetters, func(c *jetstream.StreamConfig) { c.Duplicates = 100 * 1e6 })
	b.write(t, aDeadLetter(1, "1"))
	all := export(t, b.store, true)
	// The server forgets the oldest IDs first: once it takes a younger one again, it has forgotten the dead letter's.
	for probes := 0; probes < 2; {
		ack, err := b.js.Publish(t.Context(), "kex.deadletter.probe", nil, jetstream.WithMsgID("probe"))
		if err != nil {
			t.Fatal(err)
		}
		if !ack.Duplicate {
			probes++
		}
	}
	before := len(b.letters(t))
	im, err := b.store.Importer(t.Context(), "", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.Import(t.Context(), all[0]); !errors.Is(err, ErrThere) {
		t.Errorf("Import: %v", err)
	}
	if after := len(b.letters(t)); after != before {
		t.Errorf("%d dead letters, before the import %d", after, before)
	}
}

func TestWhatWasDealtWithSinceTheExportIsImportedByForceAlone(t *testing.T) {
	b := setUp(t)
	b.write(t, aDeadLetter(1, "1"), aDeadLetter(2, "2"))
	all := export(t, b.store, true)
	if done, err := b.store.Discard(t.Context(), 1, DiscardOptions{Because: "x"}); err != nil || done.Err != nil {
		t.Fatal(done, err)
	}
	if _, err := b.store.Edit(t.Context(), b.one(t, "2"), []byte(`["new"]`)); err != nil {
		t.Fatal(err)
	}
	im, err := b.store.Importer(t.Context(), "", false)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if _, err := im.Import(t.Context(), e); !errors.Is(err, ErrDone) {
			t.Errorf("Import: %v", err)
		}
	}
	if im, err = b.store.Importer(t.Context(), "", true); err != nil {
		t.Fatal(err)
	}
	// The server still drops it as a duplicate; that is said, and not taken for success.
	if _, err := im.Import(t.Context(), all[0]); !errors.Is(err, ErrNotImportable) || !strings.Contains(err.Error(), "2h") {
		t.Errorf("Import: %v", err)
	}
}

func TestWhatCanBeNoDeadLetterIsRefused(t *testing.T) {
	b := setUp(t)
	b.write(t, aDeadLetter(1, "1"))
	good := export(t, b.store, true)[0]
	im, err := b.store.Importer(t.Context(), "", true)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]func(*Exported){
		"its reason":    func(e *Exported) { e.Reason = fault.Outage },
		"updateId, vor": func(e *Exported) { e.Vorgangsnummer = "1.>" },
		"updateId":      func(e *Exported) { e.UpdateID = "" },
		"or kind":       func(e *Exported) { e.Kind = "x" },
		"updateSeq":     func(e *Exported) { e.UpdateSeq = 0 },
		"seq or":        func(e *Exported) { e.Seq = 0 },
		"no content":    func(e *Exported) { e.Revealed = false },
		"damaged":       func(e *Exported) { e.Body = bytes.ToUpper(e.Body) },
	}
	for want, damage := range tests {
		bad := good
		bad.Body = slices.Clone(good.Body)
		damage(&bad)
		if _, err := im.Import(t.Context(), bad); !errors.Is(err, ErrNotImportable) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if len(b.letters(t)) != 1 {
		t.Errorf("dead letters %v", b.letters(t))
	}
}
