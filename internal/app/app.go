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
	"kexrelay/internal/update"
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
	// Tracing, if not nil, shows updates in traces. The caller ends it.
	Tracing *telemetry.Tracing
	// OnServing, if not nil, is called once with the address of the health endpoints, when updates are fetched.
	OnServing func(httpAddr string)
}

// relayProcess is one running relay.
type relayProcess struct {
	cfg     config.Serve
	logger  *slog.Logger
	metrics *telemetry.Metrics
	tracing *telemetry.Tracing         // nil for none
	conn    atomic.Pointer[queue.Conn] // nil until connected: the endpoints answer before
	client  *kex.Client
	gate    *hold.Gate
	fleet   *hold.Fleet // joins the gate with other replicas'
	relay   *relay.Relay
	// partitions are this process's parts; it serves those whose lease it has.
	partitions []*partition
	leased     atomic.Int64
	// verified is set once the topology was found as it must be and the consumers are bound.
	verified atomic.Bool
	// topology is what is wrong with it since.
	topology topologyState
	// busy reports that enough lanes are runnable: intake pauses.
	busy atomic.Bool
	// ready is how many lanes are runnable.
	ready atomic.Int64

	self    journal.Replica // As the others see it.
	members *journal.Members
	failure atomic.Pointer[FailureState]
	rates   *rateShare
	left    chan struct{} // closed when the other replicas know of the stop, or cannot be told

	budget  *queue.Budget  // the content in memory, of all partitions
	retired sync.WaitGroup // queues kept for the last acks of what is being sent

	seen    seen         // what was last seen in NATS, for metrics
	fetched *fetchCounts // what the queues have counted

	index *journal.Index // of the results, which whoever holds partition 0 maintains
}

// Run runs the relay until ctx ends, then stops it: nil after a clean stop. It returns an error that says what to do
// when the configuration does not fit together, the topology is not there at the start, or the connection to NATS is
// lost for good; a server that is merely away is waited for, and so is a topology that is not right any more.
//
// When setup has changed the number of partitions, all parts are stopped and made anew.
func Run(ctx context.Context, opts Options) error {
	if told := opts.OnServing; told != nil {
		var once sync.Once
		opts.OnServing = func(addr string) { once.Do(func() { told(addr) }) }
	}
	for {
		err := runOnce(ctx, opts)
		if !errors.Is(err, errPartitionsChanged) {
			return err
		}
		opts.Logger.Warn("the topology has another number of partitions than before; starting anew with them")
	}
}

func runOnce(ctx context.Context, opts Options) error {
	p := &relayProcess{cfg: opts.Config, logger: opts.Logger, metrics: telemetry.NewMetrics(opts.Build), tracing: opts.Tracing, fetched: newFetchCounts()}
	p.budget = queue.NewBudget(p.cfg.Relay.MaxInflightBytes)
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
	if p.cfg.HTTP.PprofAddr != "" {
		profiler := telemetry.NewProfiler(p.cfg.HTTP.PprofAddr, p.logger)
		if err := profiler.Start(ctx); err != nil {
			return err
		}
		defer p.shutdown(ctx, profiler)
		p.logger.Info("profiles are served", slog.String("pprof_addr", profiler.Addr()))
	}

	conn, err := p.connect(ctx)
	if err != nil {
		return unlessStopped(ctx, err)
	}
	p.conn.Store(conn)
	defer p.drainConnection(ctx)

	return unlessStopped(ctx, p.start(ctx, opts, server.Addr()))
}

// start binds to the topology, then runs until ctx ends or something is lost for good.
func (p *relayProcess) start(ctx context.Context, opts Options, httpAddr string) error {
	p.newMembers(opts.Build.Version)
	// From here on, and not only once the topology is verified: what is left behind by a replica that died may be taken
	// after it was seen unchanged for 5 s, and in a cluster that has just lost a server verifying can take longer.
	defer p.watchMembers(ctx)()
	found, err := p.verify(ctx)
	if err != nil {
		return err
	}
	js := p.conn.Load().JetStream()
	written := journal.New(js, journal.Config{
		Source: p.cfg.Relay.Source, MaxPayload: p.conn.Load().NATS().MaxPayload,
		OnRetry:        func(record journal.Record) { p.metrics.PublishRetry(telemetry.Record(record)) },
		OnDoubleBooked: func(kind update.Kind) { p.metrics.Settled(kind, update.DoubleBooked, "") },
		OnAnswer:       p.conn.Load().Heard,
	})
	defer written.Close()
	p.index = written.Index()
	p.newRelay(ctx, written)
	p.divide(found.Partitions)
	// Only now: whoever asks for metrics from here on sees all of the above.
	if err := p.registerMetrics(); err != nil {
		return err
	}
	defer p.retired.Wait()
	p.verified.Store(true)
	defer p.announce(opts.Build)()
	defer p.answerOperators(ctx, written)()
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
	group, work := errgroup.WithContext(ctx)
	shared := newSharing(p.members, p.partitions, p.logger)
	for _, part := range p.partitions {
		group.Go(func() error { return p.runPartition(work, part, shared) })
	}
	for _, run := range []func(context.Context){p.members.Run, shared.run, p.relay.Run, p.watchDeadLetters} {
		group.Go(func() error {
			run(work)
			return nil
		})
	}
	group.Go(func() error { return p.watchTopology(work) })
	group.Go(func() error {
		<-work.Done()
		p.leave(work)
		return nil
	})
	group.Go(func() error {
		p.sweepDocuments(work)
		return nil
	})
	group.Go(func() error {
		newExpiries(p.cfg, p.metrics.CredentialExpiry, p.logger).run(work)
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
	var holds sync.WaitGroup
	holdsCtx, stopHolds := context.WithCancel(context.WithoutCancel(ctx))
	defer stopHolds()
	holds.Go(func() { p.fleet.Run(holdsCtx) })
	holds.Go(func() { p.showHolds(holdsCtx) })

	err := group.Wait()
	stopHolds()
	holds.Wait()
	if err == nil {
		p.logger.Info("stopped", slog.Int("left_in_lanes", p.relay.Stats().Lanes.Items))
	}
	return err
}

// verify waits for NATS, then for nothing: a topology that is not there is an error, because only setup makes one. That of
// a server in this process is waited for, because setup reaches only one that runs.
func (p *relayProcess) verify(ctx context.Context) (topology.Found, error) {
	listening, stop := context.WithCancel(ctx)
	var listener sync.WaitGroup
	listener.Go(func() { p.conn.Load().Listen(listening) })
	defer listener.Wait()
	defer stop()
	for {
		if err := p.conn.Load().AwaitConnected(ctx); err != nil {
			return topology.Found{}, err
		}
		found, err := topology.Verify(ctx, p.conn.Load().JetStream())
		switch {
		case err == nil:
			p.seen.note(found)
			p.topologyRight()
			return found, nil
		case errors.Is(err, topology.ErrSetupNeeded) && p.cfg.Embedded.Enabled:
			p.topologyWrong(err)
		case errors.Is(err, topology.ErrSetupNeeded), errors.Is(err, topology.ErrServerTooOld):
			return found, err
		default:
			// NATS is there but does not answer for JetStream yet: a cluster without a leader, a server starting up.
			p.logger.Warn("topology could not be verified; trying again", slog.Any("error", err))
		}
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
