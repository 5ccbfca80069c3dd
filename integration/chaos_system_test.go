package integration

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
)

// chaosTimeout is the replicas' request timeout.
const chaosTimeout = 3 * time.Second

// chaosConfig is the shape of a run.
type chaosConfig struct {
	name                           string
	servers, partitions, vorgaenge int
	// time is how long things are broken, 0 until the quota is met and so many updates are published.
	time    time.Duration
	quota   map[string]int
	updates int
	// pace is the mean time between two publishes.
	pace time.Duration
}

// chaos is a system that is being broken, and what is known about it from outside. With nothing but a system it only
// starts replicas.
type chaos struct {
	*system
	cfg      chaosConfig
	random   *rand.Rand
	servers  []*natsServer
	replicas []*replica
	// publisher is the publishers' way to each server.
	publisher []*link
	starts    atomic.Int64
	// rounds is how often publishing was begun.
	rounds int
	busy   map[string]bool
	counts map[string]int

	mu       sync.Mutex
	updates  map[string]*sentUpdate
	acked    int
	handlers map[string]handler
	troubles []*trouble
	// story is what was done to the system and when, line by line.
	story []string
}

// replica is one place in which a relay's process runs, with its own ways to NATS and to the API.
type replica struct {
	index   int
	process *process
	nats    []*link
	api     *link
	// generation counts the processes that ran in this place.
	generation atomic.Int64
}

// handler is who sent a request.
type handler struct {
	replica    int
	generation int64
}

const publisherLink = "publisher to nats"

func linkName(replica int, to string) string { return fmt.Sprintf("replica %d to %s", replica, to) }

// chaosFaults are the API's own troubles while everything else breaks.
func chaosFaults() []simulator.Fault {
	booked := true
	return []simulator.Fault{
		{Rate: 0.01, Answer: simulator.Answer{Status: 503}},
		{Rate: 0.005, Answer: simulator.Answer{Cut: simulator.CutBeforeBooking, Reset: true}},
		{Rate: 0.005, Answer: simulator.Answer{Cut: simulator.CutAfterBooking}},
		{Rate: 0.002, Answer: simulator.Answer{Status: 504, Book: &booked}},
		{Rate: 0.002, Answer: simulator.Answer{Status: 502}},
		{Rate: 0.005, Answer: simulator.Answer{Status: 400}},
		{Rate: 0.002, Answer: simulator.Answer{Status: 410}},
	}
}

// newChaos starts the servers, the API and two replicas behind their links.
func newChaos(t *testing.T, cfg chaosConfig, seed uint64) *chaos {
	t.Helper()
	c := &chaos{
		system: &system{t: t, dir: t.TempDir()}, cfg: cfg, random: rand.New(rand.NewPCG(seed, uint64(cfg.servers))),
		busy: make(map[string]bool), counts: make(map[string]int),
		updates: make(map[string]*sentUpdate), handlers: make(map[string]handler),
	}
	c.servers = startServers(t, cfg.servers)
	c.natsURL = serverURLs(c.servers)
	if out, errs, code := runProgram(t, c.natsEnv(), nil, programs.kexrelay, "setup", "--wait", "60s",
		"--replicas", strconv.Itoa(cfg.servers), "--partitions", strconv.Itoa(cfg.partitions)); code != 0 {
		t.Fatalf("setup: exit code %d\n%s%s", code, out, errs)
	}
	c.connect()
	var err error
	if c.api, err = simulator.New(simulator.Config{
		ClientID: clientID, ClientSecret: clientSecret, Seed: seed, TokenTTL: 30 * time.Second,
		Script: simulator.Script{Latency: simulator.Fixed(20 * time.Millisecond), Faults: chaosFaults()},
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.api.Close)
	for i, s := range c.servers {
		c.publisher = append(c.publisher, newLink(t, fmt.Sprintf("publisher to nats %d", i), s.addr))
	}
	for i := range 2 {
		r := &replica{index: i}
		for _, s := range c.servers {
			r.nats = append(r.nats, newLink(t, linkName(i, "nats "+s.name), s.addr))
		}
		r.api = newLink(t, linkName(i, "api"), c.front(r))
		c.replicas = append(c.replicas, r)
		c.startIn(r)
	}
	return c
}

// startAPI starts the simulated API.
func (c *chaos) startAPI(script simulator.Script) {
	c.t.Helper()
	var err error
	if c.api, err = simulator.New(simulator.Config{ClientID: clientID, ClientSecret: clientSecret, Script: script, Seed: 1}); err != nil {
		c.t.Fatal(err)
	}
	if c.apiURL, err = c.api.Start(context.WithoutCancel(c.t.Context()), "127.0.0.1:0"); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		c.api.Close()
		_ = c.apiURL.Close()
	})
}

