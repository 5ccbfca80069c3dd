package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"kexrelay/internal/journal"
	"kexrelay/internal/queue"
)

// takeOverPause is how long to wait before a partition that could not be taken over is tried again.
const takeOverPause = time.Second

// quietTimeout bounds how long the hand-over waits, at a stop, for workers that have prepared a request and not sent
// it: usually microseconds.
const quietTimeout = 500 * time.Millisecond

// partition is this process's part in one partition: it campaigns for the lease, and serves while it has it.
type partition struct {
	number int
	bytes  int64
	// queue is the one that fetches at the moment, nil on standby.
	queue atomic.Pointer[queue.Queue]
}

// runPartition campaigns and serves in turn until ctx ends. An error means that nothing but a new process, or an
// operator, can help.
func (p *relayProcess) runPartition(ctx context.Context, part *partition, leases *journal.Leases) error {
	for ctx.Err() == nil {
		lease, err := leases.Campaign(ctx, part.number)
		if err != nil {
			return unlessStopped(ctx, fmt.Errorf("campaigning for partition %d: %w", part.number, err))
		}
		err = unlessStopped(ctx, p.servePartition(ctx, part, lease))
		// At once, before what is being sent is answered: the next replica goes on with everything else meanwhile.
		p.release(ctx, lease)
		if errors.Is(err, queue.ErrConsumerGone) || errors.Is(err, queue.ErrConnectionClosed) {
			return err
		}
		if err != nil {
			p.logger.Warn("partition could not be served; trying again", slog.Int("partition", part.number), slog.Any("error", err))
			pause(ctx, takeOverPause)
		}
	}
	return nil
}

// unlessStopped is err, or nil once the process was told to stop: whatever failed then, failed because of it.
func unlessStopped(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// servePartition takes the partition over and fetches until ctx ends or the lease is lost. The order is what makes
// it safe: with the lease in hand the consumer is unpinned and reset, so that everything unsettled comes again in
// stream order; then the bound, the ledger and the results are read; only then updates are accepted.
func (p *relayProcess) servePartition(ctx context.Context, part *partition, lease *journal.Lease) error {
	process := ctx
	ctx, cancel := untilClosed(ctx, lease.Lost())
	defer cancel()

	logger := p.logger.With(slog.Int("partition", part.number))
	started := time.Now()
	q, err := queue.New(ctx, p.conn.Load(), queue.Config{
		Partition: part.number, MaxBytes: part.bytes, Logger: logger,
		Busy: func() bool { return p.enoughToDo(part) },
	})
	if err != nil {
		return err
	}
	defer func() { p.retire(part, q, process.Err() != nil) }()
	if err := q.Reset(ctx); err != nil {
		return err
	}
	tenure, err := journal.TakeOver(ctx, p.conn.Load().JetStream(), lease, journal.TenureConfig{Logger: p.logger})
	if err != nil {
		return fmt.Errorf("taking the partition over: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), quietTimeout)
		defer cancel()
		if err := tenure.Close(closing); err != nil {
			logger.Debug("ledger was not closed cleanly", slog.Any("error", err))
		}
	}()
	if err := p.inheritHolds(ctx); err != nil {
		return err
	}
	part.queue.Store(q) // From here on its bytes count in enoughToDo.
	p.leased.Add(1)
	defer p.leased.Add(-1)
	logger.Info("partition taken over", slog.Uint64("epoch", lease.Epoch()), slog.Uint64("bound", tenure.Bound()),
		slog.Duration("took", time.Since(started)))
	err = q.Run(ctx, func(d *queue.Delivery) { p.relay.Accept(d, tenure) })
	if process.Err() != nil {
		quiet, cancel := context.WithTimeout(context.WithoutCancel(ctx), quietTimeout)
		defer cancel()
		p.relay.Quiet(quiet)
	}
	return err
}

// retire forgets what a queue holds: at once if the lease was lost, after the last ack if the process is stopping.
func (p *relayProcess) retire(part *partition, q *queue.Queue, stopping bool) {
	part.queue.Store(nil)
	if !stopping {
		q.Close()
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retired = append(p.retired, q)
}

func (p *relayProcess) release(ctx context.Context, lease *journal.Lease) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := lease.Release(ctx); err != nil {
		p.logger.Warn("lease was not released; the next replica waits until it has expired", slog.Any("error", err))
	}
}

// untilClosed is a context that ends when the channel is closed, or with ctx.
func untilClosed(ctx context.Context, closed <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		select {
		case <-closed:
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}
