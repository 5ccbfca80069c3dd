package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

func plan(t *testing.T, s *Store, sel Selection, opts PlanOptions) *Plan {
	t.Helper()
	p, err := s.Plan(t.Context(), sel, opts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAPlanSaysWhatIsSentAndWhatStays(t *testing.T) {
	b := setUp(t)
	unknown, often, nowhere := aDeadLetter(2, "1"), aDeadLetter(3, "2"), aDeadLetter(4, update.NoVorgangsnummer)
	unknown.Reason, unknown.Status = fault.UnknownOutcome, 504
	often.Update.Replay = &update.Replay{Replays: 3}
	nowhere.Update.Subject = "kex.vorgang.1.2.kommentare"
	doubtful := aDeadLetter(5, "3")
	doubtful.Reason, doubtful.MayBeBooked = fault.Exhausted, true
	b.write(t, aDeadLetter(1, "1"), unknown, often, nowhere, doubtful)

	p := plan(t, b.store, Selection{All: true}, PlanOptions{MaxReplays: 3})
	if p.Send != 1 || p.Vorgaenge != 1 || p.UpTo != 5 || !slices.Equal(p.Doubtful, []uint64{2, 5}) || p.MayBeBooked != 2 {
		t.Errorf("%+v", p)
	}
	if diff := cmp.Diff(map[LeftOut]int{MayBeBooked: 2, TooOften: 1, NoWay: 1}, p.LeftOut); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
	if g := p.Groups[0]; g.Reason != fault.Gone || g.Send != 1 || g.TooOften != 1 || g.NoWay != 1 || g.ID == "" {
		t.Errorf("first group %+v", g)
	}
	if p := plan(t, b.store, Selection{All: true}, PlanOptions{AllowDuplicates: true}); p.Send != 4 || p.LeftOut[NoWay] != 1 || p.MayBeBooked != 2 {
		t.Errorf("with all allowed: %+v", p)
	}
	if p := plan(t, b.store, Selection{Seqs: []uint64{9, 1}}, PlanOptions{}); p.Send != 1 || !slices.Equal(p.Missing, []uint64{9}) {
		t.Errorf("chosen: %+v", p)
	}
}

// What comes after the plan is not part of it, nor of what goes on with it after an interruption.
func TestAnInterruptedReplayGoesOnWithWhatItBegan(t *testing.T) {
	b := setUp(t)
	for seq := uint64(1); seq <= 6; seq++ {
		b.write(t, aDeadLetter(seq, strconv.FormatUint(seq, 10)))
	}
	first := plan(t, b.store, Selection{All: true, Name: "all"}, PlanOptions{})
	b.write(t, aDeadLetter(7, "7"))
	ctx, cancel := context.WithCancel(t.Context())
	report, err := b.store.Replay(ctx, first, RunOptions{By: "ops@host", Rate: 5, Report: func(i Item) {
		if i.Result == Replayed {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || report.Replayed == 0 || report.Replayed > 3 {
		t.Fatalf("%+v, %v", report, err)
	}
	again := plan(t, b.store, Selection{All: true, Name: "all"}, PlanOptions{})
	if again.Continues == nil || again.UpTo != 6 || again.Send != 6-report.Replayed || again.Continues.By != "ops@host" {
		t.Errorf("going on: %+v", again)
	}
	if other := plan(t, b.store, Selection{All: true, Name: "another"}, PlanOptions{}); other.Continues != nil || other.UpTo != 7 {
		t.Errorf("another selection goes on with it: %+v", other)
	}
	if fresh := plan(t, b.store, Selection{All: true, Name: "all"}, PlanOptions{Fresh: true}); fresh.Continues != nil || fresh.UpTo != 7 {
		t.Errorf("asked for anew: %+v", fresh)
	}
	if report, err := b.store.Replay(t.Context(), again, RunOptions{}); err != nil || report.Replayed != again.Send {
		t.Errorf("%+v, %v", report, err)
	}
	if diff := cmp.Diff([]uint64{7}, b.letters(t)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	if next := plan(t, b.store, Selection{All: true, Name: "all"}, PlanOptions{}); next.Continues != nil || next.Send != 1 {
		t.Errorf("after its end: %+v", next)
	}
	if n := len(b.updates(t)); n != 6 {
		t.Errorf("%d updates, want 6", n)
	}
}

// Sequences of a stream that was made anew name other dead letters.
func TestAPlanIsNotCarriedOutInAnotherStream(t *testing.T) {
	b := setUp(t)
	b.write(t, aDeadLetter(1, "1"))
	old := plan(t, b.store, Selection{All: true}, PlanOptions{})
	if err := b.js.DeleteStream(t.Context(), topology.StreamDeadLetters); err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Setup(t.Context(), b.js, topology.Options{}); err != nil {
		t.Fatal(err)
	}
	b.write(t, aDeadLetter(2, "2"))
	report, err := b.store.Replay(t.Context(), old, RunOptions{})
	if err != nil || report.Replayed != 0 || report.Skipped != 1 {
		t.Errorf("%+v, %v", report, err)
	}
}

// A canary that was sent before an interruption is waited for, not sent again, and not another one.
func TestAnInterruptedCanaryIsTheCanaryOfWhoGoesOn(t *testing.T) {
	for name, settle := range map[string]func(*update.Update) *update.Settlement{"delivered": asDelivered, "dead": asDeadLetter} {
		t.Run(name, func(t *testing.T) {
			b := setUp(t)
			b.write(t, aDeadLetter(1, "1"), aDeadLetter(2, "2"), aDeadLetter(3, "3"))
			opts := RunOptions{Canary: true, Wait: time.Second}
			report, err := b.store.Replay(t.Context(), plan(t, b.store, Selection{All: true}, PlanOptions{}), opts)
			if err != nil || report.Stop != StopWaiting || report.Waiting != 1 {
				t.Fatalf("%+v, %v", report, err)
			}
			b.settleReplay(t, 1, settle)
			again := plan(t, b.store, Selection{All: true}, PlanOptions{})
			report, err = b.store.Replay(t.Context(), again, opts)
			if err != nil || report.Groups[0].Canary != 1 || report.Groups[0].End == nil {
				t.Fatalf("%+v, %v", report, err)
			}
			if sent := map[string]int{"delivered": 2, "dead": 0}[name]; report.Replayed != sent {
				t.Errorf("%d sent, want %d: %+v", report.Replayed, sent, report)
			}
		})
	}
}

func TestTheAuditSaysWhoReplaysWhat(t *testing.T) {
	b := setUp(t)
	b.write(t, aDeadLetter(1, "1"))
	store := New(b.js, Config{Source: source, Actor: journal.Actor{OSUser: "ops", Host: "host"}})
	t.Cleanup(store.Close)
	if _, err := store.Replay(t.Context(), plan(t, store, Selection{All: true, Name: "--all"}, PlanOptions{}), RunOptions{}); err != nil {
		t.Fatal(err)
	}
	audit, err := b.js.Stream(t.Context(), topology.StreamAudit)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := audit.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	var e journal.AuditEvent
	if err := json.Unmarshal(msg.Data, &e); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(msg.Subject, ".replay") || e.Actor.OSUser != "ops" || e.Details["selection"] != "--all" || e.Details["send"] != "1" {
		t.Errorf("%s %s", msg.Subject, msg.Data)
	}
}
