package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
)

// fleet is several replicas that send at the same time, each with a partition of its own.
type fleet struct {
	*system

	replicas []*member
	options  []string
}

type member struct {
	*process

	health string
}

const fleetSize = 3

// newFleet sets everything up for replicas that start relays.
func newFleet(t *testing.T, script simulator.Script, options ...string) *fleet {
	t.Helper()
	f := &fleet{system: newSystem(t, script), options: append(options, "KEXRELAY_RETRY_MAX_INTERVAL=10s")}
	out, errs, code := runProgram(t, f.natsEnv(), nil, programs.kexrelay, "setup", "--partitions", strconv.Itoa(fleetSize))
	if code != 0 {
		t.Fatalf("setup: exit code %d\n%s%s", code, out, errs)
	}
	return f
}

// start starts the replicas and returns when each of them has the lease of a partition. The test keeps the leases
// until there is somebody to take them, and stops those that have one while the next takes its own.
func (f *fleet) start() {
	f.t.Helper()
	kv, err := f.js.KeyValue(f.t.Context(), topology.BucketControl)
	if err != nil {
		f.t.Fatal(err)
	}
	f.replicas = nil
	keeper := &leaseKeeper{t: f.t, kv: kv, keep: map[string]bool{}, stop: make(chan struct{}), done: make(chan struct{})}
	for i := range fleetSize {
		keeper.keep[fmt.Sprintf("lease.%d", i)] = true
	}
	keeper.beat()
	go keeper.run()
	for i := range fleetSize {
		f.serve(append([]string{fmt.Sprintf("KEXRELAY_NAME=replica-%d", i)}, f.options...)...)
		m := &member{process: f.relay, health: f.health}
		eventually(f.t, 20*time.Second, "the replica serves", func() bool { return contains(m.process, `"msg":"serving"`) })
		f.signal(syscall.SIGSTOP)
		keeper.release(fmt.Sprintf("lease.%d", i))
		eventually(f.t, 20*time.Second, "the replica has a lease", func() bool { return contains(m.process, `"msg":"lease taken"`) })
		f.signal(syscall.SIGCONT)
		f.replicas = append(f.replicas, m)
	}
	close(keeper.stop)
	<-keeper.done
	for _, m := range f.replicas {
		eventually(f.t, 30*time.Second, "each replica serves a partition", func() bool { return contains(m.process, `"msg":"partition taken over"`) })
	}
}

// leaseKeeper holds leases like a replica that lives.
type leaseKeeper struct {
	t          *testing.T
	kv         jetstream.KeyValue
	keep       map[string]bool
	number     int
	stop, done chan struct{}
	released   chan string
}

func (k *leaseKeeper) write(key string, released bool) {
	k.number++
	value, err := json.Marshal(map[string]any{"replica": "test", "process": "test", "epoch": 1_000_000, "beat": k.number, "released": released})
	if err == nil {
		_, err = k.kv.Put(k.t.Context(), key, value)
	}
	if err != nil && !errors.Is(err, k.t.Context().Err()) {
		k.t.Errorf("keeping %s: %v", key, err)
	}
}

func (k *leaseKeeper) beat() {
	k.released = make(chan string)
	for key := range k.keep {
		k.write(key, false)
	}
}

func (k *leaseKeeper) run() {
	defer close(k.done)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for key := range k.keep {
				k.write(key, false)
			}
		case key := <-k.released:
			delete(k.keep, key)
			k.write(key, true)
		case <-k.stop:
			return
		}
	}
}

func (k *leaseKeeper) release(key string) { k.released <- key }

func (f *fleet) signal(s syscall.Signal) {
	f.t.Helper()
	for _, m := range f.replicas {
		if err := m.cmd.Process.Signal(s); err != nil {
			f.t.Fatal(err)
		}
	}
}

// publishMany publishes so many updates to as many Vorgänge: every partition gets some.
func (f *fleet) publishMany(from, n int) {
	f.t.Helper()
	for i := range n {
		f.publish(fmt.Sprintf("kex.vorgang.%d.kommentare", from+i), fmt.Sprintf(`["shared %d"]`, from+i), nil)
	}
}

// held waits until the first replica shows a hold, and gives how long it took until all did.
func (f *fleet) held(reason string) time.Duration {
	f.t.Helper()
	var first time.Time
	eventually(f.t, 30*time.Second, "all replicas hold: "+reason, func() bool {
		all := true
		for _, m := range f.replicas {
			f.health = m.health
			if _, is := f.ready(); is == reason {
				if first.IsZero() {
					first = time.Now()
				}
				continue
			}
			all = false
		}
		return all
	})
	return time.Since(first)
}

