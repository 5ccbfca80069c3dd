package integration

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"kexrelay/internal/topology"
)

// backlogEnv makes the backlog as large as one likes, and the test strict:
//
//	KEXRELAY_BACKLOG=1000000 go test ./integration -run Backlog -v -timeout 30m
const backlogEnv = "KEXRELAY_BACKLOG"

// backlogRun is a relay that works off what has been waiting before it was started.
type backlogRun struct {
	*benchSystem
	relay    *process
	total    int
	readyIn  time.Duration // How long the last start took until /readyz said yes, and until the next update was settled.
	movingIn time.Duration
	statusIn time.Duration // The longest that status has taken.
	restarts int
}

// A backlog is worked off at the speed it began with, in flat memory, and a restart in the middle costs seconds. The
// figures hold for a million comments; the short form shows that none is lost on the way.
func TestABacklogIsWorkedOffEvenly(t *testing.T) {
	r := &backlogRun{benchSystem: newBenchSystem(t), total: 5000}
	strict := os.Getenv(backlogEnv) != ""
	if strict {
		var err error
		r.total, err = strconv.Atoi(os.Getenv(backlogEnv))
		r.must(err)
	}
	r.publish(t.Context(), "kex", benchLoad{kind: "kommentare", size: 200, updates: r.total, lanes: max(100, r.total/20)})
	r.start()
	const slices = 10
	var took [slices]time.Duration
	var rss [slices]int64
	began, used := time.Now(), r.cpu(r.relay)
	for i := range slices {
		r.until(r.total - (i+1)*r.total/slices)
		now := time.Now()
		took[i], rss[i], began = now.Sub(began), r.relay.residentBytes(t), now
		cpu, per := r.cpu(r.relay), 10_000/float64(r.total/slices)
		t.Logf("%3d %% done: %6.0f updates/s; relay: CPU %.2f s per 10k, RSS %.0f MB; nats-server: %.2f s, %.0f MB", 100*(i+1)/slices,
			float64(r.total/slices)/took[i].Seconds(), (cpu[0]-used[0])*per, float64(rss[i])/1e6,
			(cpu[1]-used[1])*per, float64(r.nats.residentBytes(t))/1e6)
		used = cpu
		r.status()
		r.apiTakes(0) // Or the simulator's memory would grow with what it remembers.
		if i == slices/2-1 {
			if code := r.relay.terminate(t, 40*time.Second); code != 0 {
				t.Fatalf("the relay ended with code %d\n%s", code, r.relay.printed(30))
			}
			r.start()
			began, used = time.Now(), r.cpu(r.relay)
			t.Logf("a restart: ready after %v, moving after %v", r.readyIn.Round(time.Millisecond), r.movingIn.Round(time.Millisecond))
		}
	}
	r.awaitEmpty(topology.StreamUpdates, r.relay, time.Minute)
	if n := r.waiting(topology.StreamResults); n != r.total {
		t.Errorf("%d results of %d updates", n, r.total)
	}
	t.Logf("status took %v at most", r.statusIn.Round(time.Millisecond))
	if !strict {
		return
	}
	if first, last := took[0], took[slices-1]; last > first*11/10 {
		t.Errorf("the first tenth took %v, the last %v", first, last)
	}
	if r.readyIn > 5*time.Second || r.movingIn > 5*time.Second || r.statusIn > time.Second {
		t.Errorf("ready after %v, moving after %v, status within %v", r.readyIn, r.movingIn, r.statusIn)
	}
	for i := range rss {
		if rss[i] > 150e6 {
			t.Errorf("RSS %d MB", rss[i]/1e6)
		}
	}
}

// start starts the relay and waits until it is ready and the first updates have gone.
func (r *backlogRun) start() {
	r.tb.Helper()
	out, err := os.Create(filepath.Join(r.dir, "output-"+strconv.Itoa(r.restarts)))
	r.must(err)
	defer out.Close() //nolint:errcheck // The process has its own.
	r.restarts++
	addr := "127.0.0.1:" + strconv.Itoa(freePort(r.tb))
	before, began := r.waiting(topology.StreamUpdates), time.Now()
	c := relayAs(relayName, programs.kexrelay)
	r.relay = launchInto(r.tb, c.name, out, append(c.env(r.benchSystem, 64), "KEXRELAY_HTTP_ADDR="+addr), c.program, c.args...)
	eventually(r.tb, time.Minute, "the relay is ready", func() bool {
		request, err := http.NewRequestWithContext(r.tb.Context(), http.MethodGet, "http://"+addr+"/readyz", http.NoBody)
		r.must(err)
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return false
		}
		_ = answer.Body.Close() // The status is enough.
		return answer.StatusCode == http.StatusOK
	})
	r.readyIn = time.Since(began)
	r.until(max(0, before-1)) // Perhaps all went before it was stopped.
	r.movingIn = time.Since(began)
}

// until waits until at most so many updates are left.
func (r *backlogRun) until(left int) {
	r.tb.Helper()
	eventually(r.tb, 10*time.Minute, fmt.Sprintf("at most %d updates are left", left), func() bool {
		return !running(r.relay) || r.waiting(topology.StreamUpdates) <= left
	})
	if !running(r.relay) {
		r.tb.Fatalf("the relay ended: %v\n%s", r.relay.err, r.relay.printed(30))
	}
}

// status asks as an operator does.
func (r *backlogRun) status() {
	r.tb.Helper()
	began := time.Now()
	out, errs, code := runProgram(r.tb, []string{"NATS_URL=" + r.natsURL}, nil, programs.kexrelay, "status", "--json")
	r.statusIn = max(r.statusIn, time.Since(began))
	if code != 0 {
		r.tb.Errorf("status: exit code %d\n%s%s", code, out, errs)
	}
}

// Behind thousands of updates of one Vorgang, which need minutes, those of others go through at once.
func TestABurstOfOneVorgangHoldsUpNobodyElse(t *testing.T) {
	const burst = 2000
	s := newBenchSystem(t)
	s.apiTakes(200 * time.Millisecond)
	others := benchLoad{kind: "kommentare", size: 200, updates: 100, lanes: 100}
	c := relayAs(relayName, programs.kexrelay)
	p := s.start(c, 16, benchLoad{kind: "kommentare", size: 200, updates: 16, lanes: 16})
	s.publish(t.Context(), c.prefix, others.burst(burst))
	s.pace(c, benchCase{Rate: 50, load: others})
	if left := s.waiting(c.stream); left < burst/2 {
		t.Errorf("the others were through when %d of the %d in front were left: they waited for them", left, burst)
	}
	if code := p.terminate(t, 40*time.Second); code != 0 {
		t.Errorf("the relay ended with code %d\n%s", code, p.printed(30))
	}
}
