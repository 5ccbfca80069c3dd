package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// sixCauses refuses every update for one of six causes: by the first digit of the Vorgang and the kind, so that each
// Vorgang has dead letters of two groups.
func sixCauses() simulator.Script {
	var script simulator.Script
	for i, status := range []int{400, 404, 410, 409, 422, 413} {
		kind := []update.Kind{update.Document, update.Comments}[i%2]
		script.Vorgaenge = append(script.Vorgaenge, simulator.VorgangRule{
			Match: []string{strconv.Itoa(i/2+1) + "*"}, Kind: string(kind), Always: &simulator.Answer{Status: status},
		})
	}
	return script
}

// deadLetters is a system with dead letters of six causes.
type deadLetters struct {
	*system

	published int
}

// newDeadLetters publishes updates and waits until all are dead letters. The n-th has the trace ID n<n> in eight digits.
func newDeadLetters(t *testing.T, n int) *deadLetters {
	t.Helper()
	d := &deadLetters{system: newSystem(t, sixCauses())}
	d.serve("KEXRELAY_LOG_LEVEL=warn")
	d.fill(n)
	return d
}

func (d *deadLetters) fill(n int) {
	d.t.Helper()
	vorgaenge := max(n/10, 6)
	for range n {
		d.published++
		v := d.published % vorgaenge
		m := nats.NewMsg(fmt.Sprintf("kex.vorgang.%d%05d.kommentare", v%3+1, v))
		m.Data = []byte(`["xyxyxyxy"]`) // What the answers repeat of it is cut out of their text, which makes a group.
		if (d.published/vorgaenge)%2 == 0 {
			m.Subject = strings.Replace(m.Subject, "kommentare", "dokument", 1)
			m.Data = []byte(`{"filename":"a.pdf","base64Content":"QQ=="}`)
		}
		m.Header["X-TraceId"] = []string{fmt.Sprintf("n%08d", d.published)}
		if _, err := d.js.PublishMsgAsync(m); err != nil {
			d.t.Fatal(err)
		}
		if d.published%500 == 0 {
			d.acknowledged()
		}
	}
	d.acknowledged()
	d.drained(5 * time.Minute)
	if got := d.count(topology.StreamDeadLetters); got != n {
		d.t.Fatalf("%d dead letters, want %d", got, n)
	}
}

// acknowledged waits until all that was published is.
func (d *deadLetters) acknowledged() {
	d.t.Helper()
	select {
	case <-d.js.PublishAsyncComplete():
	case <-time.After(time.Minute):
		d.t.Fatal("not all updates were acknowledged")
	}
}

// cure makes the API take everything.
func (d *deadLetters) cure() {
	d.t.Helper()
	if err := d.api.SetScript(simulator.Script{}); err != nil {
		d.t.Fatal(err)
	}
}

// replay runs the command to its end.
func (d *deadLetters) replay(want int, args ...string) (stdout string) {
	d.t.Helper()
	stdout, stderr, code := runProgram(d.t, d.natsEnv(), nil, programs.kexrelay, append([]string{"deadletters", "replay"}, args...)...)
	if code != want {
		d.t.Fatalf("replay %v: exit code %d, want %d\n%s%s", args, code, want, tail(stdout, 20), stderr)
	}
	d.t.Logf("replay %v: %s", args, strings.TrimSpace(stderr))
	return stdout
}

// start runs the command in the background.
func (d *deadLetters) start(args ...string) *process {
	d.t.Helper()
	return startProcess(d.t, "replay", d.natsEnv(), programs.kexrelay, append([]string{"deadletters", "replay"}, args...)...)
}

// sequences is where every stream ends.
func (d *deadLetters) sequences() map[string]uint64 {
	d.t.Helper()
	all := map[string]uint64{}
	streams := d.js.ListStreams(d.t.Context())
	for info := range streams.Info() {
		all[info.Config.Name] = info.State.LastSeq
	}
	if err := streams.Err(); err != nil {
		d.t.Fatal(err)
	}
	return all
}

// number is the update that a request or a booking was made for.
func number(t *testing.T, traceID string) int {
	t.Helper()
	first, _, _ := strings.Cut(traceID, "-")
	n, err := strconv.Atoi(strings.TrimPrefix(first, "n"))
	if err != nil {
		t.Fatalf("trace ID %q", traceID)
	}
	return n
}

// wantBookedOnce checks that each update of a range was booked exactly once, and each Vorgang's in the order they were
// published, except some.
func (d *deadLetters) wantBookedOnce(from, to int, wanted func(simulator.Booking) bool, except ...int) {
	d.t.Helper()
	times := map[int]int{}
	last := map[string]int{}
	for _, booking := range d.api.Ledger() {
		n := number(d.t, booking.TraceID)
		if n < from || n > to || !wanted(booking) {
			continue
		}
		times[n]++
		if slices.Contains(except, n) {
			continue
		}
		if n <= last[booking.Vorgangsnummer] {
			d.t.Errorf("Vorgang %s: update %d was booked after %d", booking.Vorgangsnummer, n, last[booking.Vorgangsnummer])
		}
		last[booking.Vorgangsnummer] = n
	}
	for n, booked := range times {
		if booked != 1 {
			d.t.Errorf("update %d was booked %d times", n, booked)
		}
	}
}

func anyBooking(simulator.Booking) bool { return true }

