package deadletter

import (
	"cmp"
	"context"
	"maps"
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
	// Oldest is when the oldest of them was stored, zero if that is not known.
	Oldest time.Time `json:"oldest,omitzero"`
}

// Counts gives the dead letters by reason, the reason with the oldest one first; reasons without any are left out. The
// server counts: no dead letter is read, and of each reason only the oldest one's headers are.
func (s *Store) Counts(ctx context.Context) ([]Count, error) {
	counts, _, err := s.Tally(ctx)
	if err != nil {
		return nil, err
	}
	for i := range counts {
		if counts[i].Oldest, err = s.oldest(ctx, reasonSubjects(counts[i].Reason)); err != nil {
			return nil, err
		}
	}
	// Replayed between the two questions otherwise.
	counts = slices.DeleteFunc(counts, func(c Count) bool { return c.Oldest.IsZero() })
	slices.SortFunc(counts, func(a, b Count) int {
		return cmp.Or(a.Oldest.Compare(b.Oldest), cmp.Compare(a.Reason, b.Reason))
	})
	return counts, nil
}

// Tally is Counts for those who may read no dead letter: it needs the right to STREAM.INFO alone. How old the oldest of
// a reason is it knows only if there is one reason; oldest is that of all.
func (s *Store) Tally(ctx context.Context) (counts []Count, oldest time.Time, err error) {
	info, err := s.info(ctx, topology.StreamDeadLetters, jetstream.WithSubjectFilter(topology.SubjectDeadLetters))
	if err != nil {
		return nil, time.Time{}, err
	}
	byReason := make(map[fault.Reason]uint64)
	for subject, n := range info.State.Subjects {
		reason, _, _ := strings.Cut(strings.TrimPrefix(subject, reasonPrefix), ".")
		byReason[fault.Reason(reason)] += n
	}
	if len(byReason) > 0 {
		oldest = info.State.FirstTime.UTC()
	}
	for _, reason := range slices.Sorted(maps.Keys(byReason)) {
		count := Count{Reason: reason, Count: byReason[reason]}
		if len(byReason) == 1 {
			count.Oldest = oldest
		}
		counts = append(counts, count)
	}
	return counts, oldest, nil
}

// ReadVerb is the request that Counts makes beyond those of Tally: the right to it is the right to read dead letters.
const ReadVerb = "CONSUMER.CREATE." + topology.StreamDeadLetters + ".name." + topology.SubjectDeadLetters

var reasonPrefix = strings.TrimSuffix(topology.SubjectDeadLetters, ">")

func reasonSubjects(reason fault.Reason) string { return reasonPrefix + string(reason) + ".>" }

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