// checkProbes looks at the requests of a hold: one at a time, and no more than a handful.
func (f *fleet) checkProbes(requests []simulator.Request, most int) {
	f.t.Helper()
	slices.SortFunc(requests, func(a, b simulator.Request) int { return a.ReceivedAt.Compare(b.ReceivedAt) })
	for i := 1; i < len(requests); i++ {
		if requests[i].ReceivedAt.Before(requests[i-1].AnsweredAt) {
			f.t.Errorf("probe %d came before the answer to the one before", i)
		}
	}
	if len(requests) == 0 || len(requests) > most {
		f.t.Errorf("%d probes, want 1 to %d", len(requests), most)
	}
}

// An outage that one replica finds out holds all, is probed by one at a time, and its end is everybody's; a killed
// replica takes nothing of that away.
func TestAnOutageIsTheFleets(t *testing.T) {
	t.Parallel()
	f := newFleet(t, simulator.Script{Latency: &simulator.Latency{Fixed: 30 * time.Millisecond}})
	f.start()
	if err := f.api.StartOutage(simulator.Outage{}); err != nil {
		t.Fatal(err)
	}
	f.publishMany(1, 300)
	spread := f.held("outage")
	if spread > time.Second {
		t.Errorf("all held %v after the first, want within 1s", spread)
	}
	held := time.Now()
	watch := 12 * time.Second
	eventually(t, watch/2+5*time.Second, "half of the outage is over", func() bool { return time.Since(held) > watch/2 })
	f.replicas[0].kill()
	f.replicas = f.replicas[1:]
	eventually(t, watch+5*time.Second, "the outage is over", func() bool { return time.Since(held) > watch })
	var probes []simulator.Request
	for _, r := range f.api.Requests() {
		if r.ReceivedAt.After(held.Add(200*time.Millisecond)) && !r.AnsweredAt.IsZero() {
			probes = append(probes, r)
		}
	}
	f.checkProbes(probes, 12)
	f.api.EndOutage()
	f.drained(90 * time.Second)
	if n := f.checkLedger(nil); n != 300 {
		t.Errorf("%d updates booked, want 300", n)
	}
	if n := f.count(topology.StreamDeadLetters); n != 0 {
		t.Errorf("%d dead letters", n)
	}
	t.Logf("all three held %v after the first; %d probes of the fleet in %v", spread, len(probes), watch)
}

// A Retry-After that one replica is given is kept by all, also by one that starts meanwhile.
func TestARetryAfterIsTheFleets(t *testing.T) {
	t.Parallel()
	const pause = 6 * time.Second
	f := newFleet(t, simulator.Script{
		Sequence: []simulator.Step{{Answer: simulator.Answer{Status: 429, RetryAfter: pause}}},
	})
	f.start()
	f.publish("kex.vorgang.1.kommentare", `["first"]`, nil)
	spread := f.held("throttled")
	if spread > time.Second {
		t.Errorf("all held %v after the first, want within 1s", spread)
	}
	f.publishMany(2, 200)
	f.replicas[0].kill()
	f.serve(f.options...)
	f.drained(60 * time.Second)
	requests := f.api.Requests()
	for i, r := range requests[1:] {
		if gap := r.ReceivedAt.Sub(requests[0].AnsweredAt); gap < pause {
			t.Fatalf("request %d came %v after the 429", i+2, gap)
		}
	}
	t.Logf("all three held %v after the first; the next request came %v after the 429", spread, requests[1].ReceivedAt.Sub(requests[0].AnsweredAt))
}