// generationKey finds in a connection's context which process opened it.
type generationKey struct{}

// front is the API as one replica sees it: the simulator, and a note on who sent which request. It gives its address.
func (c *chaos) front(r *replica) string {
	c.t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(c.t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", freePort(c.t)))
	if err != nil {
		c.t.Fatal(err)
	}
	api := c.api.Handler()
	server := &http.Server{
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // Connections are cut on purpose.
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, generationKey{}, r.generation.Load())
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if id := q.Header.Get("X-TraceId"); id != "" && strings.HasPrefix(q.URL.Path, simulator.BasePath) {
				generation, _ := q.Context().Value(generationKey{}).(int64)
				c.mu.Lock()
				c.handlers[id] = handler{replica: r.index, generation: generation}
				c.mu.Unlock()
			}
			api.ServeHTTP(w, q)
		}),
	}
	go func() { _ = server.Serve(listener) }() // It ends with the test.
	c.t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().String()
}

// startIn starts a process in a replica's place. What it does with unknown outcomes differs from start to start.
func (c *chaos) startIn(r *replica) {
	policy := "retry"
	if c.random.IntN(3) == 0 {
		policy = "park"
	}
	generation := r.generation.Add(1)
	p := launch(c.t, fmt.Sprintf("replica %d (start %d)", r.index, generation), replicaEnv(
		linkURLs(r.nats), "http://"+r.api.addr+simulator.BasePath, "http://"+r.api.addr+simulator.TokenPath,
		"KEXRELAY_UNKNOWN_OUTCOME="+policy), programs.kexrelay, "serve")
	c.t.Cleanup(func() { keepOutput(c.t, p) })
	r.process = p
}

// startReplica starts a relay that reaches everything directly.
func (c *chaos) startReplica(i int, more ...string) *process {
	p := startProcess(c.t, fmt.Sprintf("replica %d (start %d)", i, c.starts.Add(1)),
		replicaEnv(c.natsURL, c.apiURL.BaseURL(), c.apiURL.TokenURL(), more...), programs.kexrelay, "serve")
	c.t.Cleanup(func() { keepOutput(c.t, p) })
	return p
}

// linkURLs are the URLs of NATS for one who reaches it by these links.
func linkURLs(links []*link) string {
	urls := make([]string, len(links))
	for i, l := range links {
		urls[i] = "nats://" + l.addr
	}
	return strings.Join(urls, ",")
}

func replicaEnv(natsURL, baseURL, tokenURL string, more ...string) []string {
	return append([]string{
		"NATS_URL=" + natsURL, "KEX_BASE_URL=" + baseURL, "KEX_TOKEN_URL=" + tokenURL,
		"KEX_CLIENT_ID=" + clientID, "KEX_CLIENT_SECRET=" + clientSecret, "KEX_REQUEST_TIMEOUT=" + chaosTimeout.String(),
		"KEXRELAY_NAME=chaos", "KEXRELAY_HTTP_ADDR=127.0.0.1:0", "KEXRELAY_LOG_FORMAT=json", "KEXRELAY_LOG_LEVEL=info",
		"KEXRELAY_RETRY_INITIAL=50ms", "KEXRELAY_RETRY_MAX_INTERVAL=1s", "KEXRELAY_SHUTDOWN_TIMEOUT=5s",
	}, more...)
}

func running(p *process) bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// contains reports whether a process has printed the text.
func contains(p *process, text string) bool { return strings.Contains(p.output.String(), text) }

// drain mends nothing more and waits until no update is waiting.
func (c *chaos) drain() {
	c.t.Helper()
	limit := 4 * time.Minute
	deadline := time.Now().Add(limit)
	for left := -1; left != 0; {
		ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
		if info, err := c.js.Stream(ctx, topology.StreamUpdates); err == nil {
			left = int(info.CachedInfo().State.Msgs)
		}
		cancel()
		for _, r := range c.replicas {
			if !running(r.process) {
				c.t.Fatalf("%s ended by itself: %v\n%s", r.process.name, r.process.err, tail(r.process.output.String(), 30))
			}
		}
		if time.Now().After(deadline) {
			for _, r := range c.replicas {
				c.t.Logf("last output of %s:\n%s", r.process.name, tail(r.process.output.String(), 30))
			}
			c.t.Errorf("checkPending: %d updates wait after %v of peace", left, limit)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}
