package integration

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
)

// The API answers 503 for a while with 500 updates queued: nothing is dead-lettered, hardly anything is sent, and
// everything is booked once afterwards.
func TestOutageLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	outage := 12 * time.Second
	if long {
		outage = 30 * time.Second
	}
	s := newSystem(t, simulator.Script{})
	for i := range 500 {
		s.publish(fmt.Sprintf("kex.vorgang.%d.kommentare", 300000+i%100), fmt.Sprintf(`["outage %d"]`, i), nil)
	}
	if err := s.api.StartOutage(simulator.Outage{}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	s.serve("KEXRELAY_RETRY_MAX_INTERVAL=10s")
	eventually(t, outage, "a hold outage on /readyz", func() bool {
		code, reason := s.ready()
		return code == http.StatusOK && reason == "outage"
	})
	held := time.Now()
	eventually(t, outage+5*time.Second, "the outage is over", func() bool { return time.Since(begin) > outage })
	first, probes := 0, 0
	for _, r := range s.api.Requests() {
		if r.ReceivedAt.Before(held.Add(200 * time.Millisecond)) { // those that were on their way
			first++
		} else {
			probes++
		}
	}
	if probes == 0 || probes > 12 {
		t.Errorf("%d probes in %v, want a handful", probes, outage)
	}
	if n := s.count(topology.StreamDeadLetters); n != 0 {
		t.Errorf("%d dead letters during an outage", n)
	}
	if _, metrics := s.get("/metrics"); !strings.Contains(metrics, `kexrelay_hold{reason="outage"} 1`) {
		t.Error("/metrics does not show the hold")
	}
	if out, _, code := runProgram(t, s.natsEnv(), nil, programs.kexrelay, "status"); code != 3 || !strings.Contains(out, "outage") {
		t.Errorf("status: exit code %d (want 3) and:\n%s", code, out)
	}
	s.api.EndOutage()
	s.drained(time.Minute)
	if n := s.checkLedger(nil); n != 500 {
		t.Errorf("%d updates booked, want 500", n)
	}
	if n := s.count(topology.StreamDeadLetters); n != 0 {
		t.Errorf("%d dead letters after the outage", n)
	}
	t.Logf("outage of %v: %d requests until the hold, %d probes in it", outage, first, probes)
}

// A wrong secret from a cold start holds; the right one in the file heals it without a restart.
func TestWrongSecretIsHealedByTheFile(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{})
	secret := filepath.Join(s.dir, "secret")
	if err := os.WriteFile(secret, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		s.publish(fmt.Sprintf("kex.vorgang.%d.kommentare", 1+i), `["x"]`, nil)
	}
	begin := time.Now()
	s.serve("KEX_CLIENT_SECRET=", "KEX_CLIENT_SECRET_FILE="+secret)
	eventually(t, 10*time.Second, "/readyz says 503 unauthorized", func() bool {
		code, reason := s.ready()
		return code == http.StatusServiceUnavailable && reason == "unauthorized"
	})
	watch := 15 * time.Second
	if long {
		watch = 65 * time.Second
	}
	eventually(t, watch+5*time.Second, "some time has passed", func() bool { return time.Since(begin) > watch })
	calls := s.api.Counts().TokenRequests
	if limit := 1 + int(watch/(12*time.Second)); calls == 0 || calls > limit {
		t.Errorf("%d token calls in %v, want at most %d", calls, watch, limit)
	}
	if n := s.api.Counts().Requests; n != 0 {
		t.Errorf("%d requests without a token", n)
	}
	if err := os.WriteFile(secret, []byte(clientSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.drained(30 * time.Second)
	if n := s.count(topology.StreamDeadLetters); n != 0 {
		t.Errorf("%d dead letters", n)
	}
	eventually(t, 5*time.Second, "/readyz says 200", func() bool { code, reason := s.ready(); return code == http.StatusOK && reason == "ok" })
	t.Logf("%d token calls with the wrong secret in %v", calls, watch)
}

// One 429 with Retry-After: 5 stops all requests for 5 s and spends no budget.
func TestRetryAfterIsKeptByEverybody(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{
		Sequence: []simulator.Step{{Answer: simulator.Answer{Status: 429, RetryAfter: 5 * time.Second}}},
	})
	s.serve("KEXRELAY_CONCURRENCY=4")
	s.publish("kex.vorgang.1.kommentare", `["first"]`, nil)
	eventually(t, 10*time.Second, "a hold throttled", func() bool { _, reason := s.ready(); return reason == "throttled" })
	for i := range 50 {
		s.publish(fmt.Sprintf("kex.vorgang.%d.kommentare", 2+i), `["x"]`, nil)
	}
	s.drained(30 * time.Second)
	requests := s.api.Requests()
	for i, r := range requests[1:] {
		if gap := r.ReceivedAt.Sub(requests[0].AnsweredAt); gap < 5*time.Second {
			t.Fatalf("request %d came %v after the 429", i+2, gap)
		}
	}
	t.Logf("the next request came %v after the 429", requests[1].ReceivedAt.Sub(requests[0].AnsweredAt))
	if n := s.count(topology.StreamDeadLetters); n != 0 {
		t.Errorf("%d dead letters", n)
	}
}

