package deadletter

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
	"kexrelay/schemas"
)

func TestAReplayIsTheUpdateAgainWithItsClaim(t *testing.T) {
	b := setUp(t)
	s := aDeadLetter(17, "123456")
	s.Update.Header["traceparent"] = []string{"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
	b.write(t, aDeadLetter(16, "123456"), s)
	shown, err := b.store.Show(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	items, totals, err := replay(t, b.store, Selection{Seqs: []uint64{2}}, PlanOptions{})
	if err != nil || totals != (Totals{Replayed: 1}) {
		t.Fatalf("Replay: %+v, %v", totals, err)
	}
	wantItem := []Item{{Seq: 2, Result: Replayed, UpdateID: "crm-17", Vorgangsnummer: "123456", Kind: update.Comments, TraceID: "sys17", Group: shown.Fingerprint().ID(), UpdateSeq: 1}}
	if diff := cmp.Diff(wantItem, items); diff != "" {
		t.Errorf("item (-want +got):\n%s", diff)
	}

	updates := b.updates(t)
	if len(updates) != 1 {
		t.Fatalf("%d updates, want 1", len(updates))
	}
	msg := updates[0]
	if msg.Subject != "kex.update.0.123456.kommentare" || string(msg.Data) != string(s.Update.Body) {
		t.Errorf("%s %q", msg.Subject, msg.Data)
	}
	id := journal.ReplayMsgID(2, shown.StoredAt)
	wantHeader := nats.Header{
		"Nats-Msg-Id": {id}, "Kex-Replay-Of": {"2"}, "Kex-Replays": {"1"}, "Kex-Update-Id": {"crm-17"}, "X-TraceId": {"sys17"},
		"X-Tenant": {"a", "b"}, "traceparent": s.Update.Header["traceparent"],
	}
	if diff := cmp.Diff(wantHeader, msg.Header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	got, err := journal.NewClaims(b.js).Lookup(t.Context(), msg.Header)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&update.Replay{DeadLetterSeq: 2, UpdateID: "crm-17", TraceID: "sys17", Replays: 1}, got); diff != "" {
		t.Errorf("the relay's look-up (-want +got):\n%s", diff)
	}

	events := b.events(t, update.Replayed)
	if len(events) != 1 {
		t.Fatalf("%d replayed events, want 1", len(events))
	}
	data := events[0].Data
	data.SettledAt = time.Time{}
	wantData := journal.EventData{
		UpdateID: "crm-17", Vorgangsnummer: "123456", Kind: update.Comments, Outcome: update.Replayed, TraceID: "sys17",
		Attempts: 2, UpdateSeq: 1, DeadLetterSeq: 2, ReplayOf: 2,
	}
	if diff := cmp.Diff(wantData, data); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
	results, err := b.js.Stream(t.Context(), topology.StreamResults)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := results.GetMsg(t.Context(), events[0].Seq)
	if err != nil {
		t.Fatal(err)
	}
	if err := schemas.Validate(schemas.Result, raw.Data); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]uint64{1}, b.letters(t)); diff != "" {
		t.Errorf("dead letters left (-want +got):\n%s", diff)
	}
}

// settleReplay plays the relay: the update at seq is settled by a claim and leaves the stream.
func (b *bench) settleReplay(tb testing.TB, seq uint64, s func(*update.Update) *update.Settlement) {
	tb.Helper()
	stream, err := b.js.Stream(tb.Context(), topology.StreamUpdates)
	if err != nil {
		tb.Fatal(err)
	}
	msg, err := stream.GetMsg(tb.Context(), seq)
	if err != nil {
		tb.Fatal(err)
	}
	claim, err := journal.NewClaims(b.js).Lookup(tb.Context(), msg.Header)
	if err != nil || claim == nil {
		tb.Fatalf("update %d is no replay: %v", seq, err)
	}
	u, err := update.Decode(update.Message{
		Subject: topology.PublishedSubject(msg.Subject), Header: msg.Header, Body: msg.Data, Seq: msg.Sequence, StoredAt: msg.Time, Replay: claim,
	}, func() string { return "made" })
	if err != nil {
		tb.Fatal(err)
	}
	b.write(tb, s(u))
	if err := stream.DeleteMsg(tb.Context(), seq); err != nil {
		tb.Fatal(err)
	}
}

func asDelivered(u *update.Update) *update.Settlement {
	return &update.Settlement{Update: u, Outcome: update.Delivered, Status: 200, Attempts: 1, RequestID: u.RequestTraceID(1), SettledAt: time.Now()}
}

func asDeadLetter(u *update.Update) *update.Settlement {
	s := asDelivered(u)
	s.Outcome, s.Reason, s.Status = update.DeadLettered, "gone", 410
	return s
}

func TestAReplayThatFailsAgainCanBeReplayedAgain(t *testing.T) {
	b := setUp(t)
	b.write(t, aDeadLetter(17, "123456"))
	for n := uint64(1); n <= 3; n++ {
		if _, totals, err := replay(t, b.store, Selection{Seqs: []uint64{n}}, PlanOptions{}); err != nil || totals.Replayed != 1 {
			t.Fatalf("replay %d: %+v, %v", n, totals, err)
		}
		b.settleReplay(t, n, asDeadLetter)
		got, err := b.store.Show(t.Context(), n+1)
		if err != nil {
			t.Fatal(err)
		}
		if got.Replays != int(n) || got.UpdateID != "crm-17" || got.TraceID != "sys17" || got.RequestID != fmt.Sprintf("sys17-r%d", n) {
			t.Errorf("after %d replays: %+v", n, got.Summary)
		}
		if !slices.Equal(got.Header["X-Tenant"], []string{"a", "b"}) {
			t.Errorf("the publisher's header is %v", got.Header["X-Tenant"])
		}
	}
}

