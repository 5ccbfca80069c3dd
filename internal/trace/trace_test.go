package trace_test

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/deadletter"
	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/trace"
	"kexrelay/internal/update"
)

// bench is a server with the whole topology, and what a relay and an operator would write.
type bench struct {
	t       *testing.T
	js      jetstream.JetStream
	journal *journal.Journal
	store   *deadletter.Store
	// standing is what a relay says of an update that waits.
	standing journal.Standing
	*trace.Tracer
}

func newBench(t *testing.T) *bench {
	t.Helper()
	nc, err := nats.Connect(embeddedtest.Run(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second)) // A disk may stand still for some seconds.
	if err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Setup(t.Context(), js, topology.Options{}); err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, js: js, journal: journal.New(js, journal.Config{Source: "urn:test"}), store: deadletter.New(js, deadletter.Config{Source: "urn:test"})}
	t.Cleanup(b.journal.Close)
	t.Cleanup(b.store.Close)
	leases := journal.NewLeases(js, "test", slog.New(slog.DiscardHandler))
	b.Tracer = &trace.Tracer{Sources: trace.Sources{
		Index: journal.NewIndex(js), Results: journal.NewResults(js), Updates: journal.NewUpdates(js), DeadLetters: b.store,
		Claims: journal.NewClaims(js), Holds: journal.NewHolds(js), Holders: leases.Holders,
		Ledger: func(ctx context.Context) (map[uint64]journal.InFlight, error) { return journal.ReadLedger(ctx, js) },
		Standing: func(context.Context, string, journal.Waiting) (journal.Standing, error) {
			return b.standing, nil
		},
	}}
	return b
}

