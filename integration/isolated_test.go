package integration

import (
	"context"
	"math/rand/v2"
	"regexp"
	"sync"
	"testing"
	"time"

	"kexrelay/internal/simulator"
)

// A server of a cluster that loses its peers keeps its clients and answers their pings, but knows of no leader any more.
// A relay that is connected to it goes on through another one, and nothing is lost or repeated on the way.
func TestARelayLeavesAServerThatIsCutOffFromItsPeers(t *testing.T) {
	t.Parallel()
	c := &chaos{
		system: &system{t: t, dir: t.TempDir()}, servers: startServers(t, 3),
		cfg:    chaosConfig{servers: 3, vorgaenge: 50, pace: 30 * time.Millisecond},
		random: rand.New(rand.NewPCG(1, 3)), updates: make(map[string]*sentUpdate), handlers: make(map[string]handler),
	}
	c.natsURL = serverURLs(c.servers)
	if out, errs, code := runProgram(t, c.natsEnv(), nil, programs.kexrelay, "setup", "--wait", "60s", "--replicas", "3"); code != 0 {
		t.Fatalf("setup: exit code %d\n%s%s", code, out, errs)
	}
	c.startAPI(simulator.Script{Latency: simulator.Fixed(5 * time.Millisecond)})
	c.connect()
	c.awaitWhole()
	relay := c.startReplica(0)
	eventually(t, 30*time.Second, "the relay serves", func() bool { return contains(relay, `"msg":"serving"`) })

	promised(t, "the relay goes on after", 15*time.Second, func() time.Duration {
		return c.isolate(relay)
	})
	c.drain()
	e := c.evidence()
	if len(e.requests) < 100 {
		t.Errorf("%d requests show little", len(e.requests))
	}
	for _, check := range chaosChecks {
		report(t, check.name, check.run(e))
	}
}

// isolate takes its peers from the server that the relay is connected to while updates are published elsewhere. It gives
// how long it took until one of those that were published after that was booked.
func (c *chaos) isolate(relay *process) time.Duration {
	c.t.Helper()
	const enough = time.Minute
	victim := c.connectedTo(relay)
	var others []*natsServer
	c.publisher = nil
	for _, s := range c.servers {
		if s != victim {
			others = append(others, s)
			c.publisher = append(c.publisher, newLink(c.t, publisherLink, s.addr))
		}
	}
	c.natsURL = serverURLs(others)
	c.nc.Close()
	c.connect()
	c.awaitWhole()

	ctx, stop := context.WithCancel(c.t.Context())
	var publishing sync.WaitGroup
	publishing.Go(func() {
		if err := c.publishAll(ctx, c.random.Uint64()); err != nil {
			c.t.Errorf("publishing: %v", err)
		}
	})
	defer publishing.Wait()
	defer stop()
	before := c.api.Counts().Booked
	eventually(c.t, 30*time.Second, "the relay sends", func() bool { return c.api.Counts().Booked > before+50 })

	mend := c.cutOffServer(victim)
	defer mend()
	cut := time.Now()
	for time.Since(cut) < enough && !c.bookedSince(cut) {
		time.Sleep(50 * time.Millisecond)
	}
	took := time.Since(cut)
	eventually(c.t, time.Minute, "enough is sent through the other servers to show something", func() bool { return c.api.Counts().Booked > before+110 })
	if now := c.connectedTo(relay); took < enough && now == victim {
		c.t.Errorf("the relay sends, but by its log it is connected to %s, which was cut off", now.name)
	}
	return took
}

// bookedSince reports whether an update was booked that was published after a moment.
func (c *chaos) bookedSince(moment time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.api.Requests() {
		trace, _ := attemptOf(r.TraceID)
		if u := c.updates[trace]; r.Booked && u != nil && u.ackedAt.After(moment) {
			return true
		}
	}
	return false
}

var connectedLine = regexp.MustCompile(`"msg":"(?:re)?connected to nats","server":"nats://([^"]+)"`)

// connectedTo is the server that a relay says it is connected to.
func (c *chaos) connectedTo(relay *process) *natsServer {
	c.t.Helper()
	found := connectedLine.FindAllStringSubmatch(relay.output.String(), -1)
	if len(found) == 0 {
		c.t.Fatalf("%s does not say where it is connected\n%s", relay.name, tail(relay.output.String(), 20))
	}
	for _, s := range c.servers {
		if s.addr == found[len(found)-1][1] {
			return s
		}
	}
	c.t.Fatalf("%s is connected to none of the servers: %s", relay.name, found[len(found)-1][1])
	return nil
}
