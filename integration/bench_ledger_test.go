package integration

import (
	"context"
	"io"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kexrelay/internal/hold"
	"kexrelay/internal/journal"
	"kexrelay/internal/kex"
	"kexrelay/internal/queue"
	"kexrelay/internal/relay"
	"kexrelay/internal/telemetry"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

const (
	// ledgerRun is how many updates one run delivers, and ledgerLanes over how many Vorgänge they are spread.
	ledgerRun     = 10_000
	ledgerLanes   = 5_000
	ledgerWorkers = 64
)

// BenchmarkLedgerCost tells what the ledger costs end to end: the pipeline as serve wires it, against a nats-server
// and a simulated API without latency in processes of their own, comments of 200 bytes, 64 in flight, once with the
// ledger and once with one that keeps nothing. Each iteration is one run of each, in changing order:
//
//	go test ./integration -run '^$' -bench LedgerCost -benchtime 11x
//
// Told are medians: updates per second, CPU seconds per 10,000 updates of this process, of the server and of all three,
// and by how much throughput is lower with the ledger: as measured (%lost), and as the CPU time of all three says
// (%cpu), which others on the machine disturb less. Nothing in the product turns the ledger off.
func BenchmarkLedgerCost(b *testing.B) {
	s := newLedgerBench(b)
	var with, without []ledgerResult
	var lost, cpu []float64
	s.run(false) // Connections, caches, tokens.
	for n := 0; b.Loop(); n++ {
		var one [2]ledgerResult // Without, with.
		for i := range one {
			ledger := (i+n)%2 == 1
			r := s.run(ledger)
			one[btoi(ledger)] = r
			b.Logf("ledger %-5v  %6.0f updates/s  own CPU %.3f  server CPU %.3f  all %.3f s per 10k  %.1f records per commit",
				ledger, r.rate, r.own, r.server, r.all, r.records)
		}
		without, with = append(without, one[0]), append(with, one[1])
		lost = append(lost, 100*(1-one[1].rate/one[0].rate))
		cpu = append(cpu, 100*(1-one[0].all/one[1].all))
	}
	b.ReportMetric(0, "ns/op") // Means nothing here.
	for unit, of := range map[string]func(ledgerResult) float64{
		"updates/s":  func(r ledgerResult) float64 { return r.rate },
		"own-cpu":    func(r ledgerResult) float64 { return r.own },
		"server-cpu": func(r ledgerResult) float64 { return r.server },
		"all-cpu":    func(r ledgerResult) float64 { return r.all },
	} {
		b.ReportMetric(medianOf(without, of), unit+"-without")
		b.ReportMetric(medianOf(with, of), unit+"-with")
	}
	b.ReportMetric(medianOf(with, func(r ledgerResult) float64 { return r.records }), "records/commit")
	same := func(f float64) float64 { return f }
	b.ReportMetric(medianOf(lost, same), "%lost")
	b.ReportMetric(medianOf(cpu, same), "%cpu")
}

func btoi(v bool) int {
	if v {
		return 1
	}
	return 0
}

// ledgerResult is what one run showed; CPU in seconds per 10,000 updates.
type ledgerResult struct {
	rate, own, server, all, records float64
}

// noLedger is a tenure that writes nothing down.
type noLedger struct{ *journal.Tenure }

func (noLedger) Opening(context.Context, update.Attempt) error { return nil }
func (noLedger) Sending(context.Context, update.Attempt) error { return nil }
func (noLedger) Answered(update.Attempt)                       {}
func (noLedger) Settled(uint64, time.Time)                     {}

// ledgerBench is what all runs share.
type ledgerBench struct {
	*benchSystem
	b      *testing.B
	conn   *queue.Conn
	client *kex.Client
	leases *journal.Leases
	logger *slog.Logger
}

func newLedgerBench(b *testing.B) *ledgerBench {
	b.Helper()
	s := &ledgerBench{
		benchSystem: newBenchSystem(b), b: b,
		logger: telemetry.NewLogger(io.Discard, telemetry.LogOptions{Format: telemetry.FormatJSON}),
	}
	var err error
	if s.conn, err = queue.Connect(b.Context(), queue.ConnectOptions{URL: s.natsURL}, queue.Hooks{Logger: s.logger}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.conn.Drain(context.WithoutCancel(b.Context())) })
	if s.client, err = kex.New(kex.Config{
		BaseURL: s.baseURL, TokenURL: s.tokenURL, ClientID: clientID,
		ClientSecret: func() (string, error) { return clientSecret, nil },
		Concurrency:  ledgerWorkers, RequestTimeout: 30 * time.Second, TracePrefix: "kxr",
	}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.client.Close)
	s.leases = journal.NewLeases(s.conn.JetStream(), "benchmark", s.logger)
	return s
}

