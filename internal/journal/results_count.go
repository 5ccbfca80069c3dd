package journal

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// Count says how many events of each outcome were written since then. The server counts, no event is read: it is as
// quick for a million. Outcomes without any are left out.
func (r *Results) Count(ctx context.Context, since time.Time) (map[update.Outcome]uint64, error) {
	counts := make(map[update.Outcome]uint64)
	all, err := r.pending(ctx, topology.SubjectResults, since)
	if err != nil || all == 0 {
		return counts, err
	}
	for _, outcome := range update.Outcomes() {
		n, err := r.pending(ctx, topology.ResultSubject(outcome, "*", "*"), since)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			counts[outcome] = n
		}
	}
	return counts, nil
}

// pending is how many messages a consumer that begins there would get.
func (r *Results) pending(ctx context.Context, subject string, since time.Time) (uint64, error) {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	consumer, err := r.js.CreateConsumer(ctx, topology.StreamResults, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since,
		FilterSubject: subject, InactiveThreshold: time.Second, MemoryStorage: true, Replicas: 1,
	})
	if err != nil {
		return 0, Explain("counting "+subject, r.js, err)
	}
	return consumer.CachedInfo().NumPending, nil
}
