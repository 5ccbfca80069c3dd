package telemetry

import (
	"testing"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

func TestTotalsSumUpWhatWasCounted(t *testing.T) {
	m := NewMetrics(BuildInfo{})
	if got := m.Totals(); got != (Totals{}) {
		t.Errorf("at the start: %+v", got)
	}
	m.Settled(update.Document, update.Delivered, "")
	m.Settled(update.Comments, update.Delivered, "")
	m.Settled(update.Comments, update.DeadLettered, fault.Gone)
	m.Settled(update.Document, update.DeadLettered, fault.Rejected)
	m.Settled(update.Document, update.DeadLettered, fault.Gone)
	m.Settled(update.Document, update.Replayed, "")
	m.Attempt(update.Document, ClassOf(nil), time.Second)
	m.UnknownOutcome(update.Comments)
	if got, want := m.Totals(), (Totals{Delivered: 2, DeadLettered: 3, Attempts: 1, UnknownOutcomes: 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
