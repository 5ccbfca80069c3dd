//go:build integration

package integration

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// brokenPatience is how long a run may take to become quiet after its failure. A build that does not get there is
// reported by checkPending.
const brokenPatience = 90 * time.Second

// brokenRun is a system in which one certain thing goes wrong. Its replicas run the program under suspicion.
type brokenRun struct {
	*chaos
	program string
	// sent counts the updates.
	sent int
}

// newBrokenRun starts a server, sets the streams up with one program, and starts the API, which works; replicas, which
// run the other program, are started by start.
func newBrokenRun(t *testing.T, setup, serve string) *brokenRun {
	t.Helper()
	c := &brokenRun{program: serve, chaos: &chaos{
		system: &system{t: t, dir: t.TempDir()}, counts: make(map[string]int),
		updates: make(map[string]*sentUpdate), handlers: make(map[string]handler),
	}}
	c.servers = startServers(t, 1)
	c.natsURL = serverURLs(c.servers)
	if out, errs, code := runProgram(t, c.natsEnv(), nil, setup, "setup", "--wait", "60s"); code != 0 {
		t.Fatalf("setup: exit code %d\n%s%s", code, out, errs)
	}
	c.connect()
	var err error
	if c.api, err = simulator.New(simulator.Config{ClientID: clientID, ClientSecret: clientSecret}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.api.Close)
	return c
}

// apiTakes makes the API answer so long after it has booked: whoever goes away meanwhile never learns that it did.
func (c *brokenRun) apiTakes(d time.Duration) {
	if err := c.api.SetScript(simulator.Script{Vorgaenge: []simulator.VorgangRule{{
		Match: []string{"*"}, Always: &simulator.Answer{AnswerLatency: simulator.Fixed(d)},
	}}}); err != nil {
		c.t.Fatal(err)
	}
}

// place makes room for another replica.
func (c *brokenRun) place() *replica {
	r := &replica{index: len(c.replicas)}
	r.api = &link{addr: c.front(r)}
	c.replicas = append(c.replicas, r)
	return r
}

// start runs the program in a replica's place.
func (c *brokenRun) start(r *replica) {
	generation := r.generation.Add(1)
	p := launch(c.t, fmt.Sprintf("replica %d (start %d)", r.index, generation), replicaEnv(
		c.natsURL, "http://"+r.api.addr+simulator.BasePath, "http://"+r.api.addr+simulator.TokenPath), c.program, "serve")
	c.t.Cleanup(func() {
		keepOutput(c.t, p)
		if c.t.Failed() {
			c.t.Logf("last output of %s:\n%s", p.name, tail(p.output.String(), 40))
		}
	})
	r.process = p
}

// startServing runs the program in a new place and waits until it has taken the partition over.
func (c *brokenRun) startServing() *replica {
	r := c.place()
	c.start(r)
	c.says(r, `"msg":"partition taken over"`)
	return r
}

// says waits until a replica has said something.
func (c *brokenRun) says(r *replica, text string) {
	c.t.Helper()
	eventually(c.t, time.Minute, r.process.name+" says "+text, func() bool { return contains(r.process, text) })
}

// kill ends a replica as kill -9 does; the function it gives starts it again.
func (c *brokenRun) kill(r *replica) (again func()) {
	end := c.begin(died, r.index)
	r.process.kill()
	return func() {
		c.start(r)
		end()
	}
}

// send publishes an update, as often as it takes until it is acknowledged; with "" for a body, a comment of its own.
func (c *brokenRun) send(ctx context.Context, vorgang int, body string) {
	c.mu.Lock()
	n := c.sent
	c.sent++
	if body == "" {
		body = fmt.Sprintf(`["broken %d"]`, n)
	}
	digest := sha256.Sum256([]byte(body))
	u := &sentUpdate{
		vorgang: strconv.Itoa(vorgang), kind: string(update.Comments), traceID: fmt.Sprintf("broken%07d", n),
		digest: hex.EncodeToString(digest[:]),
	}
	c.updates[u.traceID] = u
	c.mu.Unlock()
	m := nats.NewMsg(update.SubjectPrefix + u.vorgang + "." + u.kind)
	m.Data = []byte(body)
	m.Header.Set("Nats-Msg-Id", u.traceID)
	m.Header.Set("X-TraceId", u.traceID)
	p := chaosPublisher{chaos: c.chaos, js: c.js}
	if !p.publish(ctx, u, m) {
		c.t.Errorf("%s was not published", u.traceID)
	}
}

// sendMany publishes so many updates of so many Vorgänge in turn.
func (c *brokenRun) sendMany(updates, vorgaenge int) {
	for i := range updates {
		c.send(c.t.Context(), 100000+i%vorgaenge, "")
	}
}

// booked waits until the API has booked so many.
func (c *brokenRun) booked(n int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	if err := c.api.WaitBooked(ctx, n); err != nil {
		c.t.Fatalf("the API has not booked %d: %v", n, err)
	}
}

