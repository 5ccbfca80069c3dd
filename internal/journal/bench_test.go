package journal

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

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

// BenchmarkBegin is a publish and its answer, as the relay makes them, against an embedded server: by the client's own
// asynchronous publishing, and by ours.
func BenchmarkBegin(b *testing.B) {
	js := setUp(b, topology.Options{})
	j := newJournal(b, js)
	event := j.settlementEvent(delivered(anUpdate(1)), 0)
	msg, err := event.message()
	if err != nil {
		b.Fatal(err)
	}
	msg.Header.Del(jetstream.MsgIDHeader)
	const ahead = 64
	b.Run("jetstream", func(b *testing.B) {
		answered := make(chan error, ahead)
		client, err := jetstream.New(js.Conn(), jetstream.WithPublishAsyncTimeout(time.Minute),
			jetstream.WithPublishAsyncAckHandler(func(jetstream.JetStream, *nats.Msg, *jetstream.PubAck) { answered <- nil }),
			jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) { answered <- err }))
		if err != nil {
			b.Fatal(err)
		}
		benchmarkAhead(b, ahead, answered, func() error {
			_, err := client.PublishMsgAsync(msg, jetstream.WithRetryAttempts(0))
			return err
		})
	})
	b.Run("ours", func(b *testing.B) {
		answered := make(chan error, ahead)
		begun := newBegun(js.Conn(), time.Minute)
		benchmarkAhead(b, ahead, answered, func() error {
			return begun.publish(msg, func(_ jetstream.PubAck, err error) { answered <- err })
		})
	})
}

// benchmarkAhead publishes with so many answers outstanding.
func benchmarkAhead(b *testing.B, ahead int, answered <-chan error, publish func() error) {
	b.Helper()
	b.ReportAllocs()
	open := 0
	wait := func() {
		if err := <-answered; err != nil {
			b.Fatal(err)
		}
		open--
	}
	for b.Loop() {
		if open == ahead {
			wait()
		}
		if err := publish(); err != nil {
			b.Fatal(err)
		}
		open++
	}
	for open > 0 {
		wait()
	}
}
