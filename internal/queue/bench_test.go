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

// BenchmarkTakeOver is what a successor reads of what a former process was given and has not settled.
func BenchmarkTakeOver(b *testing.B) {
	const n = 20_000
	conn := prepared(b)
	fill(b, conn, n, 500)
	former := open(b, connect(b, ConnectOptions{URL: conn.Server()}, Hooks{}), Config{})
	r := start(b, former)
	r.await(n)
	r.stop()
	b.ResetTimer()
	for b.Loop() {
		q := open(b, conn, Config{})
		if err := q.TakeOver(b.Context()); err != nil {
			b.Fatal(err)
		}
		r := start(b, q)
		r.await(n)
		r.stop()
		q.Close()
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "updates/s")
}
