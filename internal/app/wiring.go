package app

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"kexrelay/internal/config"
	"kexrelay/internal/hold"
	"kexrelay/internal/journal"
	"kexrelay/internal/kex"
	"kexrelay/internal/queue"
	"kexrelay/internal/relay"
	"kexrelay/internal/telemetry"
)

// runnablePerWorker is how many lanes per worker are enough work: beyond them, intake pauses. Less and a worker
// could find nothing between two fetches; more would only hold updates that are not sent yet.
const runnablePerWorker = 4

// Large documents make enough work sooner: with so many bytes in hand, a few runnable lanes will do.
const (
	enoughBytes   = 16 << 20
	fewPerWorkers = 8 // One runnable lane for so many workers.
)

// newClient makes the API's client.
func (p *relayProcess) newClient(version string) error {
	k := p.cfg.KEX
	client, err := kex.New(kex.Config{
		BaseURL: k.BaseURL, TokenURL: k.TokenURL,
		ClientID: k.ClientID, ClientSecret: k.ClientSecret, Scopes: k.Scopes,
		ImpersonateSubject: k.ImpersonateSubject, ImpersonateActor: k.ImpersonateActor,
		RequestTimeout: k.RequestTimeout, CAFile: k.CAFile, InsecureHTTP: k.InsecureHTTP,
		Concurrency: p.cfg.Relay.Concurrency, TracePrefix: p.cfg.Relay.TracePrefix,
		UserAgent: "kexrelay/" + version,
		OnToken: func(outcome string, took time.Duration) {
			p.metrics.TokenFetch(tokenOutcome(outcome), took)
		},
	})
	p.client = client
	return err
}

// connect makes the connection to NATS. A server that is not up yet is waited for.
func (p *relayProcess) connect(ctx context.Context) (*queue.Conn, error) {
	options := ConnectOptions(p.cfg.NATS)
	options.Name = "kexrelay " + p.cfg.Relay.Name
	options.RetryOnFailedConnect = true
	return queue.Connect(ctx, options, queue.Hooks{
		Logger:         p.logger,
		OnSlowConsumer: func() { p.metrics.NATSError(telemetry.NATSSlowConsumer) },
		OnPermission:   func(string) { p.metrics.NATSError(telemetry.NATSPermission) },
		OnSilence:      func() { p.metrics.NATSError(telemetry.NATSSilent) },
		OnDisconnect:   func() { p.metrics.NATSError(telemetry.NATSDisconnected) },
	})
}

// ConnectOptions are the settings of a connection in queue's terms.
func ConnectOptions(c config.Connection) queue.ConnectOptions {
	return queue.ConnectOptions{
		URL: strings.Join(c.Servers.List(), ","), Context: c.Context,
		Creds: c.Creds, NKey: c.NKey, User: c.User.Reveal(), Password: c.Password.Reveal(),
		TLSCert: c.TLSCert, TLSKey: c.TLSKey, TLSCA: c.TLSCA, TLSFirst: c.TLSFirst,
		Timeout: c.Timeout, InboxPrefix: c.InboxPrefix, JSDomain: c.JSDomain, JSAPIPrefix: c.JSAPIPrefix,
	}
}

// newRelay makes the gate and the pipeline behind it.
func (p *relayProcess) newRelay(ctx context.Context, written *journal.Journal) {
	r := p.cfg.Relay
	p.gate = hold.New(hold.Config{
		Limit: r.Concurrency, Initial: r.RetryInitial, MaxInterval: r.RetryMaxInterval, Replica: r.Name, Logger: p.logger,
	})
	p.shareHolds(ctx)
	enough := r.Concurrency * runnablePerWorker
	var tracer relay.Tracer // Stays nil without tracing: then it costs nothing.
	if p.tracing != nil {
		tracer = p.tracing
	}
	p.relay = relay.New(relay.Config{
		Concurrency: r.Concurrency, Rate: r.Rate,
		RetryInitial: r.RetryInitial, RetryMaxInterval: r.RetryMaxInterval, RetryBudget: r.RetryBudget,
		ParkUnknown: r.UnknownOutcome == config.Park, RequestTimeout: p.cfg.KEX.RequestTimeout, ShutdownTimeout: r.ShutdownTimeout, TracePrefix: r.TracePrefix,
	}, relay.Deps{
		Sender: p.client, Journal: written, Claims: journal.NewClaims(p.conn.Load().JetStream()),
		Documents: journal.NewDocuments(p.conn.Load().JetStream()),
		Memory:    p.budget,
		Observer:  observer{p.metrics, &p.failure}, Tracer: tracer, Gate: p.gate, Logger: p.logger,
		OnReady: func(ready int) { p.throttleIntake(ready, enough) },
	})
}

// throttleIntake pauses fetching while enough lanes are runnable. There is some distance between pausing and going
// on, so that intake does not flap around one number.
func (p *relayProcess) throttleIntake(ready, enough int) {
	few := p.fewLanes()
	if was := p.ready.Swap(int64(ready)); was >= few && int64(ready) < few {
		p.wakeQueues()
	}
	busy := p.busy.Load()
	switch {
	case !busy && ready >= enough:
		p.busy.Store(true)
	case busy && ready <= enough/2:
		p.busy.Store(false)
		p.wakeQueues()
	}
}

// fewLanes is how many runnable lanes keep the workers going until the next fetch.
func (p *relayProcess) fewLanes() int64 {
	return int64(max(p.cfg.Relay.Concurrency/fewPerWorkers, 1))
}

// enoughToDo says whether a partition's queue need not fetch for now.
func (p *relayProcess) enoughToDo(part *partition) bool {
	if p.busy.Load() {
		return true
	}
	q := part.queue.Load()
	return q != nil && p.ready.Load() >= p.fewLanes() && q.Stats().Bytes >= enoughBytes
}

func (p *relayProcess) wakeQueues() {
	for _, part := range p.partitions {
		if q := part.queue.Load(); q != nil {
			q.Wake()
		}
	}
}

// divide makes this process's part in each partition.
func (p *relayProcess) divide(partitions int) {
	for number := range partitions {
		p.partitions = append(p.partitions, newPartition(number))
	}
	p.rates = newRateShare(p.cfg.Relay.Rate, partitions, p.relay.SetRate, p.relay.Pause)
}

// newMembers makes this process known as one of the replicas.
func (p *relayProcess) newMembers(version string) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	leases := journal.NewLeases(p.conn.Load().JetStream(), p.cfg.Relay.Name, p.logger)
	leases.OnAnswer(p.conn.Load().Heard)
	p.self = journal.Replica{
		Process: leases.Process(), Name: p.cfg.Relay.Name, Host: host, PID: os.Getpid(), Version: version, StartedAt: time.Now(),
	}
	p.members = journal.NewMembers(leases, p.self)
	p.left = make(chan struct{})
}

// watchMembers follows the other replicas until the function it gives is called.
func (p *relayProcess) watchMembers(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { p.members.Watch(ctx) })
	return func() {
		cancel()
		watching.Wait()
	}
}

// leave says at a stop that the others are to share without us, before the leases are given back.
func (p *relayProcess) leave(ctx context.Context) {
	defer close(p.left)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := p.members.Leave(ctx); err != nil {
		p.logger.Warn("the other replicas could not be told of the stop; they find out in seconds", slog.Any("error", err))
	}
}
