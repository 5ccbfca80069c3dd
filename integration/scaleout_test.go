package integration

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"kexrelay/internal/journal"
	"kexrelay/internal/simulator"
)

// evenWithin is how long it may take until all replicas have their share after one came or went.
const evenWithin = 10 * time.Second

// scaleOut is a system with several partitions and replicas.
type scaleOut struct {
	*system
	partitions int
	env        []string
	leases     *journal.Leases
	published  int
}

func newScaleOut(t *testing.T, partitions int, env ...string) *scaleOut {
	t.Helper()
	s := &scaleOut{
		system:     newSystem(t, simulator.Script{Latency: simulator.Fixed(30 * time.Millisecond)}),
		partitions: partitions, env: env,
	}
	if out, errs, code := runProgram(t, s.natsEnv(), nil, programs.kexrelay, "setup", "--partitions", strconv.Itoa(partitions)); code != 0 {
		t.Fatalf("setup: exit code %d\n%s%s", code, out, errs)
	}
	s.leases = journal.NewLeases(s.js, "test", slog.New(slog.DiscardHandler))
	return s
}

func (s *scaleOut) start(n int) *process {
	s.t.Helper()
	return startProcess(s.t, fmt.Sprintf("replica %d", n), append(append(s.natsEnv(),
		"KEX_BASE_URL="+s.apiURL.BaseURL(), "KEX_TOKEN_URL="+s.apiURL.TokenURL(),
		"KEX_CLIENT_ID="+clientID, "KEX_CLIENT_SECRET="+clientSecret, "KEX_REQUEST_TIMEOUT=2s",
		"KEXRELAY_HTTP_ADDR=127.0.0.1:0", "KEXRELAY_LOG_FORMAT=json", "KEXRELAY_SHUTDOWN_TIMEOUT=5s",
	), s.env...), programs.kexrelay, "serve")
}

// publishMore publishes n updates of each of 40 Vorgänge; each Vorgang's comments are numbered.
func (s *scaleOut) publishMore(n int) {
	s.t.Helper()
	for range n {
		s.published++
		for vorgang := range 40 {
			s.publish(fmt.Sprintf("kex.vorgang.%d.kommentare", 1000+vorgang), fmt.Sprintf(`["%d"]`, s.published), nil)
		}
	}
}

// awaitEven waits until each of the replicas holds its share and says how long it took.
func (s *scaleOut) awaitEven(replicas ...*process) {
	s.t.Helper()
	begin := time.Now()
	var has map[int]int
	eventually(s.t, evenWithin, "every replica holds its share", func() bool {
		has = s.held()
		low, high, sum := s.partitions, 0, 0
		for _, r := range replicas {
			n := has[r.cmd.Process.Pid]
			low, high, sum = min(low, n), max(high, n), sum+n
		}
		return sum == s.partitions && high-low <= 1
	})
	s.t.Logf("%d replicas hold their shares after %v: %v", len(replicas), time.Since(begin).Round(time.Millisecond), has)
}

