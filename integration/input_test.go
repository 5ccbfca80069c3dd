package integration

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// Every invalid update becomes a dead letter with a detail that names what is wrong, without a call, and delays
// nobody.
func TestInvalidUpdatesBecomeDeadLettersWithoutACall(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{})
	s.serve()
	comments := `["x"]`
	bad := []struct{ subject, body, field string }{
		{"kex.vorgang.1", comments, "subject"},
		{"kex.vorgang.1.kommentare.more", comments, "subject"},
		{"kex.vorgang.1.unknown", comments, "subject"},
		{"kex.vorgang.*.kommentare", comments, "subject"},
		{"kex.vorgang.Ä.kommentare", comments, "subject"},
		{"kex.vorgang." + strings.Repeat("9", 3500) + ".kommentare", comments, "subject"},
		{"kex.vorgang.1.kommentare", "[\"\xff\xfe\"]", "UTF-8"},
		{"kex.vorgang.1.kommentare", `["never closed`, ""},
		{"kex.vorgang.1.kommentare", `{"a":1}`, ""},
		{"kex.vorgang.1.kommentare", `[1,2]`, ""},
		{"kex.vorgang.1.kommentare", `[]`, ""},
		{"kex.vorgang.1.kommentare", ``, ""},
		{"kex.vorgang.1.kommentare", strings.Repeat("[", 10000) + strings.Repeat("]", 10000), ""},
		{"kex.vorgang.1.kommentare", strings.Repeat("garbage\x00\x01", 100_000), ""},
		{"kex.vorgang.1.dokument", `{"filename":"","base64Content":"QUJD"}`, "filename"},
		{"kex.vorgang.1.dokument", `{"filename":"../../etc/passwd","base64Content":"QUJD"}`, "filename"},
		{"kex.vorgang.1.dokument", `{"filename":"a.pdf","base64Content":"QU!D"}`, "base64Content"},
		{"kex.vorgang.1.dokument", `{"filename":"a.pdf","base64Content":"QU=D"}`, "base64Content"},
		{"kex.vorgang.1.dokument", `{"filename":"a.pdf","base64Content":""}`, "base64Content"},
		{"kex.vorgang.1.dokument", `{"filename":7,"base64Content":"QUJD"}`, "filename"},
		{"kex.vorgang.1.dokument", `{"filename":"a.pdf"}`, "base64Content"},
	}
	want := make(map[uint64]int, len(bad))
	for i, b := range bad {
		want[s.publish(b.subject, b.body, nil).Sequence] = i
	}
	// Headers that would make a dead letter unpublishable, or lie about it, on an invalid update each.
	for name, header := range map[string]map[string]string{
		"60 KB of headers":  {"X-Big": strings.Repeat("h", 60_000)},
		"expected stream":   {"Nats-Expected-Stream": topology.StreamUpdates},
		"a foreign Kex-* ":  {"Kex-Reason": "forged", "Kex-Replay-Of": "1", "Kex-Update-Id": "forged"},
		"a broken trace ID": {"X-TraceId": strings.Repeat("ü", 300)},
	} {
		bad = append(bad, struct{ subject, body, field string }{"kex.vorgang.1.kommentare", "no JSON: " + name, ""})
		want[s.publish("kex.vorgang.1.kommentare", "no JSON: "+name, header).Sequence] = len(bad) - 1
	}
	s.publish("kex.vorgang.1.kommentare", comments, nil) // the next one of the same Vorgang
	s.drained(30 * time.Second)

	if n := s.api.Counts().Requests; n != 1 {
		t.Errorf("%d requests, want the valid update's", n)
	}
	letters := s.read(topology.StreamDeadLetters)
	if len(letters) != len(bad) {
		t.Fatalf("%d dead letters, want %d", len(letters), len(bad))
	}
	for _, m := range letters {
		var seq uint64
		if _, err := fmt.Sscan(m.Headers().Get(topology.HeaderUpdateSeq), &seq); err != nil {
			t.Fatalf("%s: %v", topology.HeaderUpdateSeq, err)
		}
		b := bad[want[seq]]
		detail := m.Headers().Get(topology.HeaderDetail)
		if reason := m.Headers().Get(topology.HeaderReason); reason != "invalid" || !strings.HasPrefix(m.Subject(), "kex.deadletter.invalid.") {
			t.Errorf("%.60s: reason %q on %.80s", b.subject, reason, m.Subject())
		}
		if detail == "" || !strings.Contains(detail, b.field) {
			t.Errorf("%.60s %.40q: detail %q does not name %q", b.subject, b.body, detail, b.field)
		}
		body := string(m.Data())
		if m.Headers().Get(topology.HeaderBodyObject) != "" {
			body = s.object(m.Headers())
		}
		if body != b.body {
			t.Errorf("%.60s: the dead letter's body is not the update's", b.subject)
		}
		if m.Headers().Get("Nats-Expected-Stream") != "" {
			t.Error("a publisher's Nats-* header is in the dead letter")
		}
	}
	for _, e := range s.results() {
		if e.Data.Outcome == update.DeadLettered && e.Data.UpdateID == "forged" {
			t.Error("a publisher's Kex-* header was believed")
		}
	}
}

