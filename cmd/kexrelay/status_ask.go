package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"kexrelay/internal/deadletter"
	"kexrelay/internal/journal"
	"kexrelay/internal/queue"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// ask asks for every part, side by side or in turn; one that cannot be asked hides no other.
func (s *status) ask(ctx context.Context, conn *queue.Conn, inTurn bool) {
	s.NATS.URL = conn.Server()
	var topologyErr error
	parts := []struct {
		name string
		ask  func() error
		err  error
	}{
		{name: "topology", ask: func() error {
			topologyErr = s.askTopology(ctx, conn)
			return nil
		}},
		{name: "updates and replicas", ask: func() error { return s.askUpdates(ctx, conn) }},
		{name: "holds", ask: func() error {
			return s.askHolds(ctx, journal.NewHolds(conn.JetStream()))
		}},
		{name: "dead letters", ask: func() error { return s.askDeadLetters(ctx, conn) }},
		{name: "results", ask: func() error { return s.askResults(ctx, conn) }},
	}
	var all sync.WaitGroup
	for i := range parts {
		all.Go(func() { parts[i].err = parts[i].ask() })
		if inTurn {
			all.Wait()
		}
	}
	all.Wait()
	s.unknown("topology", topologyErr)
	for _, part := range parts {
		s.unknown(part.name, part.err)
	}
}

// askTopology looks at streams, consumers and buckets. The error says that they could not be looked at.
func (s *status) askTopology(ctx context.Context, conn *queue.Conn) error {
	found, err := topology.Verify(ctx, conn.JetStream())
	s.NATS.Version = found.Server
	s.Topology = topologyStatus{
		Right: err == nil, Partitions: found.Partitions, Replicas: found.Replicas, Storage: found.Storage, Rooms: []roomStatus{},
	}
	for _, room := range found.Rooms {
		s.Topology.Rooms = append(s.Topology.Rooms, roomStatus{
			Name: room.Name, Messages: room.Messages, Bytes: room.Bytes, MaxBytes: room.MaxBytes, Refuses: room.Refuses,
		})
	}
	switch {
	case err == nil:
	case errors.Is(err, topology.ErrSetupNeeded), errors.Is(err, topology.ErrServerTooOld):
		s.Topology.Problem = err.Error()
	default:
		s.Topology.Problem = "not known: " + err.Error()
		s.Topology.NotKnown = true
		return err
	}
	return nil
}

// askUpdates asks what waits and who works on it.
func (s *status) askUpdates(ctx context.Context, conn *queue.Conn) error {
	backlog, err := conn.Backlog(ctx)
	if err == nil {
		s.backlog(backlog)
	}
	return errors.Join(err, s.replicas(ctx, conn))
}

func (s *status) askHolds(ctx context.Context, keys *journal.Holds) error {
	holds, err := keys.List(ctx)
	if err != nil {
		return err
	}
	s.Holds = append(s.Holds, holds...)
	pauses, err := keys.Kinds(ctx)
	for _, p := range pauses {
		s.PausedKinds = append(s.PausedKinds, pausedKind{Kind: p.Kind(), Since: p.Since, Until: p.Until, Reason: p.Detail, By: p.Replica})
	}
	return err
}

func (s *status) askDeadLetters(ctx context.Context, conn *queue.Conn) error {
	store := deadletter.New(conn.JetStream(), deadletter.Config{})
	defer store.Close()
	counts, oldest, err := store.Tally(ctx)
	if err == nil && len(counts) > 1 && conn.MayAsk(ctx, deadletter.ReadVerb) {
		counts, err = store.Counts(ctx)
	}
	if err != nil {
		return err
	}
	s.DeadLetters = &deadLettersStatus{Oldest: oldest, ByReason: counts}
	for _, c := range counts {
		s.DeadLetters.Count += c.Count
	}
	return nil
}

func (s *status) askResults(ctx context.Context, conn *queue.Conn) error {
	counts, err := journal.NewResults(conn.JetStream()).Count(ctx, s.CheckedAt.Add(-resultsWindow))
	if err != nil {
		return err
	}
	s.Results = &resultsStatus{ByOutcome: counts}
	for _, n := range counts {
		s.Results.LastMinute += n
	}
	s.Results.PerSecond = float64(counts[update.Delivered]+counts[update.DeadLettered]) / resultsWindow.Seconds()
	return nil
}

// unknown notes what could not be asked. Without a topology that is no news.
func (s *status) unknown(what string, err error) {
	if err != nil && (s.Topology.Right || s.Topology.NotKnown) {
		s.Unknown = append(s.Unknown, what+": "+withoutDenial(err.Error()))
	}
}

func (s *status) backlog(b queue.Backlog) {
	s.Updates = &updatesStatus{Waiting: b.Messages, Bytes: b.Bytes, MaxBytes: b.MaxBytes, Oldest: b.OldestAt.UTC(), Undelivered: b.Undelivered}
	if b.OldestAt.IsZero() {
		s.Updates.Oldest = time.Time{}
	}
	for _, p := range b.Partitions {
		s.Partitions = append(s.Partitions, partitionStatus{
			Partition: p.Number, Pending: p.Pending, InProgress: p.AckPending, Redelivered: p.Redelivered,
			Pulling: p.Waiting > 0 || p.PinnedClient != "", Paused: p.Paused,
		})
	}
}

// withoutDenial is an error in one line, without what was denied: of parts that are asked side by side nobody can tell
// whose it is, see status.Denied.
func withoutDenial(text string) string {
	text, _, _ = strings.Cut(strings.ReplaceAll(text, "\n", "; "), " (NATS denies")
	return text
}
