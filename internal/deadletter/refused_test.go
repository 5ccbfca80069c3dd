package deadletter

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

func TestWhatCannotBeReplayedStays(t *testing.T) {
	tests := map[string]struct {
		prepare func(t *testing.T, b *bench)
		want    Result
		text    string
	}{
		"a subject that is not valid": {func(t *testing.T, b *bench) {
			t.Helper()
			s := aDeadLetter(1, update.NoVorgangsnummer)
			s.Update.Subject = "kex.vorgang.1.2.kommentare"
			b.write(t, s)
		}, Skipped, "publish it anew"},
		"a subject that was cut": {func(t *testing.T, b *bench) {
			t.Helper()
			s := aDeadLetter(1, update.NoVorgangsnummer)
			s.Update.Subject = "kex.vorgang." + strings.Repeat("1", 4000) + ".kommentare"
			b.write(t, s)
		}, Skipped, "publish it anew"},
		"somebody else's message": {func(t *testing.T, b *bench) {
			t.Helper()
			if _, err := b.js.Publish(t.Context(), "kex.deadletter.gone.1.dokument", []byte("x")); err != nil {
				t.Fatal(err)
			}
		}, Skipped, "no dead letter of the relay"},
		"a lost body": {func(t *testing.T, b *bench) {
			t.Helper()
			s := aDeadLetter(1, "1")
			s.Update.Header["X-Large"] = []string{strings.Repeat("v", 9000)}
			b.write(t, s)
			shown, err := b.store.Show(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			b.removeObject(t, shown.BodyObject)
		}, Failed, "lost its body"},
		"a body without room for the headers of a replay": {func(t *testing.T, b *bench) {
			t.Helper()
			s := aDeadLetter(1, "1")
			s.Update.Body = make([]byte, b.js.Conn().MaxPayload())
			b.write(t, s)
		}, Failed, "raise max_payload"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			b := setUp(t)
			test.prepare(t, b)
			b.write(t, aDeadLetter(2, "2")) // The run goes on with others.
			for range 2 {
				items, totals, err := replay(t, b.store, Selection{Seqs: []uint64{1, 2}}, PlanOptions{})
				if err != nil || items[0].Result != test.want || items[0].Err == nil || !strings.Contains(items[0].Err.Error(), test.text) {
					t.Errorf("%s, %v, %v; want %s with %q", items[0].Result, items[0].Err, err, test.want, test.text)
				}
				if totals.Skipped+totals.Failed < 1 || totals.Duplicate != 0 {
					t.Errorf("totals %+v", totals)
				}
			}
			if diff := cmp.Diff([]uint64{1}, b.letters(t)); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
			if n := len(b.updates(t)); n != 1 {
				t.Errorf("%d updates, want that of the other dead letter", n)
			}
		})
	}
}

func TestABodyWithLittleRoomIsReplayedWithoutWhatTheClaimSays(t *testing.T) {
	b := setUp(t)
	s := aDeadLetter(1, "1")
	s.Update.ID = strings.Repeat("i", 255)
	s.Update.Header = nil
	s.Update.Body = make([]byte, b.js.Conn().MaxPayload()-150)
	b.write(t, s)
	items, _, err := replay(t, b.store, Selection{All: true}, PlanOptions{})
	if err != nil || len(items) != 1 || items[0].Result != Replayed {
		t.Fatalf("%+v, %v", items, err)
	}
	msg := b.updates(t)[0]
	claim, err := journal.NewClaims(b.js).Lookup(t.Context(), msg.Header)
	if err != nil || claim == nil || claim.UpdateID != s.Update.ID || claim.TraceID != "sys1" {
		t.Errorf("the relay's look-up: %+v, %v", claim, err)
	}
	if len(msg.Data) != len(s.Update.Body) {
		t.Errorf("body of %d bytes", len(msg.Data))
	}
}

func TestAFullStreamEndsTheRunAndTheNextGoesOn(t *testing.T) {
	b := setUp(t)
	for seq := uint64(1); seq <= 5; seq++ {
		b.write(t, aDeadLetter(seq, "1"))
	}
	b.change(t, topology.StreamUpdates, func(cfg *jetstream.StreamConfig) { cfg.MaxMsgs = 2 })
	for _, sel := range []Selection{{Seqs: []uint64{1, 2, 3, 4, 5}}, {All: true}} {
		_, totals, err := replay(t, b.store, sel, PlanOptions{})
		if err == nil || !strings.Contains(err.Error(), "dead letter 3") || !strings.Contains(err.Error(), "make room") {
			t.Errorf("%+v, %v; want the stream's refusal of the third", totals, err)
		}
		if diff := cmp.Diff([]uint64{3, 4, 5}, b.letters(t)); diff != "" {
			t.Errorf("left (-want +got):\n%s", diff)
		}
	}
	b.change(t, topology.StreamUpdates, func(cfg *jetstream.StreamConfig) { cfg.MaxMsgs = -1 })
	if _, totals, err := replay(t, b.store, Selection{All: true}, PlanOptions{}); err != nil || totals.Replayed != 3 {
		t.Errorf("with room: %+v, %v", totals, err)
	}
	if n := len(b.updates(t)); n != 5 {
		t.Errorf("%d updates, want 5", n)
	}
}

func TestARunEndsWithItsContext(t *testing.T) {
	for name, sel := range map[string]Selection{"chosen": {Seqs: []uint64{1, 2, 3, 4}}, "all": {All: true}} {
		t.Run(name, func(t *testing.T) {
			b := setUp(t)
			for seq := uint64(1); seq <= 4; seq++ {
				b.write(t, aDeadLetter(seq, "1"))
			}
			ctx, cancel := context.WithCancel(t.Context())
			totals, err := send(ctx, b.store, sel, PlanOptions{}, RunOptions{Report: func(i Item) {
				if i.Seq == 2 {
					cancel()
				}
			}})
			if !errors.Is(err, context.Canceled) || totals.Replayed != 2 {
				t.Errorf("%+v, %v; want two and the cancellation", totals, err)
			}
		})
	}
}