// held is how many partitions each process holds, by PID.
func (s *scaleOut) held() map[int]int {
	s.t.Helper()
	replicas, err := s.leases.Replicas(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	holders, err := s.leases.Holders(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	has := make(map[int]int)
	for _, h := range holders {
		i := slices.IndexFunc(replicas, func(r journal.RegisteredReplica) bool { return r.Process == h.Process })
		if i >= 0 && !h.Released {
			has[replicas[i].PID]++
		}
	}
	return has
}

// checkStatus holds `kexrelay status` against the replicas that run.
func (s *scaleOut) checkStatus(replicas ...*process) {
	s.t.Helper()
	out, errs, code := runProgram(s.t, s.natsEnv(), nil, programs.kexrelay, "status", "--json")
	if code != 0 {
		s.t.Errorf("status: exit code %d\n%s%s", code, out, errs)
	}
	var status struct {
		Partitions []struct{ Holder string }
		Replicas   []struct {
			Process, Host, Version string
			PID                    int
			Partitions             []int
		}
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	held := 0
	for _, r := range status.Replicas {
		running := slices.ContainsFunc(replicas, func(p *process) bool { return p.cmd.Process.Pid == r.PID })
		if !running || r.Host == "" || r.Version == "" {
			s.t.Errorf("replica %+v", r)
		}
		for _, number := range r.Partitions {
			if status.Partitions[number].Holder == r.Process {
				held++
			}
		}
	}
	if len(status.Replicas) != len(replicas) || held != s.partitions {
		s.t.Errorf("%d replicas that hold %d partitions\n%s", len(status.Replicas), held, out)
	}
}

// checkOrder holds the API's ledger against what was published: each Vorgang's comments in their order, all of them.
func (s *scaleOut) checkOrder() {
	s.t.Helper()
	breaks, again := 0, 0
	last := make(map[string]int)
	for _, b := range s.api.Ledger() {
		var n int
		if _, err := fmt.Sscanf(string(b.Body), `["%d"]`, &n); err != nil {
			s.t.Fatal(err)
		}
		switch {
		case n == last[b.Vorgangsnummer]+1:
			last[b.Vorgangsnummer] = n
		case n <= last[b.Vorgangsnummer]:
			again++ // Of a replica that was killed while it sent.
		default:
			breaks++
			s.t.Errorf("Vorgang %s: comment %d was booked after %d", b.Vorgangsnummer, n, last[b.Vorgangsnummer])
		}
	}
	for vorgang, n := range last {
		if n != s.published {
			s.t.Errorf("Vorgang %s: %d of %d comments were booked", vorgang, n, s.published)
		}
	}
	flagged := 0
	for _, e := range s.results() {
		if e.Data.PossibleDuplicate {
			flagged++
		}
	}
	if again > flagged {
		s.t.Errorf("%d updates were booked again, but %d results say so", again, flagged)
	}
	s.t.Logf("%d bookings of %d Vorgänge, %d order breaks, %d booked again", len(s.api.Ledger()), len(last), breaks, again)
}

// mostInASecond is the most requests that came within one second, whenever it begins.
func (s *scaleOut) mostInASecond() int {
	var at []time.Time
	for _, r := range s.api.Requests() {
		at = append(at, r.ReceivedAt)
	}
	slices.SortFunc(at, time.Time.Compare)
	most, first := 0, 0
	for i := range at {
		for at[i].Sub(at[first]) >= time.Second {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// Four partitions and three replicas under load, one of them killed, another one added: everybody has its share within
// seconds each time, every Vorgang's updates are booked in order, and all together keep the rate.
func TestReplicasShareThePartitionsAndTheRate(t *testing.T) {
	s := newScaleOut(t, 4, "KEXRELAY_RATE=20")
	s.publishMore(9)
	requests := 0
	underway := func() {
		t.Helper()
		requests = s.api.Counts().Requests + 30
		eventually(t, 20*time.Second, "all are sending", func() bool { return s.api.Counts().Requests >= requests })
	}
	first := s.start(1)
	s.awaitEven(first)
	underway()
	second, third := s.start(2), s.start(3)
	s.awaitEven(first, second, third)
	s.checkStatus(first, second, third)
	underway()
	first.kill()
	s.awaitEven(second, third)
	underway()
	fourth := s.start(4)
	s.awaitEven(second, third, fourth)
	s.drained(60 * time.Second)
	s.checkOrder()
	all := s.api.Requests()
	took := all[len(all)-1].ReceivedAt.Sub(all[0].ReceivedAt)
	t.Logf("%d requests in %v, at most %d in one second", len(all), took.Round(time.Millisecond), s.mostInASecond())
	if most := s.mostInASecond(); most > 21 {
		t.Errorf("%d requests in one second, want at most 21", most)
	}
}

// A replica that was frozen and goes on takes nobody for dead, and gets its share again; NATS that was away longer than a
// lease lasts is no reason to move partitions.
func TestSharesOutliveAFreezeAndARestartOfNATS(t *testing.T) {
	t.Parallel()
	s := newScaleOut(t, 4)
	first := s.start(1)
	s.awaitEven(first)
	second := s.start(2)
	s.awaitEven(first, second)
	s.publishMore(3)
	s.drained(20 * time.Second)

	if err := second.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.awaitEven(first)
	s.publishMore(3)
	if err := second.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.awaitEven(first, second)
	s.drained(20 * time.Second)
	eventually(t, 20*time.Second, "the second serves its share again: only then it loses its leases and does not give them back", func() bool {
		return strings.Count(second.output.String(), `"msg":"partition taken over"`) >= 2+2
	})

	before := s.holders()
	s.nats.kill()
	eventually(t, 20*time.Second, "all leases are lost", func() bool {
		return strings.Count(first.output.String()+second.output.String(), `"msg":"lease was not renewed in time"`) >= 4+2 // Two by the freeze.
	})
	s.nats = startProcess(t, "nats-server", nil, programs.natsServer, "--config", s.natsConf)
	eventually(t, 20*time.Second, "each has what it had", func() bool {
		return s.nc.IsConnected() && slices.Equal(s.holders(), before)
	})
	s.publishMore(3)
	s.drained(20 * time.Second)
	if after := s.holders(); !slices.Equal(after, before) {
		t.Errorf("held by %v, before by %v", after, before)
	}
	if n := strings.Count(first.output.String()+second.output.String(), `"msg":"partition is handed over`); n > 2+2 {
		t.Errorf("%d partitions were handed over, want the share of the second one, twice\n%s\n%s", n, ownLines(first), ownLines(second))
	}
	s.checkOrder()
}

// ownLines are what a relay logged of everything but its attempts.
func ownLines(p *process) string {
	var own strings.Builder
	own.WriteString(p.name + ":\n")
	for line := range strings.Lines(p.output.String()) {
		if !strings.Contains(line, `"msg":"attempt"`) {
			own.WriteString(line)
		}
	}
	return own.String()
}

// holders are the processes that hold the partitions, by number.
func (s *scaleOut) holders() []string {
	holders, err := s.leases.Holders(s.t.Context())
	if err != nil {
		return nil // NATS is not there yet.
	}
	var all []string
	for _, h := range holders {
		if !h.Released {
			all = append(all, h.Process)
		}
	}
	return all
}
