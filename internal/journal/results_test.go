package journal

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// collect reads a sequence of events to its end and gives their update sequences.
func collect(t *testing.T, events iter.Seq2[Event, error]) []uint64 {
	t.Helper()
	var seqs []uint64
	for event, err := range events {
		if err != nil {
			t.Fatalf("after %v: %v", seqs, err)
		}
		seqs = append(seqs, event.Data.UpdateSeq)
	}
	return seqs
}

func TestResultsAreListedByFilter(t *testing.T) {
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	settle(t, j, delivered(anUpdate(1)))
	settle(t, j, deadLettered(anUpdate(2)))
	document := anUpdate(3)
	document.Kind, document.TraceID = update.Document, "sys3"
	settle(t, j, delivered(document))
	other := anUpdate(4)
	other.Vorgangsnummer = "ABC-1_2"
	settle(t, j, delivered(other))
	invalid := anUpdate(5)
	invalid.Vorgangsnummer, invalid.Kind = update.NoVorgangsnummer, update.Invalid
	settle(t, j, deadLettered(invalid))
	if _, err := js.Publish(t.Context(), "kex.result.delivered.123456.dokument", []byte("somebody else's")); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		filter ResultFilter
		want   []uint64
	}{
		"everything":           {ResultFilter{}, []uint64{1, 2, 3, 4, 5}},
		"an outcome":           {ResultFilter{Outcomes: []update.Outcome{update.DeadLettered}}, []uint64{2, 5}},
		"the same twice":       {ResultFilter{Outcomes: []update.Outcome{update.DeadLettered, update.DeadLettered}}, []uint64{2, 5}},
		"outcomes":             {ResultFilter{Outcomes: []update.Outcome{update.Erased, update.Delivered}}, []uint64{1, 3, 4}},
		"a kind":               {ResultFilter{Kinds: []update.Kind{update.Document}}, []uint64{3}},
		"a Vorgang":            {ResultFilter{Vorgangsnummer: "ABC-1_2"}, []uint64{4}},
		"no Vorgang":           {ResultFilter{Vorgangsnummer: update.NoVorgangsnummer}, []uint64{5}},
		"all by subject":       {ResultFilter{Outcomes: []update.Outcome{update.Delivered}, Kinds: update.Kinds(), Vorgangsnummer: "123456"}, []uint64{1, 3}},
		"an update ID":         {ResultFilter{UpdateID: "crm-2"}, []uint64{2}},
		"a trace ID":           {ResultFilter{TraceID: "sys3"}, []uint64{3}},
		"a request's trace ID": {ResultFilter{TraceID: "sys12345678-2"}, []uint64{2, 5}},
		"nothing":              {ResultFilter{UpdateID: "crm-9"}, nil},
		"since the future":     {ResultFilter{Since: time.Now().Add(time.Hour)}, nil},
		"since the past":       {ResultFilter{Since: time.Now().Add(-time.Hour), Kinds: []update.Kind{update.Document}}, []uint64{3}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, collect(t, NewResults(js).List(t.Context(), test.filter))); diff != "" {
				t.Errorf("updates (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnEventIsReadAsItWasWritten(t *testing.T) {
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	s := deadLettered(anUpdate(1))
	settle(t, j, s)
	want := j.settlementEvent(s, 1)
	want.Seq = 1
	got, err := NewResults(js).At(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
	if _, err := NewResults(js).At(t.Context(), 2); !errors.Is(err, ErrNoEvent) {
		t.Errorf("At(2) gives %v, want ErrNoEvent", err)
	}
}

func TestFiltersTakeNoForeignTokens(t *testing.T) {
	js := setUp(t, topology.Options{})
	for _, filter := range []ResultFilter{
		{Vorgangsnummer: "*"},
		{Vorgangsnummer: ">"},
		{Vorgangsnummer: "1.2"},
		{Vorgangsnummer: "1 2"},
		{Vorgangsnummer: strings.Repeat("1", 65)},
		{Outcomes: []update.Outcome{"*"}},
		{Outcomes: []update.Outcome{""}},
		{Kinds: []update.Kind{">"}},
	} {
		for what, events := range map[string]iter.Seq2[Event, error]{
			"List":  NewResults(js).List(t.Context(), filter),
			"Watch": NewResults(js).Watch(t.Context(), filter),
		} {
			refused := false
			for _, err := range events {
				refused = err != nil
				break
			}
			if !refused {
				t.Errorf("%s takes %+v", what, filter)
			}
		}
	}
}

func TestReadingWithoutAStreamNamesSetup(t *testing.T) {
	js := connect(t, embeddedtest.Run(t).URL())
	results := NewResults(js)
	_, positionErr := results.Position(t.Context())
	_, atErr := results.At(t.Context(), 1)
	errs := map[string]error{"Position": positionErr, "At": atErr}
	for what, events := range map[string]iter.Seq2[Event, error]{
		"List":    results.List(t.Context(), ResultFilter{}),
		"Watch":   results.Watch(t.Context(), ResultFilter{}),
		"Since":   results.Watch(t.Context(), ResultFilter{Since: time.Now()}),
		"WaitFor": results.WaitFor(t.Context(), Position{}, []Awaited{{Seq: 1}}),
	} {
		for _, err := range events {
			errs[what] = err
		}
	}
	if len(errs) != 6 {
		t.Errorf("errors of %d calls, want 6", len(errs))
	}
	for what, err := range errs {
		if err == nil || !strings.Contains(err.Error(), "kexrelay setup") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestWatchingEndsWithItsContextAlsoWithoutNATS(t *testing.T) {
	server := startRestartable(t)
	js := connect(t, server.URL())
	if _, err := topology.Setup(t.Context(), js, topology.Options{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	settle(t, newJournal(t, js), delivered(anUpdate(1)))
	ended := make(chan error, 1)
	began := make(chan struct{})
	go func() {
		for event, err := range NewResults(js).Watch(ctx, ResultFilter{Since: time.Now().Add(-time.Hour)}) {
			if err != nil {
				ended <- err
				return
			}
			if event.Data.UpdateSeq == 1 {
				close(began)
			}
		}
	}()
	<-began
	server.stop(t)
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("it ends with %v, want the cancellation", err)
		}
	case <-within(t, time.Minute).Done():
		t.Error("it does not end")
	}
}

func TestWatchingMissesAndRepeatsNothingThroughRestarts(t *testing.T) {
	t.Parallel()
	server := startRestartable(t)
	js := connect(t, server.URL())
	if _, err := topology.Setup(t.Context(), js, topology.Options{}); err != nil {
		t.Fatal(err)
	}
	j := New(js, Config{Source: source, Patience: time.Minute})
	t.Cleanup(j.Close)
	settle(t, j, delivered(anUpdate(1000))) // Before the watch: not to be seen.

	ctx := within(t, 3*time.Minute)
	next, stop := iter.Pull2(NewResults(js).Watch(ctx, ResultFilter{}))
	defer stop()
	seen := make(chan uint64)
	go func() { // Pulls the first while nothing is there yet.
		defer close(seen)
		for {
			event, err, ok := next()
			if !ok || err != nil {
				return
			}
			seen <- event.Data.UpdateSeq
			if event.Data.UpdateSeq == 60 {
				return
			}
		}
	}()
	var want, got []uint64
	for seq := uint64(1); seq <= 60; seq++ {
		if seq%20 == 0 {
			server.stop(t)
			server.start(t)
		}
		want = append(want, seq)
		done := make(chan error, 1)
		go func() { done <- j.Settle(ctx, delivered(anUpdate(seq))) }()
		if err := <-done; err != nil {
			t.Fatalf("update %d: %v", seq, err)
		}
		if seq == 1 { // Where the watch begins is not fixed before its first pull: settle until it is seen.
			for n := uint64(0); len(got) == 0; n++ {
				select {
				case first := <-seen:
					got = append(got, first)
				case <-time.After(50 * time.Millisecond):
					settle(t, j, delivered(anUpdate(2000+n)))
				}
			}
		}
	}
	for seq := range seen {
		got = append(got, seq)
	}
	got = slices.DeleteFunc(got, func(seq uint64) bool { return seq >= 2000 })
	if len(got) > 0 && got[0] != 1 {
		want = want[1:] // The first was settled before the watch began.
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("updates (-want +got):\n%s", diff)
	}
}

func TestAWatchCanBeginBehindASequence(t *testing.T) {
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	for seq := uint64(1); seq <= 3; seq++ {
		settle(t, j, deadLettered(anUpdate(seq)))
	}
	for event, err := range NewResults(js).Watch(t.Context(), ResultFilter{After: 2}) {
		if err != nil || event.Seq != 3 {
			t.Errorf("first event %d, %v; want 3", event.Seq, err)
		}
		break
	}
}
