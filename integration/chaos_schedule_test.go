package integration

import (
	"context"
	"sync"
	"syscall"
	"time"

	"kexrelay/internal/topology"
)

// trouble is something that was made to go wrong, and from when to when.
type trouble struct {
	kind troubleKind
	// replica is whose trouble it is; everyone's is everyone.
	replica  int
	from, to time.Time
}

type troubleKind string

const (
	died     troubleKind = "died"
	stopped  troubleKind = "stopped"
	frozen   troubleKind = "frozen"
	natsLink troubleKind = "link to NATS"
	apiLink  troubleKind = "link to the API"
	natsDown troubleKind = "NATS"

	everyone = -1
)

// begin notes a trouble; the function it gives notes its end.
func (c *chaos) begin(kind troubleKind, replica int) (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	trouble := &trouble{kind: kind, replica: replica, from: time.Now()}
	c.troubles = append(c.troubles, trouble)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		trouble.to = time.Now()
	}
}

// action is one thing that can be done to the system.
type action struct {
	// count is under what it is counted, target what no other action may touch meanwhile.
	count, target string
	weight        int
	// low and high bound how long it lasts.
	low, high time.Duration
	// do does it and gives the function that mends it.
	do func() (mend func())
}

// breakThings publishes and breaks, one or two things at a time, until the time is over or the quota is met.
func (c *chaos) breakThings() {
	ctx, stop := context.WithCancel(c.t.Context())
	var publishing sync.WaitGroup
	seed := c.random.Uint64()
	publishing.Go(func() {
		if err := c.publishAll(ctx, seed); err != nil {
			c.t.Errorf("publishing: %v", err)
		}
	})
	defer publishing.Wait()
	defer stop()
	actions := c.actions()
	for begin := time.Now(); !c.enough(time.Since(begin)) && !c.t.Failed(); {
		c.breakSomething(actions)
		c.pause(200*time.Millisecond, 2500*time.Millisecond)
	}
}

// enough reports whether the run may end.
func (c *chaos) enough(elapsed time.Duration) bool {
	if c.cfg.quota == nil {
		return elapsed >= c.cfg.time
	}
	for name, n := range c.cfg.quota {
		if c.counts[name] < n {
			return false
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.acked >= c.cfg.updates
}

func (c *chaos) pause(low, high time.Duration) {
	time.Sleep(low + time.Duration(c.random.Int64N(int64(high-low))))
}

// breakSomething does one thing or, each fourth time, two at once, and mends them.
func (c *chaos) breakSomething(actions []action) {
	n := 1
	if c.random.IntN(4) == 0 {
		n = 2
	}
	var mends []func()
	var low, high time.Duration
	clear(c.busy)
	for range n {
		a := c.choose(actions)
		if c.busy[a.target] {
			continue
		}
		c.busy[a.target] = true
		c.note("%s", a.count)
		if mend := a.do(); mend != nil {
			c.counts[a.count]++
			mends = append(mends, func() {
				mend()
				c.note("mended: %s", a.count)
			})
			low, high = max(low, a.low), max(high, a.high)
		}
	}
	if len(mends) == 0 {
		return
	}
	c.pause(low, high)
	for _, mend := range mends {
		mend()
	}
}

// choose takes an action by its weight, or by what is missing of the quota.
func (c *chaos) choose(actions []action) action {
	weight := func(a action) int {
		if c.cfg.quota == nil {
			return a.weight
		}
		return max(0, c.cfg.quota[a.count]-c.counts[a.count])
	}
	sum := 0
	for _, a := range actions {
		sum += weight(a)
	}
	if sum == 0 || c.random.IntN(6) == 0 {
		weight = func(a action) int { return a.weight }
		sum = 0
		for _, a := range actions {
			sum += a.weight
		}
	}
	dice := c.random.IntN(sum)
	for _, a := range actions {
		if dice -= weight(a); dice < 0 {
			return a
		}
	}
	return actions[len(actions)-1]
}

// actions are all that can be done to this system.
func (c *chaos) actions() []action {
	var all []action
	for _, r := range c.replicas {
		target := "process of " + linkName(r.index, "")
		all = append(all,
			action{countKill, target, 8, 50 * time.Millisecond, 2500 * time.Millisecond, func() func() { return c.killReplica(r) }},
			action{countStop, target, 3, 10 * time.Millisecond, 500 * time.Millisecond, func() func() { return c.stopReplica(r) }},
			action{countFreeze, target, 2, 4 * time.Second, 9 * time.Second, func() func() { return c.freezeReplica(r) }},
		)
		all = append(all, c.linkActions(linkName(r.index, "nats"), r.nats, natsLink, r.index)...)
		all = append(all, c.linkActions(linkName(r.index, "api"), []*link{r.api}, apiLink, r.index)...)
	}
	all = append(all, c.linkActions(publisherLink, c.publisher, "", everyone)...)
	if len(c.servers) == 1 {
		return append(all, action{countNATSKill, "nats", 6, 50 * time.Millisecond, 1500 * time.Millisecond, func() func() {
			return c.killServer(c.servers[0])
		}})
	}
	return append(all,
		action{countLeaderKill, "nats", 8, 100 * time.Millisecond, 5 * time.Second, func() func() { return c.killServer(c.leader()) }},
		action{"kill -9 of a cluster follower", "nats", 3, 100 * time.Millisecond, 5 * time.Second, func() func() { return c.killServer(c.follower()) }},
		action{"SIGSTOP of a cluster server", "nats", 2, 2 * time.Second, 8 * time.Second, func() func() { return c.freezeServer(c.anyServer()) }},
		action{"cluster server cut off its peers", "nats", 3, time.Second, 8 * time.Second, func() func() { return c.cutOffServer(c.anyServer()) }},
	)
}

// linkActions are a cut, in one of its forms, and a slow time. The links are one party's ways to the same thing.
func (c *chaos) linkActions(name string, links []*link, kind troubleKind, replica int) []action {
	do := func(change func(*link)) func() {
		end := func() {}
		if kind != "" {
			end = c.begin(kind, replica)
		}
		each(links, change)
		return func() {
			each(links, (*link).mend)
			end()
		}
	}
	return []action{
		{countCut + name, name, 2, 200 * time.Millisecond, 5 * time.Second, func() func() {
			return do([]func(*link){(*link).refuse, (*link).swallow, (*link).deafen, (*link).reset}[c.random.IntN(4)])
		}},
		{"slow: " + name, name, 1, time.Second, 4 * time.Second, func() func() {
			delay := 5*time.Millisecond + time.Duration(c.random.Int64N(int64(250*time.Millisecond)))
			return do(func(l *link) { l.slow(delay, 200) })
		}},
	}
}

// each changes links at the same time.
func each(links []*link, change func(*link)) {
	var all sync.WaitGroup
	for _, l := range links {
		all.Go(func() { change(l) })
	}
	all.Wait()
}

func (c *chaos) killReplica(r *replica) func() {
	end := c.begin(died, r.index)
	c.mustRun(r)
	r.process.kill()
	return func() {
		c.startIn(r)
		end()
	}
}

// mustRun says so if a replica has ended although nobody ended it.
func (c *chaos) mustRun(r *replica) {
	if !running(r.process) {
		c.t.Errorf("%s ended by itself: %v\n%s", r.process.name, r.process.err, tail(r.process.output.String(), 30))
	}
}

func (c *chaos) stopReplica(r *replica) func() {
	eventually(c.t, 20*time.Second, "the replica has started", func() bool { return contains(r.process, `"msg":"starting"`) })
	end := c.begin(stopped, r.index)
	c.mustRun(r)
	if err := r.process.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		c.t.Errorf("stopping a replica: %v", err)
	}
	return func() {
		select {
		case <-r.process.exited:
		case <-time.After(30 * time.Second):
			c.t.Errorf("%s still runs 30 s after SIGTERM\n%s", r.process.name, tail(r.process.output.String(), 30))
			r.process.kill()
		}
		if code := r.process.cmd.ProcessState.ExitCode(); code != 0 {
			c.t.Errorf("%s ended with code %d after SIGTERM\n%s", r.process.name, code, tail(r.process.output.String(), 10))
		}
		c.startIn(r)
		end()
	}
}

func (c *chaos) freezeReplica(r *replica) func() {
	end := c.begin(frozen, r.index)
	c.mustRun(r)
	if err := r.process.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		c.t.Errorf("freezing a replica: %v", err)
	}
	return func() {
		if err := r.process.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			c.t.Errorf("waking a replica: %v", err)
		}
		end()
	}
}

