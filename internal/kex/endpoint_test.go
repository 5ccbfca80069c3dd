package kex

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kexrelay/internal/fault"
)

// authorizing makes a client without a token whose token endpoint is h.
func authorizing(t *testing.T, h http.HandlerFunc, change ...func(*Config)) *Client {
	t.Helper()
	c := newTestClient(t, serve(t, h).URL, change...)
	c.tokens.current = nil
	return c
}

func TestTokenRequestOnTheWire(t *testing.T) {
	tests := map[string]struct {
		change func(*Config)
		want   url.Values
	}{
		"plain": {func(*Config) {}, url.Values{
			"grant_type": {"client_credentials"}, "scope": {"privatkredit:vorgang:schreiben"},
		}},
		"impersonating": {func(c *Config) { c.ImpersonateSubject, c.ImpersonateActor = "ABC12", "XYZ98" }, url.Values{
			"grant_type": {"client_credentials"}, "scope": {"privatkredit:vorgang:schreiben impersonieren"},
			"subject": {"ABC12"}, "actor": {"XYZ98"},
		}},
		"no scopes": {func(c *Config) { c.Scopes = nil }, url.Values{"grant_type": {"client_credentials"}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var traces []string
			c := authorizing(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				form, err := url.ParseQuery(string(body))
				if diff := cmp.Diff(tt.want, form); diff != "" || err != nil {
					t.Errorf("form (-want +got):\n%s%v", diff, err)
				}
				if id, secret, ok := r.BasicAuth(); id != "client-1" || secret != canarySecret || !ok {
					t.Errorf("Basic authentication is %q %q", id, secret)
				}
				if r.Method != http.MethodPost || r.URL.Path != "/token" || r.UserAgent() != "kexrelay" {
					t.Errorf("got %s %s from %s", r.Method, r.URL, r.UserAgent())
				}
				traces = append(traces, r.Header.Get("X-TraceId"))
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprint(w, `{"access_token":"fresh","token_type":"Bearer","expires_in":3600,"scope":"x"}`)
			}, func(c *Config) { c.TracePrefix = "sys" }, tt.change)
			for range 3 {
				if err := c.Authorize(t.Context()); err != nil {
					t.Fatal(err)
				}
				c.tokens.invalidate(c.tokens.inHand(t.Context()))
			}
			slices.Sort(traces)
			if len(slices.Compact(traces)) != 3 || !strings.HasPrefix(traces[0], "sys") || len(traces[0]) != len("sys")+16 {
				t.Errorf("trace IDs are %q", traces)
			}
		})
	}
}