// run publishes the updates, then lets a pipeline made anew deliver them all.
func (s *ledgerBench) run(ledger bool) ledgerResult {
	s.b.Helper()
	ctx, cancel := context.WithCancel(s.b.Context())
	defer cancel()
	// Before the updates, so that none lies at or below the bound: a steady stream, not a take-over.
	lease, err := s.leases.Campaign(ctx, 0)
	s.must(err)
	defer func() { s.must(lease.Release(context.WithoutCancel(ctx))) }()
	tenure, err := journal.TakeOver(ctx, s.conn.JetStream(), lease, journal.TenureConfig{Logger: s.logger})
	s.must(err)
	defer func() { s.must(tenure.Close(context.WithoutCancel(ctx))) }()
	s.publish(ctx, "kex", benchLoad{kind: "kommentare", size: 200, updates: ledgerRun, lanes: ledgerLanes})

	p := newBenchPipeline(s, tenure, ledger)
	commits := s.lastOfLedger(ctx)
	runtime.GC()
	before, start := s.used(), time.Now()
	p.start(ctx)
	select {
	case <-p.delivered:
	case <-time.After(2 * time.Minute):
		s.b.Fatalf("%d of %d updates were settled", p.settled.Load(), ledgerRun)
	}
	took, after := time.Since(start), s.used()
	r := ledgerResult{rate: ledgerRun / took.Seconds()}
	for i, to := range []*float64{&r.own, &r.server, &r.all} {
		*to = (after[i] - before[i]) * 10_000 / ledgerRun
	}
	r.all += r.own + r.server
	if commits = s.lastOfLedger(ctx) - commits; commits > 0 {
		r.records = ledgerRun / float64(commits)
	}
	cancel()
	p.stop()
	return r
}

// lastOfLedger is the ledger's last sequence: each commit is one.
func (s *ledgerBench) lastOfLedger(ctx context.Context) uint64 {
	stream, err := s.js.Stream(ctx, "KV_"+topology.BucketLedger)
	s.must(err)
	return stream.CachedInfo().State.LastSeq
}

// benchPipeline is the relay as internal/app wires it, for one partition.
type benchPipeline struct {
	b         *testing.B
	queue     *queue.Queue
	relay     *relay.Relay
	journal   *journal.Journal
	tenure    relay.Tenure
	busy      atomic.Bool
	settled   atomic.Int64
	delivered chan struct{}
	work      sync.WaitGroup
}

func newBenchPipeline(s *ledgerBench, tenure *journal.Tenure, ledger bool) *benchPipeline {
	p := &benchPipeline{b: s.b, tenure: tenure, delivered: make(chan struct{})}
	if !ledger {
		p.tenure = noLedger{tenure}
	}
	var err error
	p.queue, err = queue.New(s.b.Context(), s.conn, queue.Config{Busy: p.busy.Load, Logger: s.logger})
	s.must(err)
	s.must(p.queue.TakeOver(s.b.Context()))
	p.journal = journal.New(s.conn.JetStream(), journal.Config{Source: "urn:kexrelay:benchmark", MaxPayload: s.conn.NATS().MaxPayload})
	p.relay = relay.New(relay.Config{
		Concurrency: ledgerWorkers, RetryInitial: 500 * time.Millisecond, RetryMaxInterval: time.Minute, RetryBudget: 15 * time.Minute,
		RequestTimeout: 30 * time.Second, ShutdownTimeout: 35 * time.Second, TracePrefix: "kxr",
	}, relay.Deps{
		Sender: s.client, Journal: p.journal, Claims: journal.NewClaims(s.conn.JetStream()), Observer: p,
		Gate:   hold.New(hold.Config{Limit: ledgerWorkers, Initial: 500 * time.Millisecond, MaxInterval: time.Minute, Logger: s.logger}),
		Logger: s.logger, OnReady: p.ready,
	})
	return p
}

func (p *benchPipeline) ready(lanes int) {
	const enough = 4 * ledgerWorkers
	switch busy := p.busy.Load(); {
	case !busy && lanes >= enough:
		p.busy.Store(true)
	case busy && lanes <= enough/2:
		p.busy.Store(false)
		p.queue.Wake()
	}
}

// Attempt and Settled are the relay's observer.
func (p *benchPipeline) Attempt(_ update.Kind, err error, _ time.Duration) {
	if err != nil {
		p.b.Errorf("the simulator refused an update: %v", err)
	}
}

// Discarded counts nothing: nothing is taken back.
func (*benchPipeline) Withdrawn(update.Kind, update.Outcome) {}

func (p *benchPipeline) Settled(*update.Settlement) {
	if p.settled.Add(1) == ledgerRun {
		close(p.delivered)
	}
}

func (p *benchPipeline) start(ctx context.Context) {
	p.work.Go(func() { p.relay.Run(ctx) })
	p.work.Go(func() {
		if err := p.queue.Run(ctx, func(d *queue.Delivery) { p.relay.Accept(d, p.tenure) }); err != nil && ctx.Err() == nil {
			p.b.Errorf("fetching: %v", err)
		}
	})
}

// stop waits for the last acks: the next run begins with an empty stream.
func (p *benchPipeline) stop() {
	p.work.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.b.Context()), 10*time.Second)
	defer cancel()
	if err := p.queue.AwaitAcks(ctx); err != nil {
		p.b.Errorf("the last acks: %v", err)
	}
	p.queue.Close()
	p.journal.Close()
}

// used is what this process, the server and the simulator have used so far.
func (s *ledgerBench) used() [3]float64 {
	return [3]float64{cpuSeconds(s.b, os.Getpid()), cpuSeconds(s.b, s.nats.cmd.Process.Pid), cpuSeconds(s.b, s.api.cmd.Process.Pid)}
}
