package trace_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kexrelay/internal/journal"
	"kexrelay/internal/trace"
	"kexrelay/internal/update"
)

func TestEachUpdateCountsOnceAsPublishedAndWhereItEnded(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	evening := time.Date(2026, 11, 21, 22, 50, 0, 0, time.UTC) // 23:50 there.
	after := evening.Add(20 * time.Minute)                     // The next day there, the same in UTC.
	count := trace.NewCount(berlin)
	for _, e := range []journal.EventData{
		{Outcome: update.Delivered, Kind: update.Document, ReceivedAt: evening, SettledAt: evening},
		{Outcome: update.Delivered, Kind: update.Comments, ReceivedAt: evening, SettledAt: after, PossibleDuplicate: true},
		{Outcome: update.DoubleBooked, Kind: update.Comments, ReceivedAt: evening, SettledAt: after, PossibleDuplicate: true},
		{Outcome: update.DeadLettered, Kind: update.Document, ReceivedAt: evening, SettledAt: evening, DeadLetterSeq: 1},
		{Outcome: update.Replayed, Kind: update.Document, SettledAt: after, DeadLetterSeq: 1, ReplayOf: 1},
		{Outcome: update.Delivered, Kind: update.Document, ReceivedAt: after, SettledAt: after, ReplayOf: 1},
		{Outcome: update.Discarded, Kind: update.Document, ReceivedAt: after, SettledAt: after},
		{Outcome: update.Discarded, Kind: update.Document, SettledAt: after, DeadLetterSeq: 2},
		{Outcome: update.Erased, Kind: update.Document, SettledAt: after, DeadLetterSeq: 3},
		{Outcome: update.Erased, Kind: update.Document, ReceivedAt: evening, SettledAt: after},
		{Outcome: update.Delivered, Kind: update.Document, ReceivedAt: evening.AddDate(0, 0, -1), SettledAt: evening},
	} {
		count.Add(e)
	}
	want := []trace.Day{
		{Day: "2026-11-21", Published: 4, Delivered: 2, Documents: 2, DeadLettered: 1},
		{
			Day: "2026-11-22", Published: 1, Delivered: 2, Documents: 1, Comments: 1, Replayed: 1, Discarded: 2, Erased: 2,
			PossibleDuplicates: 1, DoubleBooked: 1,
		},
	}
	if diff := cmp.Diff(want, count.Days(trace.DayOf(evening, berlin))); diff != "" {
		t.Error(diff)
	}
}
