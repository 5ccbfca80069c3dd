package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kexrelay/internal/fault"
	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// chaosTime is how long things are broken: KEXRELAY_CHAOS, minutes with the build tag integration, else seconds.
func chaosTime(t *testing.T) time.Duration {
	t.Helper()
	if text := os.Getenv("KEXRELAY_CHAOS"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("KEXRELAY_CHAOS: %v", err)
		}
		return d
	}
	if long {
		return 4 * time.Minute
	}
	return 25 * time.Second
}

// chaosSeed is the schedule's: printed, and repeatable with KEXRELAY_CHAOS_SEED.
func chaosSeed(t *testing.T) uint64 {
	t.Helper()
	if text := os.Getenv("KEXRELAY_CHAOS_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("KEXRELAY_CHAOS_SEED: %v", err)
		}
		return seed
	}
	return rand.Uint64()
}

// chaosFaults are the API's own troubles while everything else breaks.
func chaosFaults() []simulator.Fault {
	return []simulator.Fault{
		{Rate: 0.01, Answer: simulator.Answer{Status: 503}},
		{Rate: 0.005, Answer: simulator.Answer{Cut: simulator.CutBeforeBooking, Reset: true}},
		{Rate: 0.005, Answer: simulator.Answer{Cut: simulator.CutAfterBooking}},
		{Rate: 0.005, Answer: simulator.Answer{Status: 400}},
	}
}

// Two replicas are killed, frozen and stopped, nats-server is killed, in an order chosen by chance: every
// acknowledged publish still ends exactly once, nothing is booked twice without saying so, each Vorgang in order.
func TestNothingIsLostOrSilentlyRepeatedInChaos(t *testing.T) {
	const vorgaenge = 300
	limit, seed := chaosTime(t), chaosSeed(t)
	t.Logf("seed %d, %v", seed, limit)
	s := newSystem(t, simulator.Script{Latency: simulator.Fixed(20 * time.Millisecond), Faults: chaosFaults()})
	c := &chaos{system: s, random: rand.New(rand.NewPCG(seed, 1)), published: make(map[uint64]chaosUpdate)}
	c.replicas = []*process{c.startReplica(0), c.startReplica(1)}

	ctx, stop := context.WithCancel(t.Context())
	var publisher sync.WaitGroup
	publisher.Go(func() { c.publishAll(ctx, vorgaenge) })
	begin := time.Now()
	for time.Since(begin) < limit {
		c.breakSomething()
	}
	stop()
	publisher.Wait()
	for i, r := range c.replicas {
		if !running(r) {
			c.replicas[i] = c.startReplica(i)
		}
	}
	s.drained(3 * time.Minute)
	c.check()
}

type chaosUpdate struct{ vorgang, traceID, body string }

