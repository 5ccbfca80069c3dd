package journal

import (
	"fmt"
	"testing"
	"time"

	"kexrelay/internal/topology"
)

// The events since a moment are counted by outcome.
func TestResultsAreCounted(t *testing.T) {
	js := setUp(t, topology.Options{})
	results := NewResults(js)
	want := func(since time.Time, want string) {
		t.Helper()
		counts, err := results.Count(t.Context(), since)
		if got := fmt.Sprint(counts); err != nil || got != want {
			t.Errorf("got %s and %v, want %s", got, err, want)
		}
	}
	want(time.Now().Add(-time.Hour), "map[]")
	j := newJournal(t, js)
	settle(t, j, delivered(anUpdate(1)))
	settle(t, j, delivered(anUpdate(2)))
	settle(t, j, deadLettered(anUpdate(3)))
	want(time.Now().Add(-time.Hour), "map[deadlettered:1 delivered:2]")
	want(time.Now().Add(time.Minute), "map[]")
}
