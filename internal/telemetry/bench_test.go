package telemetry

import (
	"testing"
	"time"

	"kexrelay/internal/update"
)

// BenchmarkUpdate is what is counted of one update that is delivered at once.
func BenchmarkUpdate(b *testing.B) {
	m := NewMetrics(BuildInfo{})
	b.ReportAllocs()
	for b.Loop() {
		m.Attempt(update.Comments, ClassDelivered, time.Millisecond)
		m.Settled(update.Comments, update.Delivered, "")
		m.Took(update.Comments, update.Delivered, time.Second, time.Millisecond)
	}
}