// chaos is a system that is being broken, and what is known about it from outside.
type chaos struct {
	*system
	random   *rand.Rand
	replicas []*process
	starts   atomic.Int64

	mu        sync.Mutex
	published map[uint64]chaosUpdate

	kills, natsKills, freezes, stops int
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

func (c *chaos) startReplica(i int) *process {
	n := c.starts.Add(1)
	return startProcess(c.t, fmt.Sprintf("replica %d (start %d)", i, n), append(c.natsEnv(),
		"KEX_BASE_URL="+c.apiURL.BaseURL(), "KEX_TOKEN_URL="+c.apiURL.TokenURL(),
		"KEX_CLIENT_ID="+clientID, "KEX_CLIENT_SECRET="+clientSecret, "KEX_REQUEST_TIMEOUT=2s",
		"KEXRELAY_NAME=chaos", "KEXRELAY_HTTP_ADDR=127.0.0.1:0", "KEXRELAY_LOG_FORMAT=json", "KEXRELAY_LOG_LEVEL=info",
		"KEXRELAY_RETRY_INITIAL=50ms", "KEXRELAY_RETRY_MAX_INTERVAL=1s", "KEXRELAY_SHUTDOWN_TIMEOUT=5s",
	), programs.kexrelay, "serve")
}

// publishAll publishes until ctx ends, as a careful CRM does: each update again with the same ID until it is
// acknowledged.
func (c *chaos) publishAll(ctx context.Context, vorgaenge int) {
	for i := 0; ctx.Err() == nil; i++ {
		u := chaosUpdate{
			vorgang: strconv.Itoa(100000 + i*7919%vorgaenge), traceID: fmt.Sprintf("chaos%07d", i), body: fmt.Sprintf(`["chaos %d"]`, i),
		}
		m := nats.NewMsg(update.SubjectPrefix + u.vorgang + ".kommentare")
		m.Data = []byte(u.body)
		m.Header.Set("Nats-Msg-Id", u.traceID)
		m.Header.Set("X-TraceId", u.traceID)
		for {
			try, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			ack, err := c.js.PublishMsg(try, m)
			cancel()
			if err == nil {
				c.mu.Lock()
				c.published[ack.Sequence] = u
				c.mu.Unlock()
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// breakSomething breaks one thing, waits a while and mends it.
func (c *chaos) breakSomething() {
	i := c.random.IntN(len(c.replicas))
	replica := c.replicas[i]
	wait := func(low, high time.Duration) {
		time.Sleep(low + time.Duration(c.random.Int64N(int64(high-low))))
	}
	switch c.random.IntN(10) {
	case 0, 1, 2, 3:
		replica.kill()
		c.kills++
		wait(100*time.Millisecond, 3*time.Second)
		c.replicas[i] = c.startReplica(i)
	case 4, 5:
		eventually(c.t, 20*time.Second, "the replica has started", func() bool {
			return contains(replica, `"msg":"starting"`)
		})
		if err := replica.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			c.t.Errorf("stopping a replica: %v", err)
		}
		<-replica.exited
		if code := replica.cmd.ProcessState.ExitCode(); code != 0 {
			c.t.Errorf("a replica ended with code %d after SIGTERM", code)
		}
		c.stops++
		c.replicas[i] = c.startReplica(i)
	case 6, 7:
		c.nats.kill()
		c.natsKills++
		wait(50*time.Millisecond, time.Second)
		c.nats = startProcess(c.t, "nats-server", nil, programs.natsServer, "--config", c.natsConf)
	default:
		if err := replica.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			c.t.Errorf("freezing a replica: %v", err)
		}
		c.freezes++
		wait(4*time.Second, 9*time.Second)
		if err := replica.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			c.t.Errorf("waking a replica: %v", err)
		}
	}
	wait(200*time.Millisecond, 3*time.Second)
}

// check holds what is in the streams and in the API's ledger against what was published.
func (c *chaos) check() {
	t := c.t
	ended := make(map[uint64]update.Outcome)
	excused := make(map[string]bool) // bodies that may have been booked more than once, and say so
	dead, flagged, told := 0, 0, 0
	for _, e := range c.results() {
		d := e.Data
		u, ok := c.published[d.UpdateSeq]
		if !ok || d.TraceID != u.traceID {
			// Published, but the publisher has not heard of it: the next try was told the same sequence.
			t.Errorf("result of an update nobody published: %+v", d)
			continue
		}
		switch {
		case d.Outcome == update.DoubleBooked:
			excused[u.body] = true
			told++
			continue
		case ended[d.UpdateSeq] != "":
			t.Errorf("update %d ended twice: %s and %s", d.UpdateSeq, ended[d.UpdateSeq], d.Outcome)
		}
		ended[d.UpdateSeq] = d.Outcome
		if d.Outcome == update.DeadLettered {
			dead++
		}
		if d.PossibleDuplicate || d.Reason == fault.UnknownOutcome {
			excused[u.body] = true
			flagged++
		}
	}
	lost := 0
	for seq, u := range c.published {
		if ended[seq] == "" {
			lost++
			t.Errorf("update %d of Vorgang %s has no result", seq, u.vorgang)
		}
	}
	if n := c.count(topology.StreamDeadLetters); n != dead {
		t.Errorf("%d dead letters, %d results say so", n, dead)
	}
	bySeq := make(map[string]uint64, len(c.published))
	for seq, u := range c.published {
		bySeq[u.body] = seq
	}
	times, last, breaks, silent := make(map[string]int), make(map[string]uint64), 0, 0
	for _, b := range c.api.Ledger() {
		body := string(b.Body)
		times[body]++
		if times[body] > 1 {
			if !excused[body] {
				silent++
				t.Errorf("booked %d times without a word: %s", times[body], body)
			}
			continue
		}
		if seq := bySeq[body]; seq < last[b.Vorgangsnummer] {
			breaks++
			t.Errorf("Vorgang %s: update %d was booked after %d", b.Vorgangsnummer, seq, last[b.Vorgangsnummer])
		} else {
			last[b.Vorgangsnummer] = seq
		}
	}
	if n := c.api.Counts().RepeatedTraceIDs; n != 0 {
		t.Errorf("%d requests with a trace ID that was used before", n)
	}
	t.Logf("kills %d, stops %d, freezes %d, nats-server kills %d; updates %d, booked %d, dead letters %d; lost %d, "+
		"silent duplicates %d, flagged %d, told %d, order breaks %d",
		c.kills, c.stops, c.freezes, c.natsKills, len(c.published), len(times), dead, lost, silent, flagged, told, breaks)
}
