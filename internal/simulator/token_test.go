package simulator

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestTokenEndpointFollowsOAuth(t *testing.T) {
	const both = ScopeWrite + " " + ScopeImpersonate
	for name, test := range map[string]struct {
		id, secret string
		form       url.Values
		status     int
		oauthError string
		scope      string
	}{
		"no scope gives the client's": {form: url.Values{}, status: 200, scope: both},
		"one scope":                   {form: url.Values{"scope": {ScopeWrite}}, status: 200, scope: ScopeWrite},
		"impersonation": {
			form:   url.Values{"scope": {both}, "subject": {"ABC12"}, "actor": {"XYZ99"}},
			status: 200, scope: both,
		},
		"impersonation without its scope": {
			form:   url.Values{"scope": {ScopeWrite}, "subject": {"ABC12"}},
			status: 400, oauthError: "invalid_scope",
		},
		"unknown scope":           {form: url.Values{"scope": {ScopeWrite + " admin"}}, status: 400, oauthError: "invalid_scope"},
		"wrong secret":            {secret: "wrong", form: url.Values{}, status: 401, oauthError: "invalid_client"},
		"unknown client":          {id: "other", form: url.Values{}, status: 401, oauthError: "invalid_client"},
		"form-encoded secret":     {secret: url.QueryEscape(testSecret), form: url.Values{}, status: 200, scope: both},
		"missing grant type":      {form: url.Values{"grant_type": {""}}, status: 400, oauthError: "invalid_request"},
		"another grant type":      {form: url.Values{"grant_type": {"password"}}, status: 400, oauthError: "unsupported_grant_type"},
		"secret checked first":    {secret: "wrong", form: url.Values{"scope": {"admin"}}, status: 401, oauthError: "invalid_client"},
		"empty secret is no good": {secret: " ", form: url.Values{}, status: 401, oauthError: "invalid_client"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSimulator(t, "")
			c := listen(t, s)
			id, secret := test.id, test.secret
			if id == "" {
				id = testClient
			}
			if secret == "" {
				secret = testSecret
			}
			if !test.form.Has("grant_type") {
				test.form.Set("grant_type", "client_credentials")
			}
			got := c.fetchToken(id, secret, test.form)
			c.wantStatus(got, test.status)
			recorded := s.TokenRequests()[0]
			if recorded.Status != test.status || recorded.Error != test.oauthError || recorded.Issued != (test.status == 200) ||
				recorded.Subject != test.form.Get("subject") || recorded.Actor != test.form.Get("actor") || recorded.Scope != test.form.Get("scope") {
				t.Errorf("recorded as %+v", recorded)
			}
			if test.status != http.StatusOK {
				if refusal := decode[tokenError](t, got.body); refusal.Error != test.oauthError {
					t.Errorf("refused with %+v, want %s", refusal, test.oauthError)
				}
				return
			}
			token := decode[tokenAnswer](t, got.body)
			if token.ExpiresIn != 3600 || token.TokenType != "Bearer" || token.Scope != test.scope {
				t.Errorf("token %+v, want scope %q", token, test.scope)
			}
			c.token = token.AccessToken
			c.wantStatus(c.comment("1", ""), http.StatusOK)
		})
	}
}

func TestTokensExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulator(t, `token: {ttl: 10m, expires-in: 20m}`)
		got := direct(s, tokenRequest(t.Context(), testSecret))
		token := decode[tokenAnswer](t, got.body)
		if token.ExpiresIn != 1200 {
			t.Errorf("expires_in = %d, want what the script announces", token.ExpiresIn)
		}
		wait(10*time.Minute - 1)
		if got := directUpdate(t.Context(), s, token.AccessToken, "1"); got.status != http.StatusOK {
			t.Errorf("a good token is answered %d %s", got.status, got.body)
		}
		wait(1)
		got = directUpdate(t.Context(), s, token.AccessToken, "1")
		if got.status != http.StatusUnauthorized || !strings.Contains(got.header.Get("WWW-Authenticate"), "invalid_token") {
			t.Errorf("an expired token is answered %d %v", got.status, got.header)
		}
		if n := len(s.Bookings("1")); n != 1 {
			t.Errorf("booked %d, want 1", n)
		}
	})
}