// wantAllBooked checks that every update was booked, no dead letter is left, and each was replayed once.
func (d *deadLetters) wantAllBooked() {
	d.t.Helper()
	if booked := d.api.Counts().Booked; booked != d.published {
		d.t.Errorf("%d booked, want %d", booked, d.published)
	}
	if left := d.count(topology.StreamDeadLetters); left != 0 {
		d.t.Errorf("%d dead letters are left", left)
	}
	replayed := map[uint64]int{}
	for _, event := range d.results() {
		if event.Data.Outcome == update.Replayed {
			replayed[event.Data.ReplayOf]++
		}
	}
	for seq, times := range replayed {
		if times != 1 {
			d.t.Errorf("dead letter %d was replayed %d times", seq, times)
		}
	}
}

// many is how many dead letters a test has.
func many(few int) int {
	if long {
		return 10_000
	}
	return few
}

// A dry run changes nothing; a bad canary is the only one that is sent; after a good one all are, in order per Vorgang;
// killed in the middle and repeated, each is sent exactly once.
func TestReplayOfDeadLettersOfSixCauses(t *testing.T) {
	n := many(600)
	d := newDeadLetters(t, n)
	// A relay keeps renewing its leases, and may write its ledger's last records after the last result.
	if code := d.relay.terminate(t, time.Minute); code != 0 {
		t.Fatalf("serve: exit code %d", code)
	}

	before := d.sequences()
	begin := time.Now()
	var plan struct {
		Send   int `json:"send"`
		Groups []struct {
			Send   int    `json:"send"`
			Reason string `json:"reason"`
		} `json:"groups"`
	}
	if err := json.Unmarshal([]byte(d.replay(0, "--all", "--dry-run", "--json")), &plan); err != nil {
		t.Fatal(err)
	}
	t.Logf("the plan of %d took %v", n, time.Since(begin))
	if after := d.sequences(); !maps.Equal(before, after) {
		t.Errorf("a dry run changed a stream: %v, before %v", after, before)
	}
	if len(plan.Groups) != 6 || plan.Send != n {
		t.Fatalf("plan %+v, want 6 groups and %d", plan, n)
	}

	d.serve("KEXRELAY_LOG_LEVEL=warn")
	requests := d.api.Counts().Requests
	d.replay(4, "--reason", "gone", "--yes")
	if sent := d.api.Counts().Requests - requests; sent != 1 {
		t.Errorf("%d sent of a group whose canary is bad, want 1", sent)
	}
	canary := number(t, d.api.Requests()[requests].TraceID)

	d.cure()
	d.replay(0, "--reason", "gone", "--yes", "--rate", "0")
	gone := d.api.Counts().Booked
	if gone == 0 || gone >= n {
		t.Fatalf("%d booked", gone)
	}
	// The canary is a new dead letter, and so the last of its Vorgang.
	d.wantBookedOnce(1, n, anyBooking, canary)

	for round := 1; ; round++ {
		run := d.start("--all", "--yes", "--rate", strconv.Itoa(n/5))
		wanted := min(gone+round*n/5, n)
		eventually(t, time.Minute, "some are booked", func() bool { return d.api.Counts().Booked >= wanted })
		if wanted == n {
			if code := run.wait(t, time.Minute); code != 0 {
				t.Errorf("exit code %d\n%s", code, tail(run.output.String(), 10))
			}
			break
		}
		run.kill()
	}
	d.drained(time.Minute)
	comments := func(b simulator.Booking) bool { return !strings.HasPrefix(b.Vorgangsnummer, "2") }
	d.wantBookedOnce(1, n, comments)
	d.wantAllBooked()
}

// Two at once agree on the canaries, and send each dead letter exactly once.
func TestTwoReplaysAtOnceSendEachOnce(t *testing.T) {
	n := many(400)
	d := newDeadLetters(t, n)
	both := func(want int) {
		t.Helper()
		var all sync.WaitGroup
		for range 2 {
			run := d.start("--all", "--yes", "--rate", "0", "--max-failures", "0")
			all.Go(func() {
				if code := run.wait(t, 5*time.Minute); code != want {
					t.Errorf("exit code %d, want %d\n%s", code, want, tail(run.output.String(), 10))
				}
			})
		}
		all.Wait()
	}
	// Slow enough that the second one begins while the first one waits for its canaries.
	slow := sixCauses()
	slow.Latency = &simulator.Latency{Fixed: 3*time.Second + time.Duration(n)*time.Millisecond/2} // A plan of many takes its time.
	if err := d.api.SetScript(slow); err != nil {
		t.Fatal(err)
	}
	requests := d.api.Counts().Requests
	both(4)
	if sent := d.api.Counts().Requests - requests; sent != 6 {
		t.Errorf("%d sent of six groups with bad canaries, want 6", sent)
	}
	var canaries []int
	for _, request := range d.api.Requests()[requests:] {
		canaries = append(canaries, number(t, request.TraceID))
	}
	d.cure()
	both(0)
	d.drained(time.Minute)
	d.wantBookedOnce(1, n, anyBooking, canaries...)
	d.wantAllBooked()
}

// NATS dies in the middle of a replay: it goes on by itself, or the same command does, and each is sent exactly once.
func TestAReplayOutlivesNATS(t *testing.T) {
	const n = 400
	d := newDeadLetters(t, n)
	d.cure()
	run := d.start("--all", "--yes", "--rate", strconv.Itoa(n/4))
	eventually(t, time.Minute, "a quarter is booked", func() bool { return d.api.Counts().Booked >= n/4 })
	d.nats.kill()
	d.nats = startProcess(t, "nats-server", nil, programs.natsServer, "--config", d.natsConf)
	code := run.wait(t, 2*time.Minute)
	t.Logf("exit code %d\n%s", code, tail(run.output.String(), 5))
	if code != 0 {
		d.replay(0, "--all", "--yes", "--rate", "0")
	}
	d.drained(2 * time.Minute)
	d.wantBookedOnce(1, n, anyBooking)
	d.wantAllBooked()
}
