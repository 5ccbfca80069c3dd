package simulator

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const (
	testClient = "client-1"
	testSecret = "s3cret+/%"
)

// The example requests of the API's documentation.
const (
	exampleDocument = `{"filename": "Testdokument.pdf", "base64Content": "JVBERi0xLjMKJcTl8uXrp"}`
	exampleComments = `["Testkommentar"]`
)

func TestMain(m *testing.M) {
	// An HTTP server that has answered before the request was read lets the connection linger for half a second.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// newSimulator makes a simulator with a script in YAML.
func newSimulator(t *testing.T, script string, change ...func(*Config)) *Simulator {
	t.Helper()
	parsed, err := ParseScript([]byte(script))
	if err != nil {
		t.Fatal(err)
	}
	config := Config{ClientID: testClient, ClientSecret: testSecret, Script: parsed, Seed: 1}
	for _, c := range change {
		c(&config)
	}
	s, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// client is a client of a listening simulator.
type client struct {
	t      *testing.T
	sim    *Simulator
	server *Server
	http   *http.Client
	token  string
}

// listen starts a simulator on loopback and fetches a token where the script allows it.
func listen(t *testing.T, s *Simulator) *client {
	t.Helper()
	server, err := s.Start(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	c := &client{t: t, sim: s, server: server, http: &http.Client{
		Transport:     transport,
		Timeout:       20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	c.token = s.tokens.issue([]string{ScopeWrite}, time.Hour)
	return c
}

// answer is what a client got.
type answer struct {
	status int
	header http.Header
	body   string
	err    error
}

func (c *client) do(r *http.Request) answer {
	c.t.Helper()
	response, err := c.http.Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return answer{status: response.StatusCode, header: response.Header, body: string(body), err: err}
}

// update is a request as the relay makes it.
func update(ctx context.Context, base, token, vorgang, kind, traceID, body string) *http.Request {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/vorgang/"+url.PathEscape(vorgang)+"/"+kind, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	if traceID != "" {
		r.Header.Set("X-TraceId", traceID)
	}
	return r
}

func (c *client) post(vorgang, kind, traceID, body string) answer {
	c.t.Helper()
	return c.do(update(c.t.Context(), c.server.BaseURL(), c.token, vorgang, kind, traceID, body))
}

func (c *client) comment(vorgang, traceID string) answer {
	c.t.Helper()
	return c.post(vorgang, KindComments, traceID, exampleComments)
}

func (c *client) call(method, url, body string) answer {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	return c.do(r)
}

// fetchToken asks the token endpoint.
func (c *client) fetchToken(id, secret string, form url.Values) answer {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, c.server.TokenURL(), strings.NewReader(form.Encode()))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(id, secret)
	return c.do(r)
}

func (c *client) wantStatus(got answer, want int) {
	c.t.Helper()
	if got.err != nil || got.status != want {
		c.t.Errorf("answer = %d %q (error %v), want status %d", got.status, got.body, got.err, want)
	}
}

func (c *client) wantBooked(vorgang string, want int) {
	c.t.Helper()
	if got := len(c.sim.Bookings(vorgang)); got != want {
		c.t.Errorf("Vorgang %s has %d bookings, want %d", vorgang, got, want)
	}
}

// direct calls the handler without a network, so that it works inside a synctest bubble. A cut is status 0.
func direct(s *Simulator, r *http.Request) answer {
	w := httptest.NewRecorder()
	cut := func() (cut bool) {
		defer func() {
			if p := recover(); p != nil {
				if err, ok := p.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
					panic(p)
				}
				cut = true
			}
		}()
		s.Handler().ServeHTTP(w, r)
		return false
	}()
	if cut {
		return answer{}
	}
	return answer{status: w.Code, header: w.Header(), body: w.Body.String()}
}

// directUpdate sends a comment without a network.
func directUpdate(ctx context.Context, s *Simulator, token, vorgang string) answer {
	return direct(s, update(ctx, BasePath, token, vorgang, KindComments, "", exampleComments))
}

func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var value T
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("decoding %q: %v", text, err)
	}
	return value
}
