package app

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"kexrelay/internal/journal"
	"kexrelay/internal/queue"
	"kexrelay/internal/telemetry"
	"kexrelay/internal/topology"
)

const (
	// seenFor is how long what was seen in NATS may be told as what is: some looks of watchTopology.
	seenFor = time.Minute
	// deadLettersPause is the time between two looks whether there are other dead letters than those counted.
	deadLettersPause = 5 * time.Second
)

// seen is what was last seen in NATS, for metrics. The zero value has seen nothing.
type seen struct {
	topology    atomic.Pointer[seenTopology]
	deadLetters atomic.Pointer[[]journal.DeadLetterCount]
}

type seenTopology struct {
	found topology.Found
	at    time.Time
}

func (s *seen) note(found topology.Found) {
	s.topology.Store(&seenTopology{found: found, at: time.Now()})
}

// now is what was seen lately, false if that is too long ago.
func (s *seen) now() (topology.Found, bool) {
	last := s.topology.Load()
	if last == nil || time.Since(last.at) > seenFor {
		return topology.Found{}, false
	}
	return last.found, true
}

// room is a stream or bucket of what was seen.
func room(found topology.Found, name string) topology.Room {
	for _, r := range found.Rooms {
		if r.Name == name {
			return r
		}
	}
	return topology.Room{}
}

// speaks reports whether this process speaks for all: it holds partition 0.
func (p *relayProcess) speaks() bool {
	return len(p.partitions) > 0 && p.partitions[0].queue.Load() != nil
}

// fleetMetrics is what one process says for all.
func (p *relayProcess) fleetMetrics() (telemetry.Fleet, bool) {
	found, known := p.seen.now()
	if !known || !p.speaks() {
		return telemetry.Fleet{}, false
	}
	updates := room(found, topology.StreamUpdates)
	fleet := telemetry.Fleet{
		Partitions: len(p.partitions), Replicas: 1, // At least this one.
		Waiting: updates.Messages, Oldest: updates.OldestAt,
	}
	if others, ok := p.members.Look(len(p.partitions)); ok {
		fleet.Replicas = len(others.Live)
	}
	for _, r := range found.Rooms {
		fleet.Streams = append(fleet.Streams, telemetry.Stream{Name: r.Name, Messages: r.Messages, Bytes: r.Bytes, MaxBytes: r.MaxBytes})
	}
	if counts := p.seen.deadLetters.Load(); counts != nil {
		for _, c := range *counts {
			fleet.DeadLetters = append(fleet.DeadLetters, telemetry.DeadLetters(c))
		}
	}
	return fleet, true
}

// partitionMetrics is what this process says about the partitions it sends for.
func (p *relayProcess) partitionMetrics() []telemetry.Partition {
	found, _ := p.seen.now()
	var all []telemetry.Partition
	for number, consumer := range found.Consumers {
		if number < len(p.partitions) && p.partitions[number].queue.Load() != nil {
			all = append(all, telemetry.Partition{Number: number, Waiting: consumer.Unsettled, Pinned: consumer.Pinned})
		}
	}
	return all
}

// readyUpdates is how many updates of this process's partitions could be sent now. While a kind is paused nobody knows of
// those that were not taken up whether they may be: they do not count then.
func (p *relayProcess) readyUpdates() uint64 {
	if readiness := p.readiness(); !readiness.Connected || readiness.Starting || len(p.gate.Holds()) > 0 || p.members.Trouble() != nil {
		return 0
	}
	lanes := p.relay.Stats().Lanes
	if len(p.gate.Kinds()) > 0 {
		return uint64(max(lanes.Ready+lanes.Running, 0))
	}
	waiting := uint64(0)
	for _, part := range p.partitionMetrics() {
		waiting += part.Waiting
	}
	return waiting - min(waiting, uint64(max(lanes.Waiting, 0)))
}

// watchDeadLetters counts the dead letters, until ctx ends, when there are other ones than before: the process that
// speaks for all does it.
func (p *relayProcess) watchDeadLetters(ctx context.Context) {
	var counted topology.Room
	for ; ctx.Err() == nil; pause(ctx, deadLettersPause) {
		found, known := p.seen.now()
		if !known || !p.speaks() {
			p.seen.deadLetters.Store(nil)
			continue
		}
		now := room(found, topology.StreamDeadLetters)
		same := now.Messages == counted.Messages && now.LastSeq == counted.LastSeq && now.OldestAt.Equal(counted.OldestAt)
		if same && p.seen.deadLetters.Load() != nil {
			continue
		}
		counts, err := journal.CountDeadLetters(ctx, p.conn.Load().JetStream())
		if err != nil {
			if ctx.Err() == nil {
				p.logger.Debug("dead letters could not be counted for the metrics; it is tried again", slog.Any("error", err))
			}
			continue
		}
		counted = now
		p.seen.deadLetters.Store(&counts)
	}
}

// fetchCounts adds up what all queues counted, those that are gone included: a counter must not go back when a
// partition is handed over.
type fetchCounts struct {
	mu    sync.Mutex
	live  map[*queue.Queue]struct{}
	ended map[telemetry.FetchEvent]uint64
}

func newFetchCounts() *fetchCounts {
	return &fetchCounts{live: map[*queue.Queue]struct{}{}, ended: make(map[telemetry.FetchEvent]uint64)}
}

func (f *fetchCounts) begin(q *queue.Queue) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.live[q] = struct{}{}
}

// end keeps what a queue has counted. It counts no more.
func (f *fetchCounts) end(q *queue.Queue) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, counts := f.live[q]; counts {
		delete(f.live, q)
		addFetched(f.ended, q.Stats())
	}
}

func (f *fetchCounts) counts() map[telemetry.FetchEvent]uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make(map[telemetry.FetchEvent]uint64, len(f.ended))
	maps.Copy(all, f.ended)
	for q := range f.live {
		addFetched(all, q.Stats())
	}
	return all
}

func addFetched(to map[telemetry.FetchEvent]uint64, s queue.Stats) {
	for event, n := range map[telemetry.FetchEvent]uint64{
		telemetry.FetchDelivered: s.Delivered, telemetry.FetchRedelivered: s.Redelivered, telemetry.FetchReacked: s.Reacked,
		telemetry.FetchPinLost: s.PinLosses, telemetry.FetchCatchUp: s.CatchUps,
		telemetry.FetchDropped: s.Dropped, telemetry.FetchReread: s.Reread,
	} {
		to[event] += n
	}
}
