package journal

import (
	"sync"
	"sync/atomic"
	"testing"

	"kexrelay/internal/topology"
)

// BenchmarkSettle is the hot path: 64 updates that are settled at the same time, server in the same process.
func BenchmarkSettle(b *testing.B) {
	j := newJournal(b, setUp(b, topology.Options{}))
	b.ReportAllocs()
	var seq atomic.Uint64
	var workers sync.WaitGroup
	b.ResetTimer()
	for range 64 {
		workers.Go(func() {
			for {
				n := seq.Add(1)
				if n > uint64(b.N) {
					return
				}
				if err := j.Settle(b.Context(), delivered(anUpdate(n))); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	workers.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "settled/s")
}

// BenchmarkEvent is what a result costs before it is published.
func BenchmarkEvent(b *testing.B) {
	j := &Journal{cfg: Config{Source: source}}
	s := delivered(anUpdate(1))
	b.ReportAllocs()
	for b.Loop() {
		event := j.settlementEvent(s, 0)
		if _, err := event.message(); err != nil {
			b.Fatal(err)
		}
	}
}
