package integration

import (
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"

	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
)

// passing is a way to the API on which the W3C headers of each request are seen.
type passing struct {
	url string

	mu      sync.Mutex
	headers []http.Header
}

func newPassing(t *testing.T, to string) *passing {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	p := &passing{}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
		r.Out.Host = target.Host
	}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.headers = append(p.headers, r.Header.Clone())
		p.mu.Unlock()
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	p.url = server.URL + target.Path
	return p
}

// seen are the values of a header, in the order of the requests.
func (p *passing) seen(name string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var values []string
	for _, h := range p.headers {
		values = append(values, h.Get(name))
	}
	return values
}

const tracedSecret = "canary-comment-7Gk2"

// tracedSystem is a relay that exports spans, and the environment of a publisher that does.
func tracedSystem(t *testing.T) (s *system, received *spans, api *passing, publisher []string) {
	t.Helper()
	s = newSystem(t, simulator.Script{Vorgaenge: []simulator.VorgangRule{{
		Match:    []string{"410"},
		Sequence: []simulator.Step{{Answer: simulator.Answer{Status: 503}, Times: 2}, {Answer: simulator.Answer{Status: 410}}},
	}}})
	received, api = newSpans(t), newPassing(t, s.apiURL.BaseURL())
	export := []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + received.url, "OTEL_BSP_SCHEDULE_DELAY=50"}
	s.serve(append(export, "KEX_BASE_URL="+api.url, "KEXRELAY_RETRY_INITIAL=10ms")...)
	return s, received, api, append(s.natsEnv(), export...)
}

// wantTree waits for a trace with so many spans and compares it.
func wantTree(t *testing.T, received *spans, traceID, want string) []*trace.Span {
	t.Helper()
	n := strings.Count(want, "\n")
	eventually(t, 20*time.Second, "all spans are exported", func() bool { return len(received.of(traceID)) >= n })
	all := received.of(traceID)
	got := tree(all)
	t.Logf("trace %s:\n%s", traceID, got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("span tree (-want +got):\n%s", diff)
	}
	return all
}

// An update with two retries that becomes a dead letter is one trace from the publisher's command to the settlement,
// also in the API's headers, the log and the result; its replay is a trace of its own that is linked to it.
func TestAnUpdateIsOneTraceOverNATS(t *testing.T) {
	t.Parallel()
	s, received, api, publisher := tracedSystem(t)
	out, errs, code := runProgram(t, publisher, nil, programs.kexrelay,
		"publish", "comments", "--vorgang", "410", "--trace-id", "sys1", "--wait=20s", "-o", "json", tracedSecret)
	if code != 4 {
		t.Fatalf("publish: exit code %d, want 4 for a dead letter\n%s%s", code, out, errs)
	}
	result := s.results()[0]
	if len(result.Traceparent) != 55 {
		t.Fatalf("the result's traceparent is %q", result.Traceparent)
	}
	traceID := result.Traceparent[3:35]
	all := wantTree(t, received, traceID, `publish kex.vorgang
  receive KEX_UPDATES
    attempt [request_id=sys1 attempt=1 http.response.status_code=503] error: outage
    attempt [request_id=sys1-2 attempt=2 http.response.status_code=503] error: outage
    attempt [request_id=sys1-3 attempt=3 http.response.status_code=410] error: gone
    settle [outcome=deadlettered] error: gone
`)
	if got := api.seen("X-TraceId"); !slices.Equal(got, []string{"sys1", "sys1-2", "sys1-3"}) {
		t.Errorf("X-TraceId %v", got)
	}
	for i, traceparent := range api.seen("traceparent") {
		if want := "00-" + traceID + "-" + hex.EncodeToString(all[2+i].GetSpanId()) + "-01"; traceparent != want {
			t.Errorf("request %d carries %s, want that of its attempt %s", i+1, traceparent, want)
		}
	}
	if receive := hex.EncodeToString(all[1].GetSpanId()); result.Traceparent[36:52] != receive {
		t.Errorf("the result goes on from %s, want %s", result.Traceparent[36:52], receive)
	}
	if got := s.attemptLines("otel_trace_id"); !slices.Equal(got, []string{traceID, traceID, traceID}) {
		t.Errorf("the log names %v, want %s with each attempt", got, traceID)
	}

	s.command("deadletters", "replay", "1", "--yes")
	s.drained(20 * time.Second)
	var replay string
	eventually(t, 20*time.Second, "the result of the replay is there", func() bool {
		for _, e := range s.results() {
			if e.Data.ReplayOf != 0 && e.Data.Outcome == "delivered" {
				replay = e.Traceparent[3:35]
			}
		}
		return replay != ""
	})
	if replay == traceID {
		t.Error("the replay goes on in the first trace, want one of its own")
	}
	linked := wantTree(t, received, replay, `receive KEX_UPDATES [replay_of=1 links=1]
  attempt [request_id=sys1-r1 attempt=1 http.response.status_code=200]
  settle [outcome=delivered]
`)
	if link := linked[0].GetLinks()[0]; hex.EncodeToString(link.GetTraceId()) != traceID {
		t.Errorf("the replay is linked to %x, want %s", link.GetTraceId(), traceID)
	}
	if !received.services["kexrelay"] || strings.Contains(received.all(), tracedSecret) {
		t.Error("the spans lack the service's name, or hold a comment")
	}
}

