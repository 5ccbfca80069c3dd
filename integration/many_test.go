//go:build integration

package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/fault"
	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// causes are six causes of dead letters, as the relay and the API word them: with times, numbers and IDs in the text.
func causes() []struct {
	reason fault.Reason
	status int
	detail string
} {
	return []struct {
		reason fault.Reason
		status int
		detail string
	}{
		{fault.Gone, 410, `the Vorgang is deleted: {"timestamp":%q,"status":410,"error":"Gone","path":"/kreditsmart/kex/vorgang/%d/kommentare","traceId":"sys%d"}`},
		{fault.BadRequest, 400, `{"timestamp":%q,"message":"Feld filename fehlt","path":"/kreditsmart/kex/vorgang/%d/dokument","id":%d}`},
		{fault.Forbidden, 403, `at %s: Partner ABC%d has no right to Vorgang %d`},
		{fault.Exhausted, 503, `retried for 15m0s (KEXRELAY_RETRY_BUDGET) while others got through; the last answer: at %s upstream 10.0.0.%d, request %d`},
		{fault.Exhausted, 0, `the request did not reach the API: at %s dial tcp 10.1.2.%d:443: connect: connection refused (%d)`},
		{fault.Rejected, 422, `%s unprocessable: document %d of %d is password protected`},
	}
}

// fillDeadLetters writes the dead letters numbered from..to, in turn of the six causes, as the relay does.
func fillDeadLetters(t *testing.T, s *system, from, to int) {
	t.Helper()
	js, err := jetstream.New(s.nc, jetstream.WithPublishAsyncMaxPending(4000))
	if err != nil {
		t.Fatal(err)
	}
	all := causes()
	for n := from; n <= to; n++ {
		cause := all[n%len(all)]
		at := time.Now().UTC().Add(-time.Duration(n) * time.Millisecond)
		traceID, number := fmt.Sprintf("sys%08d", n), strconv.Itoa(n)
		m := nats.NewMsg(topology.DeadLetterSubject(cause.reason, strconv.Itoa(n%5000), update.Comments))
		m.Data = []byte(`["Testkommentar"]`)
		for name, value := range map[string]string{
			jetstream.MsgIDHeader:         "deadletter-" + number + "-" + strconv.FormatInt(at.UnixNano(), 10),
			update.HeaderTraceID:          traceID,
			topology.HeaderReason:         string(cause.reason),
			topology.HeaderStatus:         strconv.Itoa(cause.status),
			topology.HeaderDetail:         fmt.Sprintf(cause.detail, at.Format(time.RFC3339Nano), n%250, n),
			topology.HeaderAttempts:       "2",
			topology.HeaderAnswers:        "1 " + at.Format(time.RFC3339Nano) + " 35 503 outage; 2 " + at.Format(time.RFC3339Nano) + " 40 410 gone",
			topology.HeaderUpdateID:       "crm-" + number,
			topology.HeaderUpdateSeq:      number,
			topology.HeaderUpdateAt:       at.Format(time.RFC3339Nano),
			topology.HeaderUpdateSubject:  "kex.vorgang." + strconv.Itoa(n%5000) + ".kommentare",
			topology.HeaderRequestID:      traceID + "-2",
			topology.HeaderFirstAttemptAt: at.Format(time.RFC3339Nano),
			topology.HeaderDeadLetteredAt: at.Format(time.RFC3339Nano),
			topology.HeaderReplays:        "0",
		} {
			m.Header[name] = []string{value}
		}
		if _, err := js.PublishMsgAsync(m, jetstream.WithStallWait(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(time.Minute):
		t.Fatal("the dead letters were not acknowledged within a minute")
	}
}

// measured is what a command took.
type measured struct {
	lines     int
	wall, cpu time.Duration
	peak      int64 // Bytes of resident memory.
}

func (m measured) String() string {
	return fmt.Sprintf("%d lines in %.2f s, CPU %.2f s, peak resident memory %.1f MB", m.lines, m.wall.Seconds(), m.cpu.Seconds(), float64(m.peak)/1e6)
}

// lineCount counts lines and keeps none.
type lineCount int

func (n *lineCount) Write(p []byte) (int, error) {
	*n += lineCount(bytes.Count(p, []byte("\n")))
	return len(p), nil
}

// measure runs the program to its end.
func (s *system) measure(args ...string) measured {
	s.t.Helper()
	var lines lineCount
	var errs bytes.Buffer
	cmd := exec.CommandContext(s.t.Context(), programs.kexrelay, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.t.TempDir()}, s.natsEnv()...)
	cmd.Stdout, cmd.Stderr = &lines, &errs
	began := time.Now()
	peak, err := runPeak(cmd)
	if err != nil {
		s.t.Fatalf("%v: %v\n%s", args, err, &errs)
	}
	m := measured{
		lines: int(lines), wall: time.Since(began), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), peak: peak,
	}
	s.t.Logf("%v: %v", args, m)
	return m
}

// commandMemory is what a command of an operator may take, whatever there is.
const commandMemory = 100_000_000

// Times are generous: the machine may have other work. What was measured is in the log.
func TestManyDeadLettersAreCountedAndListedInSecondsAndLittleMemory(t *testing.T) {
	const few, many = 10_000, 100_000
	s := newSystem(t, simulator.Script{})
	fillDeadLetters(t, s, 1, few)
	if m := s.measure("deadletters", "list", "--group", "-o", "json"); m.lines != len(causes()) || m.cpu > 2*time.Second {
		t.Errorf("groups of %d: %v, want %d lines", few, m, len(causes()))
	}
	fillDeadLetters(t, s, few+1, many)
	gone := 0
	for n := 1; n <= many; n++ {
		if causes()[n%len(causes())].reason == fault.Gone {
			gone++
		}
	}
	if m := s.measure("deadletters", "list", "--reason", "gone", "-o", "json"); m.lines != gone || m.peak > commandMemory {
		t.Errorf("the gone among %d: %v, want %d lines and less than %d bytes", many, m, gone, commandMemory)
	}
	if m := s.measure("deadletters", "list", "-o", "json"); m.lines != many || m.peak > commandMemory {
		t.Errorf("all %d: %v, want less than %d bytes", many, m, commandMemory)
	}
	if m := s.measure("deadletters", "list", "--group", "-o", "json"); m.lines != len(causes()) || m.peak > commandMemory {
		t.Errorf("groups of %d: %v", many, m)
	}
}

// runPeak runs a command to its end and gives the most resident memory it was seen with. What the kernel says of a
// process that has ended is no use: it counts what the one that started it had.
func runPeak(cmd *exec.Cmd) (peak int64, err error) {
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		if now, err := readPeak(cmd.Process.Pid); err == nil {
			peak = now
		}
		select {
		case err := <-ended:
			return peak, err
		case <-time.After(2 * time.Millisecond):
		}
	}
}