func (c *chaos) killServer(s *natsServer) func() {
	end := c.begin(natsDown, everyone)
	c.note("killing %s", s.name)
	s.process.kill()
	keepOutput(c.t, s.process)
	return func() {
		s.start()
		end()
	}
}

func (c *chaos) freezeServer(s *natsServer) func() {
	end := c.begin(natsDown, everyone)
	c.note("freezing %s", s.name)
	s.freeze()
	return func() {
		s.thaw()
		end()
	}
}

func (c *chaos) cutOffServer(s *natsServer) func() {
	end := c.begin(natsDown, everyone)
	c.note("cutting %s off", s.name)
	s.cutOff()
	return func() {
		s.rejoin()
		end()
	}
}

// leader is the server that leads something the relay needs, chosen by chance.
func (c *chaos) leader() *natsServer {
	c.awaitWhole()
	assets := []asset{
		{stream: topology.StreamUpdates},
		{topology.StreamUpdates, topology.Consumer(0)},
		{stream: topology.StreamResults},
		{stream: "KV_" + topology.BucketLedger},
		{stream: "KV_" + topology.BucketControl},
	}
	if s := leaderOf(c.t.Context(), c.js, c.servers, assets[c.random.IntN(len(assets))]); s != nil {
		return s
	}
	return c.anyServer()
}

// follower is a server that does not lead the updates.
func (c *chaos) follower() *natsServer {
	c.awaitWhole()
	leader := leaderOf(c.t.Context(), c.js, c.servers, asset{stream: topology.StreamUpdates})
	for {
		if s := c.servers[c.random.IntN(len(c.servers))]; s != leader {
			return s
		}
	}
}

func (c *chaos) anyServer() *natsServer {
	c.awaitWhole()
	return c.servers[c.random.IntN(len(c.servers))]
}

// awaitWhole waits for the copies of a server that was away: a majority is what three copies promise to survive. It
// does not wait for ever: what is asked of the relay then is only to lose nothing.
func (c *chaos) awaitWhole() {
	end := time.Now().Add(15 * time.Second)
	for !whole(c.t.Context(), c.js, len(c.servers)) && time.Now().Before(end) {
		time.Sleep(100 * time.Millisecond)
	}
}
