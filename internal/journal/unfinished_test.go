package journal

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

func TestADeadLetterWithoutItsResultIsFinishedAsItWasDecided(t *testing.T) {
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	u := anUpdate(17)
	want := deadLettered(u)
	if s, err := j.Unfinished(t.Context(), u); s != nil || err != nil {
		t.Fatalf("got %+v, %v before there is any", s, err)
	}
	ack, err := j.DeadLetter(t.Context(), want) // Here the process died.
	if err != nil {
		t.Fatal(err)
	}
	s, err := j.Unfinished(t.Context(), u)
	if err != nil || s == nil {
		t.Fatalf("got %v, %v", s, err)
	}
	want.DeadLetterSeq = ack.Sequence
	if diff := cmp.Diff(want, s, cmp.AllowUnexported(update.Object{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	settle(t, j, s)
	if n := len(messages(t, js, topology.StreamDeadLetters)); n != 1 {
		t.Errorf("%d dead letters, want one", n)
	}
	if msg := only(t, js, topology.StreamResults); msg.Headers().Get("Kex-Outcome") != "deadlettered" {
		t.Errorf("result %v", msg.Headers())
	}
	// Of another update of the Vorgang it says nothing, not even of one with the same sequence.
	other := anUpdate(17)
	other.StoredAt = other.StoredAt.Add(1)
	for _, u := range []*update.Update{anUpdate(18), other} {
		if s, err := j.Unfinished(t.Context(), u); s != nil || err != nil {
			t.Errorf("got %+v, %v", s, err)
		}
	}
}