// tokenRequest is a token request without a network.
func tokenRequest(ctx context.Context, secret string) *http.Request {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, TokenPath, strings.NewReader("grant_type=client_credentials"))
	if err != nil {
		panic(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("X-TraceId", "token-trace")
	r.SetBasicAuth(testClient, secret)
	return r
}

// wait lets the bubble's time pass.
func wait(d time.Duration) { <-time.After(d) }

func TestUpdatesNeedATokenWithTheScope(t *testing.T) {
	s := newSimulator(t, "")
	c := listen(t, s)
	for name, test := range map[string]struct {
		authorization string
		want          int
	}{
		"none":          {"", http.StatusUnauthorized},
		"basic":         {"Basic " + c.token, http.StatusUnauthorized},
		"empty":         {"Bearer ", http.StatusUnauthorized},
		"unknown":       {"Bearer nonsense", http.StatusUnauthorized},
		"without scope": {"Bearer " + s.tokens.issue([]string{ScopeImpersonate}, time.Hour), http.StatusForbidden},
		"good":          {"Bearer " + c.token, http.StatusOK},
		"lower case":    {"bearer " + c.token, http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			r := update(t.Context(), c.server.BaseURL(), "", name, KindComments, "", exampleComments)
			r.Header.Set("Authorization", test.authorization)
			c.wantStatus(c.do(r), test.want)
			if booked := len(s.Bookings(name)); (booked == 1) != (test.want == http.StatusOK) {
				t.Errorf("booked %d", booked)
			}
		})
	}
}

func TestARevokedTokenIsUnknown(t *testing.T) {
	s := newSimulator(t, "")
	c := listen(t, s)
	s.RevokeTokens()
	c.wantStatus(c.comment("1", ""), http.StatusUnauthorized)
}

func TestTheSecretCanBeChanged(t *testing.T) {
	s := newSimulator(t, "")
	if err := s.SetClientSecret("new"); err != nil {
		t.Fatal(err)
	}
	if got := direct(s, tokenRequest(t.Context(), testSecret)); got.status != http.StatusUnauthorized {
		t.Errorf("the old secret is answered %d", got.status)
	}
	if got := direct(s, tokenRequest(t.Context(), "new")); got.status != http.StatusOK {
		t.Errorf("the new secret is answered %d", got.status)
	}
	if s.SetClientSecret("") == nil {
		t.Error("an empty secret was taken")
	}
}

func TestScriptedTokenEndpoint(t *testing.T) {
	s := newSimulator(t, `
token:
  granted: [impersonieren]
  sequence:
    - {status: 503, retry-after: 3s}
    - {status: 429}
    - {status: 500, times: 2}
    - {error: invalid_scope}
    - {status: 401, echo: true}
    - {cut: before-booking}
    - {status: 200, body: "no JSON"}
    - {early: true, status: 400}
`)
	c := listen(t, s)
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {ScopeWrite}}
	for i, want := range []struct {
		status int
		text   string
	}{
		{503, `"temporarily_unavailable"`},
		{429, `"temporarily_unavailable"`},
		{500, `"server_error"`},
		{500, `"server_error"`},
		{400, `"invalid_scope"`},
		{401, `Basic `},
		{0, ""},
		{200, "no JSON"},
		{400, `"invalid_request"`},
		{200, `"scope":"impersonieren"`},
	} {
		got := c.fetchToken(testClient, testSecret, form)
		if got.status != want.status || !strings.Contains(got.body, want.text) || (got.err != nil) != (want.status == 0) {
			t.Errorf("token request %d: %d %q (error %v), want %d and %q", i+1, got.status, got.body, got.err, want.status, want.text)
		}
		if i == 0 && got.header.Get("Retry-After") != "3" {
			t.Errorf("Retry-After = %q", got.header.Get("Retry-After"))
		}
	}
	if err := s.WaitFor(t.Context(), func(c Counts) bool { return c.TokenRequestsFinished == 10 }); err != nil {
		t.Fatal(err)
	}
	stats := s.Stats()
	if stats.TokensIssued != 1 || stats.TokenRequests != 10 || stats.TokenByStatus[500] != 2 || stats.TokenByStatus[0] != 1 || stats.Requests != 0 {
		t.Errorf("stats %+v", stats)
	}
}

func TestTokenRequestsAreRecordedWithTheirTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulator(t, `token: {latency: {fixed: 2s}, always: {status: 401}}`)
		start := time.Now()
		for range 3 {
			direct(s, tokenRequest(t.Context(), testSecret))
			wait(10 * time.Second)
		}
		for i, r := range s.TokenRequests() {
			received := time.Duration(i) * 12 * time.Second
			if r.ReceivedAt.Sub(start) != received || r.AnsweredAt.Sub(r.ReceivedAt) != 2*time.Second || r.Seq != i+1 || r.Error != "invalid_client" {
				t.Errorf("token request %d: %+v", i, r)
			}
			if r.TraceID != "token-trace" || r.RepeatedTraceID != (i > 0) {
				t.Errorf("token request %d: trace %q, repeated %v", i, r.TraceID, r.RepeatedTraceID)
			}
		}
	})
}

func TestExpiredTokensAreThrownAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := newTokens(testSecret)
		for range keptTokens {
			tokens.issue(nil, time.Second)
		}
		wait(2 * time.Second)
		tokens.issue(nil, time.Second)
		if n := len(tokens.grants); n != 1 {
			t.Errorf("%d tokens are kept, want 1", n)
		}
	})
}
