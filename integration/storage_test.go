package integration

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
)

// A stream or bucket that takes nothing more is a hold that names it; the update stays, nothing is booked twice, and
// everything goes on when there is room again.
func TestAFullStreamHoldsAndGoesOn(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{
		Vorgaenge: []simulator.VorgangRule{{Match: []string{"410"}, Always: &simulator.Answer{Status: 410}}},
	})
	s.serve("KEXRELAY_RETRY_MAX_INTERVAL=1s")
	s.publish("kex.vorgang.1.kommentare", `["before"]`, nil)
	s.publish("kex.vorgang.410.kommentare", `["dead"]`, nil)
	s.drained(20 * time.Second)
	booked := 1
	for _, full := range []struct{ stream, vorgang, subject string }{
		{topology.StreamResults, "2", "kex.result.delivered.2.kommentare"},
		{topology.StreamDeadLetters, "410", "kex.deadletter.gone.410.kommentare"},
		{"KV_" + topology.BucketLedger, "3", ""},
	} {
		stream, err := s.js.Stream(t.Context(), full.stream)
		if err != nil {
			t.Fatal(err)
		}
		config := stream.CachedInfo().Config
		if full.subject == "" { // A record in the place of another one needs no room.
			if err := stream.Purge(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		small := config
		small.MaxBytes, small.Discard = 1, jetstream.DiscardNew
		if _, err := s.js.UpdateStream(t.Context(), small); err != nil {
			t.Fatal(err)
		}
		s.publish("kex.vorgang."+full.vorgang+".kommentare", fmt.Sprintf(`["%s is full"]`, full.stream), nil)
		s.awaitReady(http.StatusServiceUnavailable, "storage")
		if _, body := s.get("/readyz"); !strings.Contains(body, full.subject) || !strings.Contains(body, "make room") {
			t.Errorf("%s: /readyz says %s", full.stream, body)
		}
		if n := s.count(topology.StreamUpdates); n != 1 {
			t.Errorf("%s: %d updates are in the stream, want the one that waits", full.stream, n)
		}
		if _, err := s.js.UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		s.drained(30 * time.Second)
		s.awaitReady(http.StatusOK, "ok")
		if full.vorgang != "410" {
			booked++
		}
		if n := s.checkLedger(nil); n != booked {
			t.Errorf("%s: %d booked, want %d", full.stream, n, booked)
		}
	}
	if n := s.count(topology.StreamDeadLetters); n != 2 {
		t.Errorf("%d dead letters, want 2", n)
	}
}

// A right that the server takes away from the relay is named by /readyz and in the log, with the subject and what to do.
func TestAMissingRightIsNamed(t *testing.T) {
	t.Parallel()
	for name, right := range map[string]struct{ deny, subject string }{
		"results":          {"kex.result.>", "kex.result.delivered.5.kommentare"},
		"reading updates":  {"$JS.API.STREAM.MSG.GET.KEX_UPDATES", "$JS.API.STREAM.MSG.GET.KEX_UPDATES"},
		"writing a ledger": {"$KV.KEX_LEDGER.>", "$KV.KEX_LEDGER."},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSystem(t, simulator.Script{})
			s.permit("")
			if err := s.api.StartOutage(simulator.Outage{}); err != nil {
				t.Fatal(err)
			}
			s.serve("KEXRELAY_RETRY_MAX_INTERVAL=1s", "NATS_USER=relay", "NATS_PASSWORD=r")
			s.awaitReady(http.StatusOK, "ok")
			for i := range 12 { // More than are kept in memory of one Vorgang.
				s.publish("kex.vorgang.5.kommentare", fmt.Sprintf(`["%d"]`, i), nil)
			}
			eventually(t, 20*time.Second, "all are held", func() bool {
				_, metrics := s.get("/metrics")
				return strings.Contains(metrics, "kexrelay_held_updates 12")
			})
			s.permit(right.deny)
			s.api.EndOutage()
			eventually(t, 60*time.Second, "a hold that names the subject", func() bool {
				code, body := s.get("/readyz")
				return code == http.StatusServiceUnavailable && strings.Contains(body, `"storage"`) && strings.Contains(body, right.subject)
			})
			s.awaitLogged("nats refused a permission")
			if out, _, code := runProgram(t, s.natsEnv(), nil, programs.kexrelay, "status"); code != 3 || !strings.Contains(out, right.subject) {
				t.Errorf("status: exit code %d\n%s", code, out)
			}
			s.permit("")
			s.drained(60 * time.Second)
			s.wantBooked(12)
		})
	}
}

// permit gives the running server users: whoever gives no name may do everything, relay not what is denied.
func (s *system) permit(deny string) {
	s.t.Helper()
	text, err := os.ReadFile(s.natsConf)
	if err != nil {
		s.t.Fatal(err)
	}
	plain, _, again := strings.Cut(string(text), "authorization {")
	denied := ""
	if deny != "" {
		denied = fmt.Sprintf(", permissions: {publish: {allow: \">\", deny: [%q]}}", deny)
	}
	plain += fmt.Sprintf("authorization { users: [ {user: all, password: a}, {user: relay, password: r%s} ] }\nno_auth_user: all\n", denied)
	if err := os.WriteFile(s.natsConf, []byte(plain), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if !again { // Who need not give a name cannot be changed while it runs.
		s.nats.terminate(s.t, 20*time.Second)
		s.nats = startProcess(s.t, "nats-server", nil, programs.natsServer, "--config", s.natsConf)
		s.awaitServer()
		return
	}
	const reloaded = "Reloaded server configuration"
	before := strings.Count(s.nats.output.String(), reloaded)
	if err := s.nats.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, 10*time.Second, "the server has its new users", func() bool {
		return strings.Count(s.nats.output.String(), reloaded) > before
	})
}
