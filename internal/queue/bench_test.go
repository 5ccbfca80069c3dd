package queue

import (
	"context"
	"testing"
	"time"
)

// BenchmarkRun is the way of a small update through the loop: fetched, handed over, its body taken, acked.
func BenchmarkRun(b *testing.B) {
	conn := prepared(b)
	fill(b, conn, b.N, 500)
	q := open(b, conn, Config{})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	left := b.N
	b.ReportAllocs()
	b.ResetTimer()
	begin := time.Now()
	err := q.Run(ctx, func(d *Delivery) {
		if _, err := d.Message(ctx); err != nil {
			b.Error(err)
		}
		if err := d.Ack(ctx); err != nil {
			b.Error(err)
		}
		if left--; left == 0 {
			stop()
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/time.Since(begin).Seconds(), "updates/s")
}
