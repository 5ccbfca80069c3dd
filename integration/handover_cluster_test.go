//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
)

// beats are the moments at which something succeeded.
type beats struct {
	mu  sync.Mutex
	all []time.Time
}

func (b *beats) beat() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, time.Now())
}

// longestGap is the longest time without a beat between two moments.
func (b *beats) longestGap(from, to time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	longest, last := time.Duration(0), from
	for _, at := range append(b.all, to) {
		if at.Before(from) || at.After(to) {
			continue
		}
		longest, last = max(longest, at.Sub(last)), at
	}
	return longest
}

// bareClient does with nats.go alone, over and over, one thing that the relay needs, until the test ends.
func bareClient(ctx context.Context, every time.Duration, do func(context.Context) error) *beats {
	b := new(beats)
	go func() {
		for ctx.Err() == nil {
			try, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
			if do(try) == nil {
				b.beat()
			}
			cancel()
			select {
			case <-ctx.Done():
			case <-time.After(every):
			}
		}
	}()
	return b
}

// When the server that leads everything is killed, the relay stands still no longer than a bare client of the same
// streams, and a second.
func TestAKilledClusterLeaderStallsTheRelayNoLongerThanABareClient(t *testing.T) {
	c := &chaos{system: &system{t: t, dir: t.TempDir()}, servers: startServers(t, 3)}
	c.natsURL = serverURLs(c.servers)
	if out, errs, code := runProgram(t, c.natsEnv(), nil, programs.kexrelay, "setup", "--wait", "60s", "--replicas", "3"); code != 0 {
		t.Fatalf("setup: exit code %d\n%s%s", code, out, errs)
	}
	c.connect()
	c.startAPI(simulator.Script{})
	bare := c.bareClients()
	publisher := new(beats)
	bare["publish updates"] = publisher
	go c.publishSteadily(publisher)
	var relays []*process
	for i := range 2 {
		p := c.startReplica(i, "KEXRELAY_LOG_LEVEL=debug")
		relays = append(relays, p)
		eventually(t, 20*time.Second, "the replica serves", func() bool { return contains(p, `"msg":"serving"`) })
	}
	eventually(t, 20*time.Second, "the relay sends", func() bool { return c.api.Counts().Booked > 100 })
	for round := range c.servers {
		promised(t, fmt.Sprintf("round %d: longer than a bare client by", round), time.Second, func() time.Duration {
			return c.stallOf(c.leadByOne(round), bare, relays)
		})
	}
}

// stallOf kills the server that leads everything and gives by how much the relay stood still longer than bare clients.
func (c *chaos) stallOf(victim *natsServer, bare map[string]*beats, relays []*process) time.Duration {
	c.t.Helper()
	begin := time.Now()
	victim.process.kill()
	time.Sleep(18 * time.Second) // What is measured is this time.
	end := time.Now()
	slowest := time.Duration(0)
	gaps := make(map[string]time.Duration)
	for name, b := range bare {
		gaps[name] = b.longestGap(begin, end).Round(time.Millisecond)
		slowest = max(slowest, gaps[name])
	}
	gap := c.longestPause(begin, end)
	c.t.Logf("leader %s killed: the relay stood still for %v; a bare client for %v: %v", victim.name, gap.Round(time.Millisecond), slowest, gaps)
	if gap-slowest > time.Second/2 {
		for _, p := range relays {
			c.t.Logf("killed at %s; %s said:\n%s", begin.Format(time.RFC3339Nano), p.name, strings.Join(linesSince(p, begin), "\n"))
		}
	}
	victim.start()
	return gap - slowest
}

// longestPause is the longest time between two requests to the API.
func (c *chaos) longestPause(begin, end time.Time) time.Duration {
	requests := new(beats)
	for _, r := range c.api.Requests() {
		requests.all = append(requests.all, r.ReceivedAt)
	}
	return requests.longestGap(begin, end)
}