// A publisher that knows nothing of OpenTelemetry: the trace begins at the relay, and its dead letter carries it. One whose
// publisher says that it is not sampled is not exported, and still passed on.
func TestATraceBeginsAtTheRelayOrGoesOnUnsampled(t *testing.T) {
	t.Parallel()
	s, received, api, _ := tracedSystem(t)
	const unsampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
	s.publish("kex.vorgang.1.kommentare", `["a"]`, map[string]string{"traceparent": unsampled, "tracestate": "vendor=1"})
	s.drained(20 * time.Second)
	if got := api.seen("traceparent"); len(got) != 1 || got[0][:36] != unsampled[:36] || !strings.HasSuffix(got[0], "-00") {
		t.Errorf("the request carries %v, want the publisher's trace, not sampled", got)
	}
	if got := api.seen("tracestate"); !slices.Equal(got, []string{"vendor=1"}) {
		t.Errorf("tracestate %v", got)
	}
	s.publish("kex.vorgang.410.kommentare", `["a"]`, map[string]string{"X-TraceId": "sys2"})
	s.drained(20 * time.Second)
	letters := s.read(topology.StreamDeadLetters)
	traceparent := letters[0].Headers()["traceparent"]
	if len(letters) != 1 || len(traceparent) != 1 {
		t.Fatalf("%d dead letters, traceparent %v", len(letters), traceparent)
	}
	wantTree(t, received, traceparent[0][3:35], `receive KEX_UPDATES
  attempt [request_id=sys2 attempt=1 http.response.status_code=503] error: outage
  attempt [request_id=sys2-2 attempt=2 http.response.status_code=503] error: outage
  attempt [request_id=sys2-3 attempt=3 http.response.status_code=410] error: gone
  settle [outcome=deadlettered] error: gone
`)
	if n := len(received.of(unsampled[3:35])); n != 0 {
		t.Errorf("%d spans of a trace that is not sampled", n)
	}
}

// A collector that is away costs nothing but the spans: neither updates nor the stop wait for it.
func TestACollectorThatIsAwayKeepsNothingWaiting(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{})
	s.serve("OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_BSP_SCHEDULE_DELAY=50",
		"OTEL_EXPORTER_OTLP_HEADERS=authorization=canary-key-4Hx")
	for range 20 {
		s.publish("kex.vorgang.1.kommentare", `["a"]`, nil)
	}
	s.drained(20 * time.Second)
	s.relay.terminate(t, 20*time.Second)
	log := s.relay.output.String()
	if strings.Count(log, "spans could not be exported") > 1 || strings.Contains(log, "canary-key") {
		t.Errorf("the log tells of it more than once, or holds a key:\n%s", log)
	}
}

func TestWrongVariablesOfOpenTelemetryAreNamedAtTheStart(t *testing.T) {
	t.Parallel()
	env := []string{
		"KEX_BASE_URL=http://127.0.0.1:1", "KEX_TOKEN_URL=http://127.0.0.1:1/t", "KEX_CLIENT_ID=a", "KEX_CLIENT_SECRET=b",
		"OTEL_EXPORTER_OTLP_ENDPOINT=collector", "OTEL_EXPORTER_OTLP_HEADERS=canary-key-4Hx", "OTEL_TRACES_SAMPLER=sometimes",
	}
	out, errs, code := runProgram(t, env, nil, programs.kexrelay, "serve")
	for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT: is no URL", "OTEL_EXPORTER_OTLP_HEADERS: is no list", "OTEL_TRACES_SAMPLER: is none of"} {
		if !strings.Contains(errs, name) {
			t.Errorf("stderr lacks %q", name)
		}
	}
	if code != 2 || strings.Contains(out+errs, "canary-key") {
		t.Errorf("exit code %d, want 2, without the key:\n%s", code, errs)
	}
}

// attemptLines gives an attribute of each line about an attempt.
func (s *system) attemptLines(name string) []string {
	s.t.Helper()
	var values []string
	for line := range strings.Lines(s.relay.output.String()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) != nil || entry["msg"] != "attempt" {
			continue
		}
		value, _ := entry[name].(string)
		values = append(values, value)
	}
	return values
}
