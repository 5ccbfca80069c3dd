package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
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

// partition is this process's part in one partition: it takes the lease when it is told to, and serves while it has it.
type partition struct {
	number int
	// queue is the one that fetches at the moment, nil on standby.
	queue atomic.Pointer[queue.Queue]
	// tenure is the time in which it fetches.
	tenure atomic.Pointer[journal.Tenure]
	// wanted tells that the lease is to be taken.
	wanted chan struct{}

	mu    sync.Mutex
	state partitionState
	// notBefore is when the lease may be taken again after trouble; troubles counts those in a row. Until leftUntil it
	// is left to others, if there are any.
	notBefore, leftUntil time.Time
	troubles             int
	end                  context.CancelFunc // Ends the serving.
}

type partitionState int

const (
	idle partitionState = iota
	taking
	serving
	handingOver
)

func newPartition(number int) *partition {
	return &partition{number: number, wanted: make(chan struct{}, 1)}
}

// want tells an idle partition to take its lease, and reports whether it was one. alone says that nobody else takes it.
func (part *partition) want(now time.Time, alone bool) bool {
	part.mu.Lock()
	defer part.mu.Unlock()
	if part.state != idle || now.Before(part.notBefore) || !alone && now.Before(part.leftUntil) {
		return false
	}
	part.state = taking
	part.wanted <- struct{}{}
	return true
}

// leave tells a partition that is served to hand its lease over, and reports whether it is one.
func (part *partition) leave() bool {
	part.mu.Lock()
	defer part.mu.Unlock()
	if part.state != serving {
		return false
	}
	part.state = handingOver
	part.end()
	return true
}

func (part *partition) serve(end context.CancelFunc) {
	part.mu.Lock()
	defer part.mu.Unlock()
	part.state, part.end = serving, end
}

// rest makes the partition idle. After the second trouble in a row it is left to others, if they are there, for longer
// than they wait for us.
func (part *partition) rest(trouble bool, pause time.Duration) {
	part.mu.Lock()
	defer part.mu.Unlock()
	part.state = idle
	now := time.Now()
	if !trouble {
		part.troubles = 0
	} else if part.troubles++; part.troubles > 1 {
		part.leftUntil = now.Add(anybody + takeOverPause)
	}
	part.notBefore = now.Add(pause)
}

// runPartition takes the lease and serves whenever it is told to, until ctx ends. An error means that nothing but a new
// process, or an operator, can help.
func (p *relayProcess) runPartition(ctx context.Context, part *partition, shared *sharing) error {
	for {
		select {
		case <-part.wanted:
		case <-ctx.Done():
			return nil
		}
		lease, err := p.members.Take(ctx, part.number)
		if lease == nil {
			if err != nil && ctx.Err() == nil {
				p.logger.Warn("lease could not be taken; it is tried again", slog.Int("partition", part.number), slog.Any("error", err))
			}
			part.rest(false, takeAgain)
			continue
		}
		for lease != nil {
			lease, err = p.holdPartition(ctx, part, lease)
		}
		switch {
		case errors.Is(err, queue.ErrConnectionClosed):
			return err
		case errors.Is(err, queue.ErrConsumerGone):
			p.awaitTopology(ctx, err)
			part.rest(false, takeOverPause)
		case err != nil:
			p.logger.Warn("partition could not be served; trying again", slog.Int("partition", part.number), slog.Any("error", err))
			part.rest(true, takeOverPause)
		default:
			part.rest(false, 0)
		}
		shared.changed()
	}
}

// holdPartition serves as long as the lease lasts, then gives it back. A lease that was lost because it could not be
// renewed, as when NATS was away, is taken again if nobody else has it: there is no reason to move the partition.
func (p *relayProcess) holdPartition(ctx context.Context, part *partition, lease *journal.Lease) (again *journal.Lease, err error) {
	mine, end := context.WithCancel(ctx)
	defer end()
	part.serve(end)
	err = p.servePartition(mine, part, lease)
	if mine.Err() != nil { // Whatever failed then, failed because of it.
		err = nil
	} else if !lease.Held() {
		if again = p.takeAgain(mine, part, lease); again != nil {
			return again, nil
		}
	}
	// At once, before what is being sent is answered: the next replica goes on with everything else meanwhile.
	p.release(ctx, lease)
	return nil, err
}

