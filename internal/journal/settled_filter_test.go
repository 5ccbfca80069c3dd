package journal

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// Whatever a publisher wrote into the subject, the result of the update is among those that are read: a settled update
// that was overlooked would be sent again.
func TestTheResultsThatAreReadAreThoseOfWhateverWaits(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	settle(t, j, delivered(anUpdate(500))) // Another Vorgang's, which nobody waits for.
	for _, subject := range []string{
		"kex.vorgang.1.kommentare", "kex.vorgang.2.dokument", "kex.vorgang.3.unknown", "kex.vorgang.$x.kommentare",
		"kex.vorgang.~.dokument", "kex.vorgang.4", "kex.vorgang.5.kommentare.more", "kex.vorgang.6.KOMMENTARE",
		"kex.update.0.7.kommentare",
	} {
		if _, err := js.Publish(t.Context(), subject, []byte(`["x"]`)); err != nil {
			t.Logf("%s: %v", subject, err) // What the stream does not take cannot wait.
		}
	}
	stream, err := js.Stream(t.Context(), topology.StreamUpdates)
	if err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(">"))
	if err != nil {
		t.Fatal(err)
	}
	if info.State.Msgs < 8 {
		t.Fatalf("only %d updates wait", info.State.Msgs)
	}
	var subjects []string
	var waiting []key
	for subject := range info.State.Subjects {
		subjects = append(subjects, subject)
	}
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		msg, err := stream.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		u, err := update.Decode(update.Message{
			Subject: topology.PublishedSubject(msg.Subject), Body: msg.Data, Seq: msg.Sequence, StoredAt: msg.Time,
		}, func() string { return "sys1" })
		s := &update.Settlement{Update: u, Outcome: update.Delivered, Status: 200, Attempts: 1, RequestID: "sys1", SettledAt: time.Now()}
		if err != nil {
			s = &update.Settlement{Update: u, Outcome: update.DeadLettered, Reason: "invalid", SettledAt: time.Now()}
		}
		settle(t, j, s)
		waiting = append(waiting, keyOf(msg.Sequence, msg.Time))
	}
	settle(t, j, delivered(anUpdate(501))) // The stream's last is none of theirs.
	end, err := readResultsEnd(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	filters := resultFilters(subjects, end)
	set := scanAll(t, js, resultsRange{filters: filters}, 1000)
	for _, k := range waiting {
		if !set.has(k) {
			t.Errorf("update %d is settled, and was overlooked with the filters %q", k.seq, filters)
		}
	}
	if want := len(waiting) + 2; set.size() != want { // Both of the other Vorgang: it has the last.
		t.Errorf("%d were read, want %d", set.size(), want)
	}

	// The last goes while they are read: what is the last then need not be among them.
	if err := func() error {
		results, err := js.Stream(t.Context(), topology.StreamResults)
		if err != nil {
			return err
		}
		return results.DeleteMsg(t.Context(), end.last)
	}(); err != nil {
		t.Fatal(err)
	}
	hashes, err := newResultsReader(js).settled(within(t, time.Minute), resultsRange{filters: filters}, end, 1000)
	if err != nil || len(hashes) < len(waiting) {
		t.Errorf("%d results, %v, want %d", len(hashes), err, len(waiting))
	}
}

func TestFiltersOfResultsNeverOverlap(t *testing.T) {
	t.Parallel()
	end := resultsEnd{last: 9, lastSubject: "kex.result.delivered.1.kommentare"}
	for want, subjects := range map[string][]string{
		"[]":                          nil,
		"[kex.result.*.1.kommentare]": {"kex.update.0.1.kommentare"},
		"[kex.result.*.1.dokument kex.result.delivered.1.kommentare]":    {"kex.update.3.1.dokument"},
		"[kex.result.*.11.kommentare kex.result.delivered.1.kommentare]": {"kex.update.0.11.kommentare"},
		"[kex.result.*.~.invalid kex.result.delivered.1.kommentare]":     {"kex.vorgang.x", "kex.vorgang.$.y", "kex.update.0.$.y"},
	} {
		if got := fmt.Sprint(resultFilters(slices.Clone(subjects), end)); got != want {
			t.Errorf("%q: got %s, want %s", subjects, got, want)
		}
	}
	if got := resultFilters([]string{"kex.update.0.1.kommentare"}, resultsEnd{}); got != nil {
		t.Errorf("of no results: %q", got)
	}
}
