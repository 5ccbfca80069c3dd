package journal

import (
	"sync"
	"sync/atomic"
	"testing"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// BenchmarkLedger is what the ledger costs 64 updates that are sent at the same time, server in the same process.
func BenchmarkLedger(b *testing.B) {
	js := setUp(b, topology.Options{})
	lease, err := NewLeases(js, "a", discard()).Campaign(b.Context(), 0)
	if err != nil {
		b.Fatal(err)
	}
	t, err := TakeOver(b.Context(), js, lease, TenureConfig{Logger: discard()})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	before := streamState(b, js, ledgerStream).LastSeq
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
				if err := t.Sending(b.Context(), update.Attempt{Seq: n, StoredAt: storedAt, Attempts: 1, RequestID: "sys12345678"}); err != nil {
					b.Error(err)
					return
				}
				t.Settled(n, storedAt)
			}
		})
	}
	workers.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(b.N)/float64(streamState(b, js, ledgerStream).LastSeq-before), "records/commit")
	b.ReportMetric(float64(streamState(b, js, ledgerStream).Msgs), "slots")
	if err := t.Close(b.Context()); err != nil {
		b.Error(err)
	}
	if err := lease.Release(b.Context()); err != nil {
		b.Error(err)
	}
}

// BenchmarkHeld is what is asked before every POST.
func BenchmarkHeld(b *testing.B) {
	js := setUp(b, topology.Options{})
	lease, err := NewLeases(js, "a", discard()).Campaign(b.Context(), 0)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if !lease.Held() {
			b.Fatal("lost")
		}
	}
	if err := lease.Release(b.Context()); err != nil {
		b.Error(err)
	}
}
