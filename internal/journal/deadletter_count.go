package journal

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
)

// DeadLetterCount is how many dead letters there are for a reason.
type DeadLetterCount struct {
	Reason fault.Reason
	Count  uint64
	// Oldest is when the oldest of them was stored, zero if there is none.
	Oldest time.Time
}

// CountDeadLetters counts the dead letters of each reason there is, also those that have none. The server counts: of
// each reason only the oldest one's headers are read, however many there are.
func CountDeadLetters(ctx context.Context, js jetstream.JetStream) ([]DeadLetterCount, error) {
	reasons := fault.DeadLetterReasons()
	counts := make([]DeadLetterCount, len(reasons))
	for i, reason := range reasons {
		counts[i].Reason = reason
		scan := Scan{
			Stream: topology.StreamDeadLetters, Filters: []string{topology.DeadLetterSubject(reason, "*", "*")},
			HeadersOnly: true, Batch: 1,
		}
		if err := scan.each(ctx, js, func(_ jetstream.Msg, meta *jetstream.MsgMetadata) bool {
			counts[i].Count, counts[i].Oldest = meta.NumPending+1, meta.Timestamp.UTC()
			return false
		}); err != nil {
			return nil, fmt.Errorf("counting the dead letters: %w", err)
		}
	}
	return counts, nil
}
