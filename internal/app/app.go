// Package app puts the relay together and runs it: which parts there are, in which order they start, in which order
// they stop, and what the process says about its health. Only cmd imports it.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"kexrelay/internal/config"
	"kexrelay/internal/hold"
	"kexrelay/internal/journal"
	"kexrelay/internal/kex"
	"kexrelay/internal/queue"
	"kexrelay/internal/relay"
	"kexrelay/internal/telemetry"
	"kexrelay/internal/topology"
)

// drainTimeout bounds how long the last acks may take to reach the server, acksTimeout how long it may take to say so.
const (
	drainTimeout = 5 * time.Second
	acksTimeout  = time.Second
)

// Options are what the caller chooses beside the configuration.
type Options struct {
	Config config.Serve
	Logger *slog.Logger
	Build  telemetry.BuildInfo
	// OnServing, if not nil, is called once with the address of the health endpoints, when updates are fetched.
	OnServing func(httpAddr string)
}

// relayProcess is one running relay.
type relayProcess struct {
	cfg     config.Serve
	logger  *slog.Logger
	metrics *telemetry.Metrics
	conn    atomic.Pointer[queue.Conn] // nil until connected: the endpoints answer before
	client  *kex.Client
	gate    *hold.Gate
	relay   *relay.Relay
	// partitions are this process's parts; it serves those whose lease it has.
	partitions []*partition
	leased     atomic.Int64
	// verified is set once the topology was found as it must be and the consumers are bound.
	verified atomic.Bool
	// busy reports that enough lanes are runnable: intake pauses.
	busy atomic.Bool
	// ready is how many lanes are runnable.
	ready atomic.Int64

	mu      sync.Mutex
	retired []*queue.Queue // kept for the last acks of what is being sent at the stop
}

// Run runs the relay until ctx ends, then stops it: nil after a clean stop. It returns an error that says what to do
// when the configuration does not fit together, the topology is not there, or the consumer or the connection to
// NATS is lost for good; a server that is merely away is waited for.
func Run(ctx context.Context, opts Options) error {
	p := &relayProcess{cfg: opts.Config, logger: opts.Logger, metrics: telemetry.NewMetrics(opts.Build)}
	if err := p.newClient(opts.Build.Version); err != nil {
		return err
	}
	defer p.client.Close()

	server := telemetry.NewServer(p.cfg.HTTP.Addr, telemetry.Deps{
		Ready: p.readiness, Metrics: p.metrics.Handler(p.logger), Logger: p.logger,
	})
	if err := server.Start(ctx); err != nil {
		return err
	}
	// The endpoints answer until the very end: a stop under load must be visible.
	defer p.shutdown(ctx, server)

	conn, err := p.connect(ctx)
	if err != nil {
		return err
	}
	p.conn.Store(conn)
	defer p.drainConnection(ctx)

	return unlessStopped(ctx, p.start(ctx, opts, server.Addr()))
}

// start binds to the topology, then runs until ctx ends or something is lost for good.
func (p *relayProcess) start(ctx context.Context, opts Options, httpAddr string) error {
	found, err := p.verify(ctx)
	if err != nil {
		return err
	}
	js := p.conn.Load().JetStream()
	written := journal.New(js, journal.Config{
		Source: p.cfg.Relay.Source, MaxPayload: p.conn.Load().NATS().MaxPayload,
		OnRetry: func(record journal.Record) { p.metrics.PublishRetry(telemetry.Record(record)) },
	})
	defer written.Close()
	if err := p.newRelay(written); err != nil {
		return err
	}
	p.divide(found.Partitions)
	defer p.closeQueues(ctx)
	p.verified.Store(true)
	p.logger.Info("serving", slog.String("http_addr", httpAddr), slog.Int("partitions", found.Partitions),
		slog.String("nats_server", found.Server))
	if opts.OnServing != nil {
		opts.OnServing(httpAddr)
	}
	return p.run(ctx)
}

// run works until ctx ends. The order of the end is the promise that nothing which was sent stays unsettled:
//
//  1. ctx ends: no more fetching, the leases are released at once, no new attempts;
//  2. what is being sent is answered, judged and settled, within the shutdown timeout; a successor leaves exactly
//     these alone until their results appear;
//  3. the acks are flushed and the connection is drained (by the caller's deferred calls).
func (p *relayProcess) run(ctx context.Context) error {
	js := p.conn.Load().JetStream()
	group, work := errgroup.WithContext(ctx)
	leases := journal.NewLeases(js, p.cfg.Relay.Name, p.logger)
	for _, part := range p.partitions {
		group.Go(func() error { return p.runPartition(work, part, leases) })
	}
	group.Go(func() error {
		p.relay.Run(work)
		return nil
	})
	group.Go(func() error {
		select {
		case <-p.conn.Load().Closed():
			return fmt.Errorf("losing nats: %w", p.conn.Load().Err())
		case <-work.Done():
			return nil
		}
	})
	shown := newHoldBoard(p.gate, journal.NewHolds(js), p.metrics, p.cfg.Relay.Name, p.logger, func() bool { return p.leased.Load() > 0 })
	var board sync.WaitGroup
	boardCtx, stopBoard := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBoard()
	board.Go(func() { shown.run(boardCtx) })

	err := group.Wait()
	stopBoard()
	board.Wait()
	if err == nil {
		p.logger.Info("stopped", slog.Int("left_in_lanes", p.relay.Stats().Lanes.Items))
	}
	return err
}

// verify waits for NATS, then for nothing: a topology that is not there is an error, because only setup makes one.
func (p *relayProcess) verify(ctx context.Context) (topology.Found, error) {
	for {
		if err := p.conn.Load().AwaitConnected(ctx); err != nil {
			return topology.Found{}, err
		}
		found, err := topology.Verify(ctx, p.conn.Load().JetStream())
		if err == nil || errors.Is(err, topology.ErrSetupNeeded) || errors.Is(err, topology.ErrServerTooOld) {
			return found, err
		}
		// NATS is there but does not answer for JetStream yet: a cluster without a leader, a server starting up.
		p.logger.Warn("topology could not be verified; trying again", slog.Any("error", err))
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return found, context.Cause(ctx)
		}
	}
}

// drainConnection sends what is still buffered, the last acks above all.
func (p *relayProcess) drainConnection(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := p.conn.Load().Drain(ctx); err != nil {
		p.logger.Warn("connection to nats was not drained; the last acks may be missing and their updates come again",
			slog.Any("error", err))
	}
}

func (p *relayProcess) shutdown(ctx context.Context, server *telemetry.Server) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		p.logger.Warn("health endpoints were cut off", slog.Any("error", err))
	}
}

// closeQueues waits, a moment, until the server has applied the last acks, so that the next holder need not find out
// from the results that those updates are settled. It is no loss if it does.
func (p *relayProcess) closeQueues(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), acksTimeout)
	defer cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.retired {
		if err := q.AwaitAcks(ctx); err != nil {
			p.logger.Debug("last acks were not confirmed; their updates are known to be settled", slog.Any("error", err))
		}
		q.Close()
	}
}
