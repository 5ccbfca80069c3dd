package deadletter

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
)

// Count is how many dead letters there are for a reason.
type Count struct {
	Reason fault.Reason `json:"reason"`
	Count  uint64       `json:"count"`
	// Oldest is when the oldest of them was stored.
	Oldest time.Time `json:"oldest"`
}

// Counts gives the dead letters by reason, the reason with the oldest one first; reasons without any are left out. The
// server counts: no dead letter is read, and of each reason only the oldest one's headers are.
func (s *Store) Counts(ctx context.Context) ([]Count, error) {
	info, err := s.info(ctx, topology.StreamDeadLetters, jetstream.WithSubjectFilter(topology.SubjectDeadLetters))
	if err != nil {
		return nil, err
	}
	prefix := strings.TrimSuffix(topology.SubjectDeadLetters, ">")
	byReason := map[string]uint64{}
	for subject, n := range info.State.Subjects {
		reason, _, _ := strings.Cut(strings.TrimPrefix(subject, prefix), ".")
		byReason[reason] += n
	}
	counts := make([]Count, 0, len(byReason))
	for reason, n := range byReason {
		oldest, err := s.oldest(ctx, prefix+reason+".>")
		if err != nil {
			return nil, err
		}
		if !oldest.IsZero() { // Replayed between the two questions otherwise.
			counts = append(counts, Count{Reason: fault.Reason(reason), Count: n, Oldest: oldest})
		}
	}
	slices.SortFunc(counts, func(a, b Count) int {
		return cmp.Or(a.Oldest.Compare(b.Oldest), cmp.Compare(a.Reason, b.Reason))
	})
	return counts, nil
}

// oldest is when the first message of a subject was stored, zero if there is none.
func (s *Store) oldest(ctx context.Context, subject string) (time.Time, error) {
	scan := journal.Scan{Stream: topology.StreamDeadLetters, Filters: []string{subject}, HeadersOnly: true, Batch: 1}
	for msg, err := range scan.Messages(ctx, s.js) {
		if err != nil {
			return time.Time{}, err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return time.Time{}, err
		}
		return meta.Timestamp.UTC(), nil
	}
	return time.Time{}, nil
}