// TestExpiredTokenUnderLoad: 64 sends that all need a new token cost one token call, over real connections.
func TestExpiredTokenUnderLoad(t *testing.T) {
	var tokens, posts atomic.Int32
	c := authorizing(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			tokens.Add(1)
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"access_token":"fresh","expires_in":3600}`)
			return
		}
		if r.Header.Get("Authorization") != "Bearer fresh" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		posts.Add(1)
	})
	c.tokens.current = newToken("stale", time.Now().Add(-2*time.Hour), time.Hour)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			if err := c.Authorize(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := c.Send(t.Context(), commentsRequest("x")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if tokens.Load() != 1 || posts.Load() != 64 {
		t.Errorf("%d token calls and %d posts, want 1 and 64", tokens.Load(), posts.Load())
	}
}

// TestTokenAnswers: what each answer of the endpoint means, and what the operator is told.
func TestTokenAnswers(t *testing.T) {
	reject := outcome{fault.Systemic, fault.Unauthorized, false}
	tests := map[string]struct {
		status       int
		header, body string
		want         outcome
		says         []string
		lifetime     time.Duration // of the token, ± 1 s.
	}{
		"ordinary":              {status: 200, body: `{"access_token":"t","expires_in":3600}`, lifetime: time.Hour},
		"expires_in as text":    {status: 200, body: `{"access_token":"t","expires_in":"600"}`, lifetime: 10 * time.Minute},
		"expires_in missing":    {status: 200, body: `{"access_token":"t"}`, lifetime: unknownLifetime},
		"expires_in zero":       {status: 200, body: `{"access_token":"t","expires_in":0}`, lifetime: unknownLifetime},
		"expires_in huge":       {status: 200, body: `{"access_token":"t","expires_in":99999999999999}`, lifetime: maxLifetime},
		"expires_in negative":   {status: 200, body: `{"access_token":"t","expires_in":-5}`, want: notSent, says: []string{"expired on arrival"}},
		"expires_in nonsense":   {status: 200, body: `{"access_token":"t","expires_in":"soon"}`, want: notSent},
		"no token":              {status: 200, body: `{"token_type":"Bearer"}`, want: notSent, says: []string{"access_token"}},
		"empty token":           {status: 200, body: `{"access_token":"","expires_in":3600}`, want: notSent, says: []string{"access_token"}},
		"token with line break": {status: 200, body: `{"access_token":"a\r\nEvil: 1"}`, want: notSent, says: []string{"header"}},
		"huge token":            {status: 200, body: `{"access_token":"` + strings.Repeat("a", 10_000) + `"}`, want: notSent, says: []string{"longer"}},
		"huge answer":           {status: 200, body: `{"access_token":"` + strings.Repeat("a", 1<<20) + `"}`, want: notSent},
		"too much around it":    {status: 200, body: `{"pad":"` + strings.Repeat("a", maxAnswer) + `","access_token":"t"}`, want: notSent},
		"not JSON":              {status: 200, body: `<html>login</html>`, want: notSent},
		"error with status 200": {status: 200, body: `{"error":"invalid_client"}`, want: reject, says: []string{"invalid_client"}},
		"invalid_client": {
			status: 401, body: `{"error":"invalid_client","error_description":"Bad client credentials"}`, want: reject,
			says: []string{"invalid_client", "KEX_CLIENT_SECRET", "Bad client credentials"},
		},
		"401 without words": {status: 401, want: reject, says: []string{"invalid_client", "KEX_CLIENT_ID"}},
		"invalid_scope": {
			status: 400, body: `{"error":"invalid_scope"}`, want: reject,
			says: []string{"invalid_scope", "KEX_SCOPES", "Partnermanagement"},
		},
		"not allowed":             {status: 400, body: `{"error":"unauthorized_client"}`, want: reject, says: []string{"KEX_IMPERSONATE_SUBJECT"}},
		"400 without words":       {status: 400, body: `nope`, want: reject, says: []string{"KEX_CLIENT_ID", "KEX_SCOPES", "nope"}},
		"403":                     {status: 403, want: reject},
		"404":                     {status: 404, body: "not here", want: reject, says: []string{"KEX_TOKEN_URL"}},
		"redirect":                {status: 302, header: "http://127.0.0.1:1/elsewhere", want: reject, says: []string{"KEX_TOKEN_URL"}},
		"redirect to nowhere":     {status: 302, header: "http://[::1", want: reject, says: []string{"KEX_TOKEN_URL"}},
		"temporarily_unavailable": {status: 400, body: `{"error":"temporarily_unavailable"}`, want: notSent},
		"408":                     {status: 408, want: notSent},
		"429":                     {status: 429, want: notSent, says: []string{"pause"}},
		"500":                     {status: 500, body: "boom", want: notSent, says: []string{"boom"}},
		"503":                     {status: 503, want: notSent},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := authorizing(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if tt.header != "" {
					w.Header().Set("Location", tt.header)
				}
				w.WriteHeader(tt.status)
				fmt.Fprint(w, tt.body)
			})
			err := c.Authorize(t.Context())
			if got := outcomeOf(err); got != tt.want {
				t.Fatalf("got %+v (%v), want %+v", got, err, tt.want)
			}
			st := c.TokenState()
			if err == nil {
				if got := time.Until(st.Expiry); got > tt.lifetime || got < tt.lifetime-time.Second || !st.Usable {
					t.Errorf("token is good for %s, want %s", got, tt.lifetime)
				}
				return
			}
			f := faultOf(t, err)
			for _, words := range tt.says {
				if !strings.Contains(f.Detail, words) {
					t.Errorf("detail is %q, want it to say %q", f.Detail, words)
				}
			}
			if st.Usable || st.Failure != tt.want.reason || st.Detail != f.Detail {
				t.Errorf("state is %+v", st)
			}
			noCanary(t, err, st.Detail)
		})
	}
}

// TestTokenEndpointUnreachable: transport errors are outages.
func TestTokenEndpointUnreachable(t *testing.T) {
	for name, base := range map[string]string{
		"refused": "http://" + closedPort(t),
		"closed":  serveRaw(t, func(conn net.Conn) { _, _, _ = readRequest(bufio.NewReader(conn)) }),
		"echo": serveRaw(t, func(conn net.Conn) {
			req, body, _ := readRequest(bufio.NewReader(conn))
			fmt.Fprintf(conn, "%s %s\r\n\r\n", req.Header.Get("Authorization"), body)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			c := newTestClient(t, base)
			c.tokens.current = nil
			err := c.Authorize(t.Context())
			if got := outcomeOf(err); got != notSent {
				t.Errorf("got %+v (%v), want %+v", got, err, notSent)
			}
			noCanary(t, err, c.TokenState().Detail)
			basic := base64.StdEncoding.EncodeToString([]byte("client-1:" + canarySecret))
			if strings.Contains(err.Error(), basic[4:20]) {
				t.Errorf("the Authorization header is in %q", err)
			}
		})
	}
}

// TestTokenEndpointEchoes: it may repeat what it was sent, and what it issued, in any way.
func TestTokenEndpointEchoes(t *testing.T) {
	for name, body := range map[string]string{
		"secret":         `{"error":"invalid_client","error_description":"secret ` + canarySecret + ` is wrong"}`,
		"basic":          `Authorization: Basic ` + base64.StdEncoding.EncodeToString([]byte("client-1:"+canarySecret)),
		"bare base64":    base64.RawURLEncoding.EncodeToString([]byte("xx:client-1:" + canarySecret)),
		"part of it":     `{"error_description":"secret ` + canarySecret[5:14] + ` is wrong"}`,
		"escaped":        `client_secret=` + url.QueryEscape(canarySecret),
		"token beside":   `{"error":"x","access_token":"` + canaryToken + `"}`,
		"token in words": `issued Bearer ` + canaryToken + ` before`,
	} {
		t.Run(name, func(t *testing.T) {
			c := authorizing(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusUnauthorized)
				fmt.Fprint(w, body)
			})
			err := c.Authorize(t.Context())
			if got := outcomeOf(err); got.kind != fault.Systemic {
				t.Fatalf("got %+v", got)
			}
			noCanary(t, err, c.TokenState().Detail)
		})
	}
}