func TestAllAreReplayedInTheOrderOfEachVorgang(t *testing.T) {
	b := setUp(t)
	const n = 300
	for seq := uint64(1); seq <= n; seq++ {
		b.write(t, aDeadLetter(seq, strconv.FormatUint(seq*seq%11, 10)))
	}
	skipped := aDeadLetter(n+1, "7")
	skipped.Reason = "rejected"
	b.write(t, skipped)
	filter := Filter{Reasons: aReason("gone")}
	items, totals, err := replay(t, b.store, Selection{All: true, Filter: filter}, PlanOptions{})
	if err != nil || totals != (Totals{Replayed: n}) || len(items) != n {
		t.Fatalf("Replay: %+v, %d items, %v", totals, len(items), err)
	}
	last := map[string]int{}
	updates := b.updates(t)
	for _, msg := range updates {
		var seq int
		if _, err := fmt.Sscanf(msg.Header.Get("Kex-Replay-Of"), "%d", &seq); err != nil {
			t.Fatal(err)
		}
		if seq <= last[msg.Subject] {
			t.Errorf("%s: dead letter %d after %d", msg.Subject, seq, last[msg.Subject])
		}
		last[msg.Subject] = seq
	}
	if len(updates) != n {
		t.Errorf("%d updates, want %d", len(updates), n)
	}
	if diff := cmp.Diff([]uint64{n + 1}, b.letters(t)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

func TestChosenOnesAreReplayedInTheirOrderOnce(t *testing.T) {
	b := setUp(t)
	b.write(t, aDeadLetter(1, "1"), aDeadLetter(2, "1"), aDeadLetter(3, "2"), aDeadLetter(4, "1"))
	items, totals, err := replay(t, b.store, Selection{Seqs: []uint64{4, 9, 3, 1, 4}}, PlanOptions{})
	if err != nil || totals != (Totals{Replayed: 3, Skipped: 1}) {
		t.Fatalf("Replay: %+v, %v", totals, err)
	}
	var order []uint64
	for _, item := range items {
		order = append(order, item.Seq)
		if item.Seq == 9 && (!errors.Is(item.Err, ErrNotFound) || !strings.Contains(item.Err.Error(), "already replayed or removed")) {
			t.Errorf("9: %v", item.Err)
		}
	}
	if diff := cmp.Diff([]uint64{1, 3, 4, 9}, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

// What comes back as a new dead letter while all are replayed must not be replayed again in the same run.
func TestAllEndsWithWhatWasThere(t *testing.T) {
	b := setUp(t)
	b.write(t, aDeadLetter(1, "1"), aDeadLetter(2, "1"))
	totals, err := send(t.Context(), b.store, Selection{All: true}, PlanOptions{}, RunOptions{Report: func(i Item) {
		b.settleReplay(t, i.UpdateSeq, asDeadLetter)
	}})
	if err != nil || totals.Replayed != 2 {
		t.Errorf("Replay: %+v, %v", totals, err)
	}
	if diff := cmp.Diff([]uint64{3, 4}, b.letters(t)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

func TestManyAtTheSameTimePublishOnce(t *testing.T) {
	b := setUp(t)
	const letters, operators = 20, 6
	for seq := uint64(1); seq <= letters; seq++ {
		s := aDeadLetter(seq, strconv.FormatUint(seq%3, 10))
		if seq%5 == 0 {
			s.Update.Header["X-Large"] = []string{strings.Repeat("v", 9000)} // Its body is in an object.
		}
		b.write(t, s)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	sum := Totals{}
	for range operators {
		store := newStore(t, b.js)
		all.Go(func() {
			totals, err := send(t.Context(), store, Selection{All: true}, PlanOptions{}, RunOptions{Report: func(i Item) {
				if i.Err != nil && !errors.Is(i.Err, ErrNotFound) {
					t.Errorf("dead letter %d: %v", i.Seq, i.Err)
				}
			}})
			if err != nil {
				t.Errorf("Replay: %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			sum.Replayed += totals.Replayed
			sum.Failed += totals.Failed
		})
	}
	all.Wait()
	if sum.Replayed != letters || sum.Failed != 0 {
		t.Errorf("%d replayed and %d failed, want %d and none", sum.Replayed, sum.Failed, letters)
	}
	if n := len(b.updates(t)); n != letters {
		t.Errorf("%d updates, want %d", n, letters)
	}
	if n := len(b.events(t, update.Replayed)); n != letters {
		t.Errorf("%d replayed events, want %d", n, letters)
	}
	if left := b.letters(t); left != nil {
		t.Errorf("left: %v", left)
	}
}

func TestABodyInAnObjectIsReplayedWithItsHeaders(t *testing.T) {
	b := setUp(t)
	s := aDeadLetter(1, "123456")
	for i := range 60 {
		s.Update.Header[fmt.Sprintf("X-Header-%02d", i)] = []string{strings.Repeat("v", 1000)}
	}
	b.write(t, s)
	shown, err := b.store.Show(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, totals, err := replay(t, b.store, Selection{All: true}, PlanOptions{}); err != nil || totals.Replayed != 1 {
		t.Fatalf("Replay: %+v, %v", totals, err)
	}
	msg := b.updates(t)[0]
	if string(msg.Data) != string(s.Update.Body) {
		t.Errorf("body %q", msg.Data)
	}
	for i := range 60 {
		if len(msg.Header.Get(fmt.Sprintf("X-Header-%02d", i))) != 1000 {
			t.Errorf("header %d is gone", i)
		}
	}
	if _, err := b.store.bodies.Read(t.Context(), shown.BodyObject); !errors.Is(err, journal.ErrNoBody) {
		t.Errorf("the object after the replay: %v", err)
	}
}
