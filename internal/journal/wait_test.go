package journal

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

func TestWaitForGivesTheSettlementOfEachUpdate(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	settle(t, j, delivered(anUpdate(7))) // Of an earlier stream with the same sequences.
	results := NewResults(js)
	from, err := results.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(5); seq < 9; seq++ {
		u := anUpdate(seq)
		u.StoredAt = time.Now()
		s := delivered(u)
		if seq == 6 {
			s = deadLettered(u)
		}
		settle(t, j, s)
	}
	if err := j.Notice(t.Context(), Notice{Outcome: update.Replayed, Key: "1", Data: EventData{UpdateSeq: 9, Vorgangsnummer: "1", Kind: update.Document}}); err != nil {
		t.Fatal(err)
	}
	outcomes := map[uint64]update.Outcome{}
	waiting := []Awaited{{Seq: 9}, {Seq: 8}, {Seq: 7}, {Seq: 7}, {Seq: 6}}
	for event, err := range results.WaitFor(within(t, time.Minute), from, waiting) {
		if err != nil {
			t.Fatal(err)
		}
		if event.Data.UpdateSeq == 7 && event.Data.ReceivedAt.Equal(storedAt) {
			t.Error("the result of the earlier stream is taken for this one's")
		}
		outcomes[event.Data.UpdateSeq] = event.Data.Outcome
		if len(outcomes) == 3 { // Only 9 is open: it is settled while we wait.
			settle(t, j, delivered(anUpdate(9)))
		}
	}
	want := map[uint64]update.Outcome{6: update.DeadLettered, 7: update.Delivered, 8: update.Delivered, 9: update.Delivered}
	if diff := cmp.Diff(want, outcomes); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
}

func TestWaitForFindsTheEarlierResultOfADuplicate(t *testing.T) {
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	settle(t, j, delivered(anUpdate(3)))
	settle(t, j, deadLettered(anUpdate(4))) // Of an earlier stream: only the duplicate may be settled before.
	results := NewResults(js)
	from, err := results.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	u := anUpdate(4)
	u.StoredAt = time.Now()
	settle(t, j, delivered(u))
	outcomes := map[uint64]update.Outcome{}
	for event, err := range results.WaitFor(within(t, time.Minute), from, []Awaited{{Seq: 3, Duplicate: true}, {Seq: 4}}) {
		if err != nil {
			t.Fatal(err)
		}
		outcomes[event.Data.UpdateSeq] = event.Data.Outcome
	}
	if diff := cmp.Diff(map[uint64]update.Outcome{3: update.Delivered, 4: update.Delivered}, outcomes); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
}

// Cancelled or erased before it was sent, an update has no other end; what becomes of a dead letter is no end of it.
func TestWaitForEndsWithWhatAnOperatorTookBack(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	results := NewResults(js)
	from, err := results.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tell := func(outcome update.Outcome, updateSeq, deadLetterSeq uint64) {
		t.Helper()
		if err := j.Notice(t.Context(), Notice{
			Outcome: outcome, Key: strconv.FormatUint(updateSeq, 10),
			Data: EventData{UpdateID: "x", UpdateSeq: updateSeq, DeadLetterSeq: deadLetterSeq, Vorgangsnummer: "1", Kind: update.Comments},
		}); err != nil {
			t.Fatal(err)
		}
	}
	tell(update.Discarded, 5, 0)
	tell(update.Erased, 6, 0)
	tell(update.Discarded, 7, 70)
	tell(update.Erased, 8, 80)
	settle(t, j, delivered(anUpdate(7)))
	settle(t, j, delivered(anUpdate(8)))
	outcomes := map[uint64]update.Outcome{}
	for event, err := range results.WaitFor(within(t, time.Minute), from, []Awaited{{Seq: 5}, {Seq: 6}, {Seq: 7}, {Seq: 8}}) {
		if err != nil {
			t.Fatal(err)
		}
		outcomes[event.Data.UpdateSeq] = event.Data.Outcome
	}
	want := map[uint64]update.Outcome{5: update.Discarded, 6: update.Erased, 7: update.Delivered, 8: update.Delivered}
	if diff := cmp.Diff(want, outcomes); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
}

func TestWaitForNothingEndsAtOnceAndForTooLongWithHowMany(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	results := NewResults(js)
	if got := collect(t, results.WaitFor(t.Context(), Position{}, nil)); got != nil {
		t.Errorf("got %v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var last error
	for _, err := range results.WaitFor(ctx, Position{}, []Awaited{{Seq: 1}, {Seq: 2}}) {
		last = err
	}
	if !errors.Is(last, context.DeadlineExceeded) || !strings.Contains(last.Error(), "2 of 2 updates") {
		t.Errorf("it ends with %v", last)
	}
}
