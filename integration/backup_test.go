package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// embedded starts a relay that is its own NATS, with its streams in dir.
func (s *system) embedded(dir string, more ...string) *process {
	s.t.Helper()
	addr := strings.TrimPrefix(s.natsURL, "nats://")
	health := fmt.Sprintf("127.0.0.1:%d", freePort(s.t))
	s.health = "http://" + health
	p := startProcess(s.t, "kexrelay serve --embedded", []string{
		"KEX_BASE_URL=" + s.apiURL.BaseURL(), "KEX_TOKEN_URL=" + s.apiURL.TokenURL(),
		"KEX_CLIENT_ID=" + clientID, "KEX_CLIENT_SECRET=" + clientSecret, "KEX_REQUEST_TIMEOUT=" + chaosTimeout.String(),
		"KEXRELAY_HTTP_ADDR=" + health, "KEXRELAY_LOG_FORMAT=json",
	}, programs.kexrelay, append([]string{"serve", "--embedded", "--embedded-dir", dir, "--embedded-addr", addr}, more...)...)
	if len(more) > 0 {
		return p
	}
	eventually(s.t, 30*time.Second, "the relay is ready", func() bool { code, _ := s.ready(); return code == http.StatusOK })
	return p
}

// kexrelay runs a command on the machine.
func (s *system) kexrelay(args ...string) string {
	s.t.Helper()
	out, errs, code := runProgram(s.t, s.natsEnv(), nil, programs.kexrelay, args...)
	if code != 0 {
		s.t.Fatalf("kexrelay %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// copyTree copies a directory as the README's backup does.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copying %s: %v\n%s", from, err, out)
	}
}

// A single machine without NATS: the relay is killed at work and loses, repeats and reorders nothing. Its backup, made
// behind a pause, comes back on another machine with all that waited, and sends none of it until somebody resumes.
func TestAnEmbeddedServerIsBackedUpAndRestored(t *testing.T) {
	t.Parallel()
	s := &system{t: t, dir: t.TempDir(), natsURL: fmt.Sprintf("nats://127.0.0.1:%d", freePort(t))}
	c := &chaos{system: s}
	c.startAPI(simulator.Script{
		Latency:   simulator.Fixed(50 * time.Millisecond),
		Vorgaenge: []simulator.VorgangRule{{Match: []string{"410"}, Always: &simulator.Answer{Status: http.StatusGone}}},
	})
	data, backup := filepath.Join(s.dir, "data"), filepath.Join(s.dir, "backup")
	relay := s.embedded(data)
	s.connect()
	const vorgaenge, each = 10, 6
	for i := range vorgaenge * each {
		s.publish(fmt.Sprintf("kex.vorgang.%d.kommentare", 1+i%vorgaenge), fmt.Sprintf(`["%d"]`, i), map[string]string{"Nats-Msg-Id": fmt.Sprint("u", i)})
		if i == vorgaenge {
			relay.kill()
			relay = s.embedded(data)
			s.awaitServer()
		}
	}
	s.publish("kex.vorgang.410.kommentare", `["gone"]`, nil)
	s.drained(time.Minute)
	if dead, results := s.count(topology.StreamDeadLetters), s.count(topology.StreamResults); dead != 1 || results != vorgaenge*each+1 {
		t.Errorf("%d dead letters and %d results, want 1 and %d", dead, results, vorgaenge*each+1)
	}
	s.wantInOrderOnce(vorgaenge * each)

	// The backup, as the README has it.
	s.kexrelay("pause", "--reason", "backup")
	for i := range 5 {
		s.publish("kex.vorgang.77.kommentare", fmt.Sprintf(`["waits %d"]`, i), map[string]string{"Nats-Msg-Id": fmt.Sprint("w", i)})
	}
	if code := relay.terminate(t, 40*time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	copyTree(t, data, backup)
	relay = s.embedded(data)
	s.kexrelay("resume")
	s.drained(time.Minute)
	before := s.api.Counts().Booked
	if code := relay.terminate(t, 40*time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if err := os.RemoveAll(data); err != nil { // The machine is lost.
		t.Fatal(err)
	}

	relay = s.embedded(backup)
	s.awaitServer()
	eventually(t, 20*time.Second, "the relay is paused", func() bool { _, reason := s.ready(); return reason == "operator" })
	if ack := s.publish("kex.vorgang.77.kommentare", `["waits 0"]`, map[string]string{"Nats-Msg-Id": "w0"}); !ack.Duplicate {
		t.Error("what waits in the backup was stored a second time")
	}
	if dead, waiting := s.count(topology.StreamDeadLetters), s.count(topology.StreamUpdates); dead != 1 || waiting != 5 {
		t.Errorf("%d dead letters and %d updates came back, want 1 and 5", dead, waiting)
	}
	if code := relay.terminate(t, 40*time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if sent := s.api.Counts().Booked - before; sent != 0 {
		t.Fatalf("%d updates were sent out of a backup that nobody had looked at", sent)
	}

	// What had been sent after the backup is taken back while no relay runs.
	streams := s.embedded(backup, "--streams-only")
	s.awaitServer()
	for line := range strings.Lines(s.kexrelay("updates", "list", "--json")) {
		var waiting struct {
			Seq uint64 `json:"seq"`
		}
		if err := json.Unmarshal([]byte(line), &waiting); err != nil {
			t.Fatal(err)
		}
		s.kexrelay("updates", "cancel", strconv.FormatUint(waiting.Seq, 10), "--reason", "sent before the restore", "--yes")
	}
	if code := streams.terminate(t, 40*time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	s.embedded(backup)
	s.awaitServer()
	s.publish("kex.vorgang.77.kommentare", `["new"]`, nil)
	s.kexrelay("resume")
	s.drained(time.Minute)
	if sent := s.api.Counts().Booked - before; sent != 1 {
		t.Errorf("%d updates were sent after the restore, want the new one alone", sent)
	}
	events := s.results()
	if last := events[len(events)-1].Data; last.Vorgangsnummer != "77" || last.Outcome != update.Delivered {
		t.Errorf("last result %+v", last)
	}
}

// wantInOrderOnce holds the bookings against updates that were numbered over all Vorgänge.
func (s *system) wantInOrderOnce(updates int) {
	s.t.Helper()
	flagged := 0
	for _, e := range s.results() {
		if e.Data.PossibleDuplicate {
			flagged++
		}
	}
	if booked := s.api.Counts().Booked; booked < updates || booked > updates+flagged {
		s.t.Errorf("%d bookings of %d updates, %d of them flagged", booked, updates, flagged)
	}
	last := make(map[string]uint64)
	for _, e := range s.results() {
		d := e.Data
		if d.UpdateSeq < last[d.Vorgangsnummer] && !d.PossibleDuplicate {
			s.t.Errorf("Vorgang %s: update %d ended after %d", d.Vorgangsnummer, d.UpdateSeq, last[d.Vorgangsnummer])
		}
		last[d.Vorgangsnummer] = d.UpdateSeq
	}
}