// The whole fleet tries a wrong secret at most five times in any minute, also while its replicas are restarted.
func TestAWrongSecretIsTriedFiveTimesAMinuteByTheFleet(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	write := func(text string) {
		if err := os.WriteFile(secret, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("wrong")
	f := newFleet(t, simulator.Script{}, "KEX_CLIENT_SECRET=", "KEX_CLIENT_SECRET_FILE="+secret)
	f.start()
	begin := time.Now()
	f.publishMany(1, 60)
	f.held("unauthorized")
	watch := 20 * time.Second
	if long {
		watch = 90 * time.Second
	}
	for i := 0; time.Since(begin) < watch; i = (i + 1) % fleetSize {
		f.replicas[i].kill()
		f.serve(append([]string{fmt.Sprintf("KEXRELAY_NAME=replica-%d", i)}, f.options...)...)
		f.replicas[i] = &member{process: f.relay, health: f.health}
		at := time.Now()
		eventually(t, 20*time.Second, "the replica holds as well", func() bool { _, reason := f.ready(); return reason == "unauthorized" })
		eventually(t, 20*time.Second, "some seconds have passed", func() bool { return time.Since(at) > 7*time.Second })
	}
	calls := f.api.TokenRequests()
	for i := 5; i < len(calls); i++ {
		if gap := calls[i].ReceivedAt.Sub(calls[i-5].ReceivedAt); gap < 59*time.Second {
			t.Errorf("token calls %d to %d within %v", i-4, i+1, gap)
		}
	}
	if len(calls) == 0 || f.api.Counts().Requests != 0 {
		t.Errorf("%d token calls and %d requests without a token", len(calls), f.api.Counts().Requests)
	}
	t.Logf("%d token calls with the wrong secret in %v", len(calls), time.Since(begin).Round(time.Second))
	write(clientSecret)
	f.drained(2 * time.Minute)
	if n := f.count(topology.StreamDeadLetters); n != 0 {
		t.Errorf("%d dead letters", n)
	}
}

// A pause stops all within a second, outlives all processes, and ends for all by resume.
func TestAPauseIsTheFleets(t *testing.T) {
	f := newFleet(t, simulator.Script{Latency: &simulator.Latency{Fixed: 20 * time.Millisecond}}, "KEXRELAY_RATE=50")
	f.start()
	f.publishMany(1, 600)
	eventually(t, 20*time.Second, "the fleet sends", func() bool { return f.api.Counts().Booked > 20 })
	if out, errs, code := runProgram(t, f.natsEnv(), nil, programs.kexrelay, "pause", "--reason", "test"); code != 0 {
		t.Fatalf("pause: exit code %d\n%s%s", code, out, errs)
	}
	paused := time.Now()
	f.held("operator")
	eventually(t, 5*time.Second, "some seconds have passed", func() bool { return time.Since(paused) > 3*time.Second })
	for _, m := range f.replicas {
		m.kill()
	}
	f.start()
	for _, m := range f.replicas {
		f.health = m.health
		if code, reason := f.ready(); code != http.StatusOK || reason != "operator" {
			t.Errorf("/readyz of a new process says %d %s, want 200 operator", code, reason)
		}
	}
	last := time.Duration(0)
	for _, r := range f.api.Requests() {
		last = max(last, r.ReceivedAt.Sub(paused))
	}
	if last > time.Second {
		t.Errorf("a request came %v after the pause", last)
	}
	if n := f.count(topology.StreamUpdates); n == 0 {
		t.Fatal("nothing was left to be paused")
	}
	if out, _, code := runProgram(t, f.natsEnv(), nil, programs.kexrelay, "status"); code != 3 || !strings.Contains(out, "operator") {
		t.Errorf("status: exit code %d and:\n%s", code, out)
	}
	booked := f.api.Counts().Booked
	if out, errs, code := runProgram(t, f.natsEnv(), nil, programs.kexrelay, "resume"); code != 0 {
		t.Fatalf("resume: exit code %d\n%s%s", code, out, errs)
	}
	resumed := time.Now()
	eventually(t, 20*time.Second, "the fleet sends again", func() bool { return f.api.Counts().Booked > booked })
	t.Logf("last request %v after the pause, the next booking %v after the resume", last, time.Since(resumed))
	f.pauseTheirKind()
	f.drained(2 * time.Minute)
}

// pauseTheirKind pauses the kind of everything that is waiting: all replicas stop within a second, and the other kind goes
// on.
func (f *fleet) pauseTheirKind() {
	f.t.Helper()
	if out, errs, code := runProgram(f.t, f.natsEnv(), nil, programs.kexrelay, "pause", "--kind", "comments"); code != 0 {
		f.t.Fatalf("pause --kind: exit code %d\n%s%s", code, out, errs)
	}
	paused := time.Now()
	f.held("operator")
	if n := f.count(topology.StreamUpdates); n == 0 {
		f.t.Fatal("nothing was left to be paused")
	}
	f.publish("kex.vorgang.9000.dokument", `{"filename":"a.pdf","base64Content":"JVBERi0x"}`, nil)
	eventually(f.t, 20*time.Second, "the other kind is sent", func() bool { return len(f.api.Bookings("9000")) == 1 })
	for _, r := range f.api.Requests() {
		if late := r.ReceivedAt.Sub(paused); late > time.Second && r.Vorgangsnummer != "9000" {
			f.t.Errorf("a request of the paused kind came %v after the pause", late)
		}
	}
	if out, errs, code := runProgram(f.t, f.natsEnv(), nil, programs.kexrelay, "resume", "--kind", "comments"); code != 0 {
		f.t.Fatalf("resume --kind: exit code %d\n%s%s", code, out, errs)
	}
}