// One foreign Vorgang among good ones is one dead letter; 403 for all is a hold after at most five.
func TestForbiddenForOneAndForAll(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{
		Vorgaenge: []simulator.VorgangRule{{Match: []string{"403403"}, Always: &simulator.Answer{Status: 403}}},
	})
	s.serve("KEXRELAY_RETRY_MAX_INTERVAL=2s")
	for i := range 100 {
		vorgang := strconv.Itoa(1 + i)
		if i == 50 {
			vorgang = "403403"
		}
		s.publish("kex.vorgang."+vorgang+".kommentare", `["x"]`, nil)
	}
	s.drained(20 * time.Second)
	if n := s.count(topology.StreamDeadLetters); n != 1 {
		t.Fatalf("%d dead letters, want 1", n)
	}
	if code, reason := s.ready(); code != http.StatusOK || reason != "ok" {
		t.Fatalf("held: %s", reason)
	}
	if err := s.api.SetScript(simulator.Script{Token: simulator.TokenScript{Granted: []string{"other"}}}); err != nil {
		t.Fatal(err)
	}
	s.api.RevokeTokens()
	for i := range 200 {
		s.publish(fmt.Sprintf("kex.vorgang.%d.kommentare", 1000+i), `["x"]`, nil)
	}
	eventually(t, 20*time.Second, "a hold forbidden", func() bool { code, reason := s.ready(); return code == http.StatusOK && reason == "forbidden" })
	if n := s.count(topology.StreamDeadLetters) - 1; n > 5 {
		t.Errorf("%d dead letters before the hold, want at most 5", n)
	}
	if err := s.api.SetScript(simulator.Script{}); err != nil {
		t.Fatal(err)
	}
	s.api.RevokeTokens()
	s.drained(30 * time.Second)
	if n := s.count(topology.StreamDeadLetters) - 1; n > 5 {
		t.Errorf("%d dead letters in all, want at most 5", n)
	}
}

// A throttle is kept by the next process too, also after a kill.
func TestAHoldSurvivesTheProcess(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{
		Sequence: []simulator.Step{{Answer: simulator.Answer{Status: 429, RetryAfter: 9 * time.Second}}},
	})
	s.serve()
	s.publish("kex.vorgang.1.kommentare", `["first"]`, nil)
	eventually(t, 10*time.Second, "status shows the hold", func() bool {
		out, _, _ := runProgram(t, s.natsEnv(), nil, programs.kexrelay, "status")
		return strings.Contains(out, "throttled")
	})
	s.relay.kill()
	s.serve()
	eventually(t, 10*time.Second, "the next process holds as well", func() bool { _, reason := s.ready(); return reason == "throttled" })
	s.drained(30 * time.Second)
	requests := s.api.Requests()
	if gap := requests[1].ReceivedAt.Sub(requests[0].AnsweredAt); gap < 9*time.Second {
		t.Errorf("the next request came %v after the 429, want not within the 9s", gap)
	}
}
