package deadletter

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// The client's goroutine for lost acknowledgements waits for ever if its publisher is cleaned up before it has run for
// the first time, as an object's is right after its upload. Whether a journal is cleaned up is journal's test.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"))
}

const source = "urn:kexrelay:test"

var storedAt = time.Date(2026, 11, 22, 14, 5, 6, 123456789, time.UTC)

// bench is a server with the topology, a journal that writes dead letters and the store under test.
type bench struct {
	js      jetstream.JetStream
	journal *journal.Journal
	store   *Store
}

func connect(tb testing.TB, url string, opts ...nats.Option) jetstream.JetStream {
	tb.Helper()
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		tb.Fatalf("connecting: %v", err)
	}
	tb.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second)) // A disk may stand still for some seconds.
	if err != nil {
		tb.Fatalf("opening JetStream: %v", err)
	}
	return js
}

func setUp(tb testing.TB) *bench {
	tb.Helper()
	js := connect(tb, embeddedtest.Run(tb).URL())
	if _, err := topology.Setup(tb.Context(), js, topology.Options{}); err != nil {
		tb.Fatalf("Setup: %v", err)
	}
	b := &bench{js: js, journal: journal.New(js, journal.Config{Source: source}), store: newStore(tb, js)}
	tb.Cleanup(b.journal.Close)
	return b
}

func newStore(tb testing.TB, js jetstream.JetStream) *Store {
	tb.Helper()
	store := New(js, Config{Source: source})
	tb.Cleanup(store.Close)
	return store
}

// aDeadLetter is a settlement as a dead letter; seq makes its identity.
func aDeadLetter(seq uint64, vorgangsnummer string) *update.Settlement {
	return &update.Settlement{
		Update: &update.Update{
			ID:             fmt.Sprintf("crm-%d", seq),
			Seq:            seq,
			StoredAt:       storedAt,
			Subject:        "kex.vorgang." + vorgangsnummer + ".kommentare",
			Vorgangsnummer: vorgangsnummer,
			Kind:           update.Comments,
			TraceID:        fmt.Sprintf("sys%d", seq),
			Header:         map[string][]string{"Nats-Msg-Id": {"crm"}, "X-Tenant": {"a", "b"}, "Kex-Replays": {"9"}},
			Body:           fmt.Appendf(nil, `["comment %d"]`, seq),
		},
		Outcome: update.DeadLettered, Reason: fault.Gone, Status: 410, Detail: "the Vorgang is deleted",
		Attempts: 2, RequestID: fmt.Sprintf("sys%d-2", seq),
		FirstAttemptAt: storedAt.Add(time.Second), SettledAt: storedAt.Add(2 * time.Second),
	}
}

func (b *bench) write(tb testing.TB, letters ...*update.Settlement) {
	tb.Helper()
	for _, s := range letters {
		if err := b.journal.Settle(tb.Context(), s); err != nil {
			tb.Fatalf("Settle: %v", err)
		}
	}
}

// letters are the sequences of the dead letters that are there.
func (b *bench) letters(tb testing.TB) []uint64 {
	tb.Helper()
	var seqs []uint64
	for summary, err := range b.store.List(tb.Context(), Filter{}) {
		if err != nil {
			tb.Fatalf("List: %v", err)
		}
		seqs = append(seqs, summary.Seq)
	}
	return seqs
}

// updates are all messages of KEX_UPDATES.
func (b *bench) updates(tb testing.TB) []*jetstream.RawStreamMsg {
	tb.Helper()
	stream, err := b.js.Stream(tb.Context(), topology.StreamUpdates)
	if err != nil {
		tb.Fatal(err)
	}
	var all []*jetstream.RawStreamMsg
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		if msg, err := stream.GetMsg(tb.Context(), seq); err == nil {
			all = append(all, msg)
		}
	}
	return all
}

// events are all result events of an outcome.
func (b *bench) events(tb testing.TB, outcome update.Outcome) []journal.Event {
	tb.Helper()
	var all []journal.Event
	for event, err := range journal.NewResults(b.js).List(tb.Context(), journal.ResultFilter{Outcomes: []update.Outcome{outcome}}) {
		if err != nil {
			tb.Fatalf("reading results: %v", err)
		}
		all = append(all, event)
	}
	return all
}

func (b *bench) change(tb testing.TB, name string, change func(*jetstream.StreamConfig)) {
	tb.Helper()
	stream, err := b.js.Stream(tb.Context(), name)
	if err != nil {
		tb.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	change(&cfg)
	if _, err := b.js.UpdateStream(tb.Context(), cfg); err != nil {
		tb.Fatalf("changing %s: %v", name, err)
	}
}

// replay replays and gives the items by their sequences.
func replay(tb testing.TB, s *Store, sel Selection, opts PlanOptions) ([]Item, Totals, error) {
	tb.Helper()
	var items []Item
	totals, err := send(tb.Context(), s, sel, opts, RunOptions{Report: func(i Item) { items = append(items, i) }})
	slices.SortStableFunc(items, func(a, b Item) int { return cmp.Compare(a.Seq, b.Seq) })
	return items, totals, err
}

// send plans and sends, and waits for no outcome unless told to.
func send(ctx context.Context, s *Store, sel Selection, opts PlanOptions, run RunOptions) (Totals, error) {
	plan, err := s.Plan(ctx, sel, opts)
	if err != nil {
		return Totals{}, err
	}
	report, err := s.Replay(ctx, plan, run)
	return report.Totals, err
}

func TestErrorsSayWhatToDo(t *testing.T) {
	js := connect(t, embeddedtest.Run(t).URL())
	store := newStore(t, js)
	errs := map[string]error{}
	for _, err := range store.List(t.Context(), Filter{}) {
		errs["List"] = err
	}
	_, errs["Show"] = store.Show(t.Context(), 1)
	_, errs["Counts"] = store.Counts(t.Context())
	_, errs["Replay"] = store.Plan(t.Context(), Selection{Seqs: []uint64{1}}, PlanOptions{})
	_, errs["Replay all"] = store.Plan(t.Context(), Selection{All: true}, PlanOptions{})
	for what, err := range errs {
		if err == nil || !strings.Contains(err.Error(), "kexrelay setup") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(errs) != 5 {
		t.Errorf("%d errors", len(errs))
	}
}
