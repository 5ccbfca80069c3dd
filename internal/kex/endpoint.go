package kex

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"kexrelay/internal/fault"
)

const (
	// unknownLifetime is what a token counts as good for whose answer says nothing about it. Too long costs a 401.
	unknownLifetime = 5 * time.Minute
	// maxLifetime bounds what an answer may claim.
	maxLifetime = 24 * time.Hour
	// maxToken bounds a token, which goes into a header of each request; gateways take 8 KiB at most in all.
	maxToken = 8 << 10
)

// token is an access token and when it is used. The times are in the order of the fields.
type token struct {
	// header is the value of the Authorization header.
	header []string
	// refresh is when the next token is fetched in the background, with jitter so that replicas spread.
	refresh time.Time
	// ready is until when Authorize is content with it, usable until when Send takes it: a request that was
	// authorized has some time to begin.
	ready, usable time.Time
	// expiry is what the endpoint said, counted from before the call.
	expiry, fetched time.Time
}

func newToken(value string, fetched time.Time, lifetime time.Duration) *token {
	slack := min(lifetime/10, 5*time.Second)
	ahead := min(lifetime/3, 5*time.Minute)
	ahead -= rand.N(ahead*3/10 + 1) //nolint:gosec // G404: jitter.
	expiry := fetched.Add(lifetime)
	return &token{
		header:  []string{"Bearer " + value},
		refresh: expiry.Add(-ahead), ready: expiry.Add(-2 * slack), usable: expiry.Add(-slack),
		expiry: expiry, fetched: fetched,
	}
}

// endpoint makes single token calls. The request and the reading of its answer are clientcredentials' own; what is
// added here are X-TraceId, bounds, and the classification.
type endpoint struct {
	config  clientcredentials.Config // Without the secret.
	client  *http.Client
	timeout time.Duration
	tooLate error
}

func newEndpoint(cfg Config, tokenURL *url.URL, rt http.RoundTripper) *endpoint {
	params := url.Values{}
	if cfg.ImpersonateSubject != "" {
		params.Set("subject", cfg.ImpersonateSubject)
	}
	if cfg.ImpersonateActor != "" {
		params.Set("actor", cfg.ImpersonateActor)
	}
	e := &endpoint{
		client: &http.Client{
			Transport: &tokenTransport{next: rt, tracePrefix: cfg.TracePrefix, userAgent: cfg.UserAgent},
		},
		timeout: cfg.RequestTimeout,
		tooLate: timeoutError(cfg.RequestTimeout),
	}
	e.config.ClientID = cfg.ClientID
	e.config.Scopes = cfg.Scopes
	e.config.EndpointParams = params
	e.config.AuthStyle = oauth2.AuthStyleInHeader
	if tokenURL != nil {
		e.config.TokenURL = tokenURL.String()
	}
	return e
}

// fetch makes one token call. The fault is systemic if the endpoint rejects the client, transient otherwise, and
// interrupted if ctx ended.
func (e *endpoint) fetch(ctx context.Context, secret string) (*token, *fault.Error) {
	callCtx, cancel := context.WithTimeoutCause(ctx, e.timeout, e.tooLate)
	defer cancel()
	start := time.Now()
	config := clientcredentials.Config{
		ClientID: e.config.ClientID, ClientSecret: secret, TokenURL: e.config.TokenURL,
		Scopes: e.config.Scopes, EndpointParams: e.config.EndpointParams, AuthStyle: e.config.AuthStyle,
	}
	answer, err := config.Token(context.WithValue(callCtx, oauth2.HTTPClient, e.client))
	s := &scrubber{secrets: []string{secret}}
	if err != nil {
		if ctx.Err() != nil {
			return nil, interrupted(ctx, false)
		}
		if refusal, ok := errors.AsType[*oauth2.RetrieveError](err); ok && refusal.Response != nil {
			return nil, refused(refusal, s)
		}
		return nil, unusable(causeOf(callCtx, err, s).text)
	}
	switch value := answer.AccessToken; {
	case len(value) > maxToken:
		return nil, unusable("its token is longer than " + strconv.Itoa(maxToken) + " bytes")
	case !isPrintable(value):
		return nil, unusable("its token holds characters that no header can carry")
	}
	// clientcredentials counts from the end of the call; the token was made before that.
	lifetime := unknownLifetime
	if !answer.Expiry.IsZero() {
		lifetime = min(answer.Expiry.Sub(start)-time.Since(start), maxLifetime)
	}
	if lifetime <= 0 {
		return nil, unusable("its token had expired on arrival (expires_in)")
	}
	return newToken(answer.AccessToken, start, lifetime), nil
}

// unusable is the fault of a token call whose answer is missing or of no use.
func unusable(why string) *fault.Error {
	return &fault.Error{
		Kind: fault.Transient, Reason: fault.Outage,
		Detail: cut("no token from the token endpoint: "+why, maxDetail),
	}
}