// object reads the body that a dead letter names.
func (s *system) object(h nats.Header) string {
	s.t.Helper()
	bucket, name, _ := strings.Cut(h.Get(topology.HeaderBodyObject), "/")
	store, err := s.js.ObjectStore(s.t.Context(), bucket)
	if err != nil {
		s.t.Fatal(err)
	}
	body, err := store.GetBytes(s.t.Context(), name)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(body)
}

// Headers that look like trouble on a valid update change nothing: it is delivered.
func TestStrangeHeadersOnAValidUpdateAreNoReasonToRefuseIt(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{})
	s.serve()
	for i, header := range []map[string]string{
		{"X-Big": strings.Repeat("h", 60_000)},
		{"Nats-Expected-Stream": topology.StreamUpdates},
		{"Kex-Reason": "forged", "Kex-Replay-Of": "1", "Kex-Replays": "9"},
	} {
		s.publish(fmt.Sprintf("kex.vorgang.%d.kommentare", i+1), `["x"]`, header)
	}
	s.drained(20 * time.Second)
	events := s.results()
	if len(events) != 3 {
		t.Fatalf("%d results", len(events))
	}
	for _, e := range events {
		if e.Data.Outcome != update.Delivered || e.Data.ReplayOf != 0 {
			t.Errorf("result %+v", e.Data)
		}
	}
}

var token = regexp.MustCompile(`Bearer [A-Za-z0-9._~+/-]{8,}`)

// What is private appears nowhere but in the API and, for dead letters, in their bodies.
func TestCanariesAppearNowhere(t *testing.T) {
	t.Parallel()
	const file, content, comment = "canary-filename-Qz81", "Y2FuYXJ5Y29udGVudFd4NzI", "canary-comment-Hk55"
	s := newSystem(t, simulator.Script{
		Vorgaenge: []simulator.VorgangRule{
			{Match: []string{"400"}, Always: &simulator.Answer{Status: 400, Echo: true}},
			{Match: []string{"500"}, Always: &simulator.Answer{Status: 500, Echo: true}},
			{Match: []string{"401"}, Always: &simulator.Answer{Status: 409, Echo: true, Body: "canary-answer " + comment + " Bearer x"}},
		},
	})
	s.serve("KEXRELAY_RETRY_INITIAL=20ms", "KEXRELAY_RETRY_MAX_INTERVAL=100ms")
	for _, vorgang := range []string{"200", "400", "401", "500"} {
		s.publish("kex.vorgang."+vorgang+".dokument", `{"filename":"`+file+`.pdf","base64Content":"`+content+`"}`, nil)
		s.publish("kex.vorgang."+vorgang+".kommentare", `["`+comment+`"]`, nil)
	}
	s.publish("kex.vorgang.200.kommentare", `["`+comment+`" broken`, nil)
	s.publish("kex.vorgang.200.dokument", `{"filename":"`+file+`/x","base64Content":"`+content+`"}`, nil)
	eventually(t, 20*time.Second, "all but the 500s are settled", func() bool { return s.count(topology.StreamUpdates) == 2 })

	_, metrics := s.get("/metrics")
	_, ready := s.get("/readyz")
	places := map[string]string{"logs": s.relay.output.String(), "/metrics": metrics, "/readyz": ready}
	for i, m := range s.read(topology.StreamResults) {
		places[fmt.Sprintf("result %d", i)] = fmt.Sprint(m.Headers(), string(m.Data()))
	}
	for i, m := range s.read(topology.StreamDeadLetters) {
		places[fmt.Sprintf("headers of dead letter %d", i)] = fmt.Sprint(m.Headers())
	}
	for _, args := range [][]string{{"deadletters", "list"}, {"deadletters", "show", "1"}, {"results", "list"}, {"status"}} {
		out, errs, _ := runProgram(t, s.natsEnv(), nil, programs.kexrelay, args...)
		places[strings.Join(args, " ")] = out + errs
	}
	for place, text := range places {
		for _, canary := range []string{file, content, comment, clientSecret} {
			if strings.Contains(text, canary) {
				t.Errorf("%s: %q appears", place, canary)
			}
		}
	}
	// The API echoes the Authorization header; what may be left of it is that there was one.
	for place, text := range places {
		if found := token.FindString(text); found != "" {
			t.Errorf("%s: a token appears: %.12s…", place, found)
		}
	}
	if !strings.Contains(places["logs"], `"log_level":"debug`) {
		t.Error("the logs were not at debug level: the test saw too little")
	}
}