// takeAgain takes a lost lease again, nil if somebody else has it, or ctx ends.
func (p *relayProcess) takeAgain(ctx context.Context, part *partition, lost *journal.Lease) *journal.Lease {
	for ctx.Err() == nil {
		again, err := p.members.TakeAgain(ctx, lost)
		if err == nil {
			return again
		}
		p.logger.Debug("lost lease could not be taken again yet", slog.Int("partition", part.number), slog.Any("error", err))
		pause(ctx, takeAgain)
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

// servePartition takes the partition over and fetches until ctx ends, because the process stops or the partition is
// handed over, or the lease is lost. The order is what makes it safe: with the lease in hand the consumer is unpinned and
// asked what it has delivered, so that everything unsettled comes in stream order; then the bound, the ledger and the results are read;
// only then updates are accepted. At the end no attempt begins any more, and what was only prepared is taken back, before
// the caller gives the lease back; what is being sent goes on and settles, and a successor waits for exactly that.
func (p *relayProcess) servePartition(ctx context.Context, part *partition, lease *journal.Lease) error {
	told := ctx
	ctx, cancel := untilClosed(ctx, lease.Lost())
	defer cancel()

	logger := p.logger.With(slog.Int("partition", part.number))
	started := time.Now()
	q, err := queue.New(ctx, p.conn.Load(), queue.Config{
		Partition: part.number, Budget: p.budget, Logger: logger,
		Busy: func() bool { return p.enoughToDo(part) },
	})
	if err != nil {
		return err
	}
	p.fetched.begin(q)
	var tenure *journal.Tenure
	defer func() { p.retire(ctx, part, q, tenure, told.Err() != nil) }()
	if err := q.TakeOver(ctx); err != nil {
		return err
	}
	tenure, err = journal.TakeOver(ctx, p.conn.Load().JetStream(), lease, journal.TenureConfig{Logger: p.logger, OnAnswer: p.conn.Load().Heard})
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
		return fmt.Errorf("taking the partition over: %w", err)
	}
	p.rates.take(part.number)
	defer p.rates.drop(part.number)
	part.tenure.Store(tenure)
	part.queue.Store(q) // From here on its bytes count in enoughToDo.
	p.leased.Add(1)
	defer p.leased.Add(-1)
	defer p.maintainIndex(ctx, part)()
	logger.Info("partition taken over", slog.Uint64("epoch", lease.Epoch()), slog.Uint64("bound", tenure.Bound()),
		slog.Duration("took", time.Since(started)))
	err = q.Run(ctx, func(d *queue.Delivery) { p.relay.Accept(d, tenure) })
	// Whatever ended it: a closed ledger takes back no more what was only prepared, and the next holder, this process
	// perhaps, would wait for an answer to a request that was never made, and mark the result.
	quiet, cancel := context.WithTimeout(context.WithoutCancel(ctx), quietTimeout)
	defer cancel()
	p.relay.Quiet(quiet, tenure)
	return err
}

// retire forgets what a queue holds: at once if the lease was lost; if it is given back, after the last ack of what is
// being sent.
func (p *relayProcess) retire(ctx context.Context, part *partition, q *queue.Queue, tenure *journal.Tenure, givenBack bool) {
	part.queue.Store(nil)
	part.tenure.Store(nil)
	if !givenBack || tenure == nil {
		q.Close()
		p.fetched.end(q)
		return
	}
	ctx = context.WithoutCancel(ctx)
	p.retired.Go(func() {
		p.relay.Settled(ctx, tenure) // It ends with the relay's Run at the latest.
		p.awaitAcks(ctx, q)
		q.Close()
		p.fetched.end(q)
	})
}

// awaitAcks waits, a moment, until the server has applied the last acks, so that the next holder need not find out
// from the results that those updates are settled. It is no loss if it does.
func (p *relayProcess) awaitAcks(ctx context.Context, q *queue.Queue) {
	ctx, cancel := context.WithTimeout(ctx, acksTimeout)
	defer cancel()
	if err := q.AwaitAcks(ctx); err != nil {
		p.logger.Debug("last acks were not confirmed; their updates are known to be settled", slog.Any("error", err))
	}
}

// release gives a lease back. At a stop the others must know before that they count without us.
func (p *relayProcess) release(ctx context.Context, lease *journal.Lease) {
	if ctx.Err() != nil {
		<-p.left
	}
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