// resize changes how much a stream holds; 1 byte means that it refuses everything.
func (c *brokenRun) resize(stream string, bytes int64) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		c.t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.MaxBytes = bytes
	if _, err := c.js.UpdateStream(ctx, cfg); err != nil {
		c.t.Fatal(err)
	}
}

// drainFor waits until no update is waiting, but not for ever, and not when nobody is there any more.
func (c *brokenRun) drainFor(limit time.Duration) {
	someone := func() bool {
		return slices.ContainsFunc(c.replicas, func(r *replica) bool { return running(r.process) })
	}
	for end := time.Now().Add(limit); time.Now().Before(end) && someone() && len(c.left(c.t.Context())) > 0; {
		time.Sleep(50 * time.Millisecond)
	}
}

// killedWhileResultsAreRefused: the API has booked, the result is refused, and the process dies before it is not. All
// that tells of those updates then is that they still lie in the stream.
func killedWhileResultsAreRefused(c *brokenRun) {
	a := c.startServing()
	c.resize(topology.StreamResults, 1)
	c.sendMany(4, 4)
	c.booked(1) // The others perhaps not: the first refusal holds all.
	c.says(a, `"reason":"storage"`)
	again := c.kill(a)
	c.resize(topology.StreamResults, -1)
	again()
}

// killedWhileDeadLettersAreRefused: the same, of updates that can never be right. A result without its dead letter would
// be believed by whoever comes next.
func killedWhileDeadLettersAreRefused(c *brokenRun) {
	a := c.startServing()
	c.send(c.t.Context(), 100000, `[]`)
	eventually(c.t, time.Minute, "there is a dead letter", func() bool { return c.count(topology.StreamDeadLetters) == 1 })
	c.resize(topology.StreamDeadLetters, 1)
	c.send(c.t.Context(), 100001, `[]`)
	c.says(a, `"reason":"storage"`)
	again := c.kill(a)
	c.resize(topology.StreamDeadLetters, -1)
	again()
}

// killedWhileSending: requests are booked, and whoever made them dies before the answers come.
func killedWhileSending(c *brokenRun) {
	c.apiTakes(chaosTimeout / 2)
	a := c.startServing()
	c.sendMany(12, 6)
	c.booked(6)
	c.kill(a)()
}

// killedWithUpdatesHeld: the process dies with updates that the server has delivered to it and hence keeps for it, and
// younger ones of the same Vorgänge are published then, which the server may deliver at once.
func killedWithUpdatesHeld(c *brokenRun) {
	c.apiTakes(chaosTimeout / 2)
	a := c.startServing()
	c.sendMany(18, 6)
	c.booked(6)
	again := c.kill(a)
	c.sendMany(6, 6)
	again()
}

// frozenForLongerThanALease: the holder stands still with updates in its hands until another one has taken over, and
// goes on then as if no time had passed.
func frozenForLongerThanALease(c *brokenRun) {
	c.apiTakes(200 * time.Millisecond)
	a := c.startServing()
	b := c.place()
	c.start(b)
	c.sendMany(160, 4)
	c.booked(8)
	thaw := c.freezeReplica(a)
	c.says(b, `"msg":"partition taken over"`)
	thaw()
}

// killedTogetherWithNATS: a killed server forgets what it delivered last, and the process that was sending it is gone
// too. How much it forgets depends on when it wrote its state last; here it has not since a hundred bookings ago.
func killedTogetherWithNATS(c *brokenRun) {
	c.apiTakes(150 * time.Millisecond)
	a := c.startServing()
	ctx, stop := context.WithCancel(c.t.Context())
	var publishing sync.WaitGroup
	for range publishers {
		publishing.Go(func() {
			for ctx.Err() == nil {
				c.send(ctx, 100000+rand.IntN(2000), "")
				time.Sleep(12 * time.Millisecond) // Four of them: some 300 a second, less than is sent.
			}
		})
	}
	c.booked(200)
	state := filepath.Join(filepath.Dir(c.servers[0].conf), "store", "jetstream", "$G", "streams", topology.StreamUpdates,
		"obs", topology.Consumer(0), "o.dat")
	before, err := os.ReadFile(state)
	if err != nil {
		c.t.Fatal(err)
	}
	c.booked(300)
	restart := c.killServer(c.servers[0])
	again := c.kill(a)
	stop()
	if err := os.WriteFile(state, before, 0o600); err != nil {
		c.t.Error(err)
	}
	restart()
	again()
	publishing.Wait()
}

// startedAfterSetup: nothing fails. A look-up at a server that lags behind is stale for a moment that no test can choose,
// and so the relay does not start where one is possible.
func startedAfterSetup(c *brokenRun) {
	c.start(c.place())
	c.sendMany(1, 1)
}