// bareClients do what the relay does on the streams it needs, and the same on a stream of their own. The groups of
// servers behind streams elect their leaders one by one, so each is measured by itself.
func (c *chaos) bareClients() map[string]*beats {
	c.t.Helper()
	ctx := c.t.Context()
	if _, err := c.js.CreateStream(ctx, jetstream.StreamConfig{Name: "PROBE", Subjects: []string{"probe"}, Replicas: 3}); err != nil {
		c.t.Fatal(err)
	}
	probe, err := c.js.CreateConsumer(ctx, "PROBE", jetstream.ConsumerConfig{Durable: "probe", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		c.t.Fatal(err)
	}
	consumed := new(beats)
	consuming, err := probe.Consume(func(m jetstream.Msg) {
		consumed.beat()
		_ = m.Ack() // One that is lost comes again.
	}, jetstream.PullHeartbeat(2*time.Second))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(consuming.Stop)
	all := map[string]*beats{
		"plain consumer": consumed,
		"plain publish": bareClient(ctx, 20*time.Millisecond, func(ctx context.Context) error {
			_, err := c.js.Publish(ctx, "probe", nil)
			return err
		}),
		"consumer": bareClient(ctx, 20*time.Millisecond, func(ctx context.Context) error {
			_, err := c.js.Consumer(ctx, topology.StreamUpdates, topology.Consumer(0))
			return err
		}),
		"results": bareClient(ctx, 20*time.Millisecond, func(ctx context.Context) error {
			s, err := c.js.Stream(ctx, topology.StreamResults)
			if err == nil {
				_, err = s.Info(ctx)
			}
			return err
		}),
	}
	for _, bucket := range []string{topology.BucketLedger, topology.BucketControl} {
		all[bucket] = bareClient(ctx, 20*time.Millisecond, func(ctx context.Context) error {
			_, err := c.js.Publish(ctx, "$KV."+bucket+".probe", nil)
			return err
		})
	}
	return all
}

// publishSteadily publishes an update each 20 ms as long as it can, until the test ends.
func (c *chaos) publishSteadily(b *beats) {
	ctx := c.t.Context()
	for i := 0; ctx.Err() == nil; i++ {
		m := nats.NewMsg(fmt.Sprintf("kex.vorgang.%d.kommentare", 1+i%50))
		m.Data = fmt.Appendf(nil, `["%d"]`, i)
		m.Header.Set("Nats-Msg-Id", fmt.Sprint("steady-", i))
		for ctx.Err() == nil {
			try, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
			_, err := c.js.PublishMsg(try, m)
			cancel()
			if err == nil {
				b.beat()
				break
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// leadByOne makes one server the leader of all that is used, and gives it.
func (c *chaos) leadByOne(round int) *natsServer {
	c.t.Helper()
	victim := c.servers[round%len(c.servers)]
	assets := []asset{
		{stream: topology.StreamUpdates},
		{topology.StreamUpdates, topology.Consumer(0)},
		{stream: topology.StreamResults},
		{stream: "KV_" + topology.BucketLedger},
		{stream: "KV_" + topology.BucketControl},
		{stream: "PROBE"},
		{"PROBE", "probe"},
	}
	eventually(c.t, time.Minute, "one server leads everything", func() bool {
		if !whole(c.t.Context(), c.js, len(c.servers)) {
			return false
		}
		led := true
		for _, a := range assets {
			if leaderOf(c.t.Context(), c.js, c.servers, a) != victim {
				led = false
				moveLeader(c.t.Context(), c.nc, a, victim.name)
			}
		}
		return led
	})
	eventually(c.t, time.Minute, "the relay has settled down: only the kill is measured", func() bool {
		now := time.Now()
		return c.longestPause(now.Add(-time.Second), now) < 200*time.Millisecond
	})
	return victim
}

// moveLeader asks an asset's leader to make way for a certain server, and reports whether it did.
func moveLeader(ctx context.Context, nc *nats.Conn, a asset, to string) bool {
	subject := "$JS.API.STREAM.LEADER.STEPDOWN." + a.stream
	if a.consumer != "" {
		subject = "$JS.API.CONSUMER.LEADER.STEPDOWN." + a.stream + "." + a.consumer
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := nc.RequestWithContext(ctx, subject, fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, to))
	return err == nil
}

// linesSince are the lines of a log in JSON that were written since then, without those of single updates.
func linesSince(p *process, since time.Time) (lines []string) {
	for line := range strings.Lines(p.output.String()) {
		var head struct {
			Time time.Time `json:"time"`
			Kind string    `json:"kind"`
		}
		if json.Unmarshal([]byte(line), &head) == nil && head.Time.After(since) && head.Kind == "" {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}