// refused classifies a token call that was answered with an error.
func refused(answer *oauth2.RetrieveError, s *scrubber) *fault.Error {
	status, header := answer.Response.StatusCode, answer.Response.Header
	f := &fault.Error{Status: status}
	wait, _ := retryAfter(header, time.Now())
	var meaning string
	switch {
	case status >= 500, status < 200, status == http.StatusTooManyRequests,
		status == http.StatusRequestTimeout, status == http.StatusTooEarly,
		answer.ErrorCode == "temporarily_unavailable", answer.ErrorCode == "server_error":
		f.Kind, f.Reason, f.RetryAfter = fault.Transient, fault.Outage, wait
		meaning = "the token endpoint does not work"
		if status == http.StatusTooManyRequests {
			meaning = "the token endpoint asked for a pause"
		}
	default:
		f.Kind, f.Reason = fault.Systemic, fault.Unauthorized
		meaning = rejection(status, answer.ErrorCode)
	}
	said := clean(answer.Body[:min(len(answer.Body), maxExcerpt)])
	if len(answer.Body) > maxExcerpt {
		said = dropLastWord(said)
	}
	f.Detail = meaning
	if said = s.scrub(said); said != "" {
		f.Detail = cut(meaning+": "+said, maxDetail)
	}
	return f
}

// rejection says what the operator can do.
func rejection(status int, code string) string {
	switch code {
	case "invalid_client":
		return "the token endpoint does not accept the client (invalid_client): it is unknown or deactivated, or its " +
			"secret is wrong or expired; check KEX_CLIENT_ID and KEX_CLIENT_SECRET or KEX_CLIENT_SECRET_FILE"
	case "invalid_scope":
		return "the token endpoint does not grant the scopes (invalid_scope); check KEX_SCOPES and whether the client " +
			"was given the right (KreditSmart-Vorgänge anlegen/verändern) in Partnermanagement"
	case "unauthorized_client", "access_denied", "invalid_grant":
		return "the token endpoint does not let the client do this (" + code + "); check KEX_SCOPES, " +
			"KEX_IMPERSONATE_SUBJECT, KEX_IMPERSONATE_ACTOR and the client's rights in Partnermanagement"
	}
	switch status {
	case http.StatusUnauthorized:
		return rejection(status, "invalid_client")
	case http.StatusBadRequest, http.StatusForbidden:
		return "the token endpoint rejects the request; check KEX_CLIENT_ID, KEX_CLIENT_SECRET or " +
			"KEX_CLIENT_SECRET_FILE, KEX_SCOPES, KEX_IMPERSONATE_SUBJECT and KEX_IMPERSONATE_ACTOR"
	}
	return "this is no token endpoint; check KEX_TOKEN_URL"
}

// tokenTransport adds what clientcredentials does not know of.
type tokenTransport struct {
	next                   http.RoundTripper
	tracePrefix, userAgent string
}

// RoundTrip sends a copy of the request, with the trace ID of its own that the API wants of each.
func (t *tokenTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	out := req.Clone(req.Context())
	out.Header["X-TraceId"] = []string{newTraceID(t.tracePrefix)}
	out.Header.Set("User-Agent", t.userAgent)
	out.Header.Set("Accept", "application/json")
	ctx, cancel := context.WithCancel(req.Context())
	resp, err := t.next.RoundTrip(out.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	if resp.StatusCode/100 == 3 {
		resp.Header.Del("Location") // So http.Client cannot follow it: the secret goes to the configured address alone.
	}
	if resp.StatusCode/100 != 2 {
		resp.Body = io.NopCloser(bytes.NewReader(readRefusal(resp, cancel)))
		cancel()
		return resp, nil
	}
	resp.Body = limitedBody{Reader: io.LimitReader(resp.Body, maxAnswer), body: resp.Body, cancel: cancel}
	return resp, nil
}

// readRefusal gives what an answer without a token says, as far as it can be read soon, and closes it; cancel is called
// if that takes too long. The status line has decided: a body that is slow, broken or compressed makes no outage of a
// rejected client.
func readRefusal(resp *http.Response, cancel func()) []byte {
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode < 200 { // 101: the "body" is the connection and never ends.
		return nil
	}
	timer := time.AfterFunc(answerTime, cancel)
	defer timer.Stop()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.Header.Get("Content-Encoding") != "" { // Nobody asked for that; compressed bytes tell nothing.
		return nil
	}
	return said
}

// limitedBody is an answer's body up to a bound; what is longer is no token answer.
type limitedBody struct {
	io.Reader

	body   io.Closer
	cancel func()
}

// Close ends the call.
func (b limitedBody) Close() error {
	defer b.cancel()
	return b.body.Close()
}

// newTraceID makes the ID of a request that belongs to no update.
func newTraceID(prefix string) string {
	const digits = "0123456789abcdef"
	id := make([]byte, 0, len(prefix)+16)
	id = append(id, prefix...)
	for n, i := rand.Uint64(), 0; i < 16; i++ { //nolint:gosec // G404: an ID, unique but no secret.
		id = append(id, digits[n&15])
		n >>= 4
	}
	return string(id)
}
