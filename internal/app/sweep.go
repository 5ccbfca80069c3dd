package app

import (
	"context"
	"log/slog"
	"time"

	"kexrelay/internal/journal"
)

// sweepEvery is the time between two looks for documents that nothing names.
const sweepEvery = 10 * time.Minute

// sweepDocuments removes, until ctx ends, what publishers left in the document bucket: the holder of partition 0 does
// it for all.
func (p *relayProcess) sweepDocuments(ctx context.Context) {
	sweeper := journal.NewSweeper(p.conn.Load().JetStream())
	for {
		pause(ctx, sweepEvery)
		if ctx.Err() != nil {
			return
		}
		if p.partitions[0].queue.Load() == nil {
			continue
		}
		switch removed, err := sweeper.Sweep(ctx); {
		case err != nil && ctx.Err() == nil:
			p.logger.Warn("documents that nothing names could not be swept; it is tried again", slog.Any("error", err))
		case removed > 0:
			p.logger.Info("documents that no update and no dead letter names were removed", slog.Int("objects", removed))
		}
	}
}