func (b *bench) publish(id, traceID string) *update.Update {
	b.t.Helper()
	ack, err := b.js.PublishMsg(b.t.Context(), &nats.Msg{
		Subject: "kex.vorgang.123456.kommentare", Data: []byte(`["canary"]`),
		Header: nats.Header{update.HeaderMsgID: {id}, update.HeaderTraceID: {traceID}},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	w, err := journal.NewUpdates(b.js).Get(b.t.Context(), ack.Sequence)
	if err != nil {
		b.t.Fatal(err)
	}
	u, err := update.Decode(update.Message{Subject: w.Subject, Header: w.Header, Body: w.Body, Seq: w.Seq, StoredAt: w.StoredAt},
		func() string { return "made" })
	if err != nil {
		b.t.Fatal(err)
	}
	return u
}

func (b *bench) settle(s *update.Settlement) {
	b.t.Helper()
	if s.SettledAt.IsZero() {
		s.SettledAt = time.Now()
	}
	if err := b.journal.Settle(b.t.Context(), s); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) one(id string) trace.Story {
	b.t.Helper()
	stories, looked, err := b.Look(b.t.Context(), trace.Query{ID: id})
	if err != nil || len(stories) != 1 {
		b.t.Fatalf("%s: %d stories, looked at %+v: %v", id, len(stories), looked, err)
	}
	return stories[0]
}

func whats(s trace.Story) string {
	var all []string
	for _, step := range s.Steps {
		all = append(all, string(step.What))
	}
	return strings.Join(all, " ")
}

func TestAStoryIsInOrderEvenIfClocksDiffer(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	u := b.publish("crm-1", "sys1")
	b.settle(&update.Settlement{
		Update: u, Outcome: update.DeadLettered, Reason: fault.Gone, Status: 410, Attempts: 3, RequestID: "sys1-3",
		FirstAttemptAt: u.StoredAt.Add(-2 * time.Second), SettledAt: u.StoredAt.Add(-time.Second), // The relay's clock is late.
	})
	for _, id := range []string{"sys1", "sys1-3", "crm-1"} {
		s := b.one(id)
		if got := whats(s); got != "published attempted deadlettered" {
			t.Errorf("%s: %s", id, got)
		}
		if got := strings.Join(s.Steps[1].RequestIDs, " "); got != "sys1 sys1-2 sys1-3" {
			t.Errorf("%s: requests %s", id, got)
		}
		if s.State != trace.DeadLetter || s.DeadLetterSeq != 1 {
			t.Errorf("%s: %s, dead letter %d", id, s.State, s.DeadLetterSeq)
		}
	}
}

func TestADoubleBookingIsTold(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	u := b.publish("crm-1", "sys1")
	b.settle(&update.Settlement{Update: u, Outcome: update.Delivered, Status: 200, Attempts: 1, RequestID: "sys1"})
	b.settle(&update.Settlement{Update: u, Outcome: update.Delivered, Status: 200, Attempts: 2, RequestID: "sys1-2", PossibleDuplicate: true})
	s := b.one("sys1")
	if !s.DoubleBooked || !strings.Contains(whats(s), "delivered double_booked") {
		t.Errorf("double booked %v: %s", s.DoubleBooked, whats(s))
	}
}

func TestAPossibleDuplicateIsTold(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	u := b.publish("crm-1", "sys1")
	b.settle(&update.Settlement{Update: u, Outcome: update.Delivered, Status: 200, Attempts: 2, RequestID: "sys1-2", PossibleDuplicate: true})
	s := b.one("sys1")
	if !s.PossibleDuplicate || !strings.Contains(s.Steps[1].Text, "without a definite answer") {
		t.Errorf("possible duplicate %v: %+v", s.PossibleDuplicate, s.Steps)
	}
}

// Results are kept for a month, dead letters until somebody acts.
func TestADeadLetterWithoutAResultIsFound(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	u := b.publish("crm-1", "sys1")
	b.settle(&update.Settlement{Update: u, Outcome: update.DeadLettered, Reason: fault.Gone, Status: 410, Attempts: 1, RequestID: "sys1"})
	results, err := b.js.Stream(t.Context(), topology.StreamResults)
	if err != nil {
		t.Fatal(err)
	}
	if err := results.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	updates, err := b.js.Stream(t.Context(), topology.StreamUpdates)
	if err != nil {
		t.Fatal(err)
	}
	if err := updates.DeleteMsg(t.Context(), u.Seq); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"sys1", "crm-1"} {
		if s := b.one(id); s.State != trace.DeadLetter || whats(s) != "published attempted deadlettered" {
			t.Errorf("%s: %s: %s", id, s.State, whats(s))
		}
	}
}

func TestWhatIsBeingSentIsTold(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	u := b.publish("crm-1", "sys1")
	leases := journal.NewLeases(b.js, "replica-a", slog.New(slog.DiscardHandler))
	lease, err := leases.Campaign(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lease.Release(context.Background()) }()
	tenure, err := journal.TakeOver(t.Context(), b.js, lease, journal.TenureConfig{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tenure.Close(context.Background()) }()
	if err := tenure.Sending(t.Context(), update.Attempt{
		Seq: u.Seq, StoredAt: u.StoredAt, Attempts: 2, Timeout: 30 * time.Second, RequestID: "sys1-2",
	}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"sys1", "sys1-2"} {
		s := b.one(id)
		if s.State != trace.Sending || s.Wait == nil || s.Wait.Doing == nil || s.Wait.Replica != "replica-a" {
			t.Fatalf("%s: %s, %+v", id, s.State, s.Wait)
		}
		if got := whats(s); got != "published attempted" {
			t.Errorf("%s: %s", id, got)
		}
	}
}

// What the relay alone knows of an update that still waits is told beside what the ledger says.
func TestTheAnswersOfWhatWaitsAreTold(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	u := b.publish("crm-1", "sys1")
	leases := journal.NewLeases(b.js, "replica-a", slog.New(slog.DiscardHandler))
	lease, err := leases.Campaign(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lease.Release(context.Background()) }()
	next := time.Now().Add(time.Minute).UTC()
	b.standing = journal.Standing{Known: true, NextAttempt: next, Answers: update.Answers{
		{Attempt: 1, RequestID: "sys1", At: u.StoredAt, DurationMs: 20, Status: 503, Reason: fault.Outage},
		{Attempt: 2, RequestID: "sys1-2", At: u.StoredAt.Add(time.Second), DurationMs: 30, Status: 500, Reason: fault.Outage},
	}}
	for _, ledger := range []struct {
		doing    journal.Doing
		attempts int
		want     string
	}{
		{journal.DoingSending, 2, "request 2: answered 500 after 30ms"}, // The relay knows it a moment before the ledger.
		{journal.DoingWaiting, 2, "request 2: answered 500 after 30ms"},
		{journal.DoingSending, 3, "request 3: begun, not answered yet"},
		{journal.DoingSending, 5, "3 more requests, whose answers are not known yet"},
		{journal.DoingWaiting, 3, "1 more request, whose answer is not known yet"},
	} {
		b.Ledger = func(context.Context) (map[uint64]journal.InFlight, error) {
			return map[uint64]journal.InFlight{u.Seq: {
				Seq: u.Seq, StoredAt: u.StoredAt, Doing: ledger.doing, Attempts: ledger.attempts, RequestID: "sys1-" + strconv.Itoa(ledger.attempts), WrittenAt: time.Now(),
			}}, nil
		}
		s := b.one("sys1")
		if len(s.Steps) < 3 || s.Steps[1].Text != "request 1: answered 503 after 20ms; the next one 980ms later" {
			t.Fatalf("%+v: %+v", ledger, s.Steps)
		}
		if last := s.Steps[len(s.Steps)-1]; last.Text != ledger.want {
			t.Errorf("%+v: the last step is %q", ledger, last.Text)
		}
		if s.Wait.Standing == nil || !s.Wait.Standing.NextAttempt.Equal(next) {
			t.Errorf("%+v: %+v", ledger, s.Wait)
		}
	}
}

func TestOneTraceIDOfTwoUpdatesGivesTwoStories(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.publish("crm-1", "sys1")
	b.publish("crm-2", "sys1")
	stories, _, err := b.Look(t.Context(), trace.Query{ID: "sys1"})
	if err != nil || len(stories) != 2 || stories[0].UpdateID != "crm-1" || stories[1].Wait.Ahead != 1 {
		t.Fatalf("%+v: %v", stories, err)
	}
}

func TestEachRequestIsToldWithItsAnswer(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	u := b.publish("crm-1", "sys1")
	began := u.StoredAt.Add(time.Second)
	s := &update.Settlement{
		Update: u, Outcome: update.DeadLettered, Reason: fault.Gone, Status: 410, Attempts: 30, RequestID: "sys1-30", SettledAt: began.Add(time.Hour),
	}
	for n := 3; n < 30; n++ { // The first two were another process's.
		s.Answers = s.Answers.With(update.PastAnswer{
			Attempt: n, RequestID: u.RequestTraceID(n), At: began.Add(time.Duration(n) * time.Second), DurationMs: 20, Status: 503, Reason: fault.Outage,
		})
	}
	s.Answers[0].Status, s.Answers[0].Unknown = 0, true
	s.Answers = s.Answers.With(update.PastAnswer{Attempt: 30, RequestID: "sys1-30", At: began.Add(31 * time.Second), DurationMs: 5, Status: 410, Reason: fault.Gone})
	b.settle(s)
	check := func(story trace.Story) {
		t.Helper()
		var texts []string
		for _, step := range story.Steps {
			if step.What == trace.Attempted {
				texts = append(texts, step.Text)
			}
		}
		want := []string{
			"2 earlier requests by another process, which alone had their answers",
			"request 3: no answer for 20ms, so it may be booked; the next one 980ms later",
			"request 4: answered 503 after 20ms; the next one 980ms later",
			"request 5: answered 503 after 20ms",
			"18 more requests, whose answers are left out here",
		}
		for n := 24; n < 29; n++ {
			want = append(want, fmt.Sprintf("request %d: answered 503 after 20ms; the next one 980ms later", n))
		}
		want = append(want, "request 29: answered 503 after 20ms; the next one 2s later", "request 30: answered 410 after 5ms")
		if diff := cmp.Diff(want, texts); diff != "" {
			t.Error(diff)
		}
	}
	story := b.one("crm-1")
	check(story)
	if got := strings.Join(story.Steps[5].RequestIDs, " "); got != "sys1-6 sys1-7 sys1-8 sys1-9 sys1-10 sys1-11 sys1-23" {
		t.Errorf("left out: %s", got)
	}
	if got := strings.Join(story.Steps[1].RequestIDs, " "); got != "sys1 sys1-2" {
		t.Errorf("of another process: %s", got)
	}
	// The dead letter alone tells the same.
	results, err := b.js.Stream(t.Context(), topology.StreamResults)
	if err != nil {
		t.Fatal(err)
	}
	if err := results.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(b.one("crm-1"))
}

func TestWhatIsAheadIsToldWithWhatIsDoneWithIt(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first := b.publish("crm-1", "sys1")
	b.publish("crm-2", "sys2")
	b.Ledger = func(context.Context) (map[uint64]journal.InFlight, error) {
		return map[uint64]journal.InFlight{first.Seq: {Seq: first.Seq, StoredAt: first.StoredAt, Doing: journal.DoingWaiting, Attempts: 4, RequestID: "sys1-4"}}, nil
	}
	s := b.one("crm-2")
	if w := s.Wait; s.State != trace.Waiting || w.Ahead != 1 || w.Oldest != first.Seq || w.OldestDoing == nil || w.OldestDoing.Attempts != 4 || w.Doing != nil {
		t.Errorf("%s: %+v", s.State, w)
	}
}

// The operator's command tells of a replay after it has published it: the relay may have settled that before.
func TestAReplayThatEndedBeforeItWasToldIsNotOpen(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	u := b.publish("crm-1", "sys1")
	b.settle(&update.Settlement{Update: u, Outcome: update.DeadLettered, Reason: fault.Gone, Status: 410, Attempts: 1, RequestID: "sys1"})
	again := *u
	again.Seq, again.StoredAt = u.Seq+1, time.Now()
	again.Replay = &update.Replay{DeadLetterSeq: 1, UpdateID: u.ID, TraceID: u.TraceID, Replays: 1}
	replayed := journal.Notice{Outcome: update.Replayed, Key: "1", Data: journal.EventData{
		UpdateID: u.ID, Vorgangsnummer: u.Vorgangsnummer, Kind: u.Kind, TraceID: u.TraceID, UpdateSeq: again.Seq, DeadLetterSeq: 1, ReplayOf: 1,
		SettledAt: again.StoredAt.Add(time.Second),
	}}
	if err := b.journal.Notice(t.Context(), replayed); err != nil {
		t.Fatal(err)
	}
	if s := b.one("crm-1"); s.State != trace.Replayed {
		t.Errorf("not ended: %s", s.State)
	}
	b.settle(&update.Settlement{
		Update: &again, Outcome: update.Delivered, Status: 200, Attempts: 1, RequestID: "sys1-r1", SettledAt: again.StoredAt.Add(10 * time.Millisecond),
	})
	if s := b.one("crm-1"); s.State != trace.Delivered || !strings.HasSuffix(whats(s), "delivered replayed") {
		t.Errorf("ended before: %s: %s", s.State, whats(s))
	}
}
