// Package kex is the client of the KEX Vorgang Update API: it makes one attempt to book one update.
//
// On an update's way it stands between the right to send and the judge: relay calls [Client.Authorize] to have a
// token in hand and [Client.Send] for each attempt. Send is a plain function, one POST and one answer; there is no
// loop and no schedule in here, except for the token endpoint's own pace. Whatever happens becomes a
// [*fault.Error] in this package, and status codes, header names and network errors end here. What it decides is
// whose fault a failure is and whether the request may have been booked; what becomes of the update is relay's
// business.
//
// Error texts and details never hold tokens, secrets or what the request carried: see scrub.go.
package kex

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// Client talks to the API and its token endpoint. All methods may be used by several goroutines at once.
type Client struct {
	base      *url.URL
	transport http.RoundTripper
	tokens    *tokenSource
	timeout   time.Duration
	// tooLate is the cause that requests which took longer than timeout end with.
	tooLate     error
	tracePrefix string
	// mediaType and userAgent are values of headers, made once.
	mediaType, userAgent []string
	// http1 reports that the API was last seen speaking HTTP/1: see newPassage.
	http1     atomic.Bool
	closeIdle func()
}

// New checks cfg and makes a client. It makes no call. The error joins all problems, each beginning with the name
// of its option; none repeats a secret.
func New(cfg Config) (*Client, error) {
	cfg = cfg.withDefaults()
	trusted := stateOf(cfg.CAFile)
	ends, err := cfg.validate()
	if err != nil {
		return nil, fmt.Errorf("configuring the KEX client: %w", err)
	}
	calls := newPool(cfg.CAFile, trusted, ends.roots, cfg.Concurrency+spareConns)
	// The token endpoint has a pool of its own: a token call must not wait for requests that wait for the token.
	tokenCalls := newPool(cfg.CAFile, trusted, ends.roots, spareConns)
	c := &Client{
		base:        ends.base,
		transport:   calls,
		tokens:      newTokenSource(cfg, newEndpoint(cfg, ends.token, tokenCalls)),
		timeout:     cfg.RequestTimeout,
		tooLate:     timeoutError(cfg.RequestTimeout),
		userAgent:   []string{cfg.UserAgent},
		mediaType:   []string{"application/json"},
		tracePrefix: cfg.TracePrefix,
		closeIdle: func() {
			calls.CloseIdleConnections()
			tokenCalls.CloseIdleConnections()
		},
	}
	c.http1.Store(ends.base.Scheme == "http")
	return c, nil
}

// connections are a transport with connections of its own.
type connections interface {
	http.RoundTripper
	CloseIdleConnections()
}

// newPool makes a pool that trusts roots and, if they are a file's, what the file says later.
//
//nolint:ireturn // It is one of two.
func newPool(file string, state fileState, roots *x509.CertPool, conns int) connections {
	transport := newTransport(roots, conns)
	if file == "" {
		return transport
	}
	return newRenewed(file, state, transport, conns)
}

// Authorize makes sure that a token is in hand which is good for a while longer than it takes to begin a request.
// It returns at once if there is one, or if the endpoint may not be asked again yet: then with the failure of the
// last try. Otherwise it waits for the one token call that all waiters share; ctx ends the waiting, not the call.
//
// The error is a [*fault.Error]: systemic/unauthorized if the endpoint rejects the client, transient/outage if it
// does not work, interrupted if ctx ended or the client is closed.
func (c *Client) Authorize(ctx context.Context) error { return c.tokens.authorize(ctx) }

// TokenState tells how the token stands, for status and metrics.
func (c *Client) TokenState() TokenState { return c.tokens.state() }

// Ping asks the API for {base}, which books nothing. nil means that somebody behind the gateway answered, whatever
// the answer was: only 502, 503 and 504 and no answer at all are failures, always with Unknown false. Without a
// traceID one is made. It uses the token in hand if there is one and never fetches one.
func (c *Client) Ping(ctx context.Context, traceID string) error {
	if traceID == "" {
		traceID = newTraceID(c.tracePrefix)
	}
	callCtx, cancel := context.WithTimeoutCause(ctx, c.timeout, c.tooLate)
	defer cancel()
	resp, err := c.get(callCtx, traceID)
	if err != nil {
		return c.unanswered(ctx, callCtx, err, false, c.scrubber(ctx, update.Request{}))
	}
	defer func() { _ = resp.Body.Close() }()
	answer := readAnswer(resp, cancel)
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		f := classify(resp.StatusCode, resp.Header, time.Now())
		f.Unknown = false // A ping books nothing.
		f.Detail = detail(f, resp.Header, answer, c.scrubber(ctx, update.Request{}))
		return f
	}
	return nil
}

// get asks for {base}. A connection that was kept too long may end under the request, and then it is made again, as
// another request with a trace ID of its own. By itself net/http would repeat it as it was; the body, which is empty, is
// there to keep it from that.
func (c *Client) get(ctx context.Context, traceID string) (*http.Response, error) {
	for again := 0; ; again++ {
		header := http.Header{"X-TraceId": {traceID}, "User-Agent": c.userAgent, "Accept": c.mediaType}
		if t := c.tokens.inHand(ctx); t != nil {
			header["Authorization"] = t.header
		}
		reused := false
		trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }}
		req := (&http.Request{
			Method: http.MethodGet, URL: c.base, Host: c.base.Host, Header: header, Body: io.NopCloser(strings.NewReader("")),
		}).WithContext(httptrace.WithClientTrace(ctx, trace))
		resp, err := c.transport.RoundTrip(req)
		if err == nil || !reused || again == maxResends || ctx.Err() != nil {
			return resp, err
		}
		traceID = newTraceID(c.tracePrefix)
	}
}

// Close ends a token call under way, waits for it and closes idle connections. Afterwards Authorize and Send fail
// as interrupted. Requests under way are not touched: end them by their contexts before.
func (c *Client) Close() {
	c.tokens.close()
	c.closeIdle()
}

// timeoutError is the cause of a call that took too long; it says which option to look at.
func timeoutError(d time.Duration) error {
	return &cause{text: fmt.Sprintf("no answer within %s (KEX_REQUEST_TIMEOUT)", d), err: context.DeadlineExceeded}
}

// interrupted is the fault of a call that our own side ended.
func interrupted(ctx context.Context, unknown bool) *fault.Error {
	return &fault.Error{
		Kind: fault.Interrupted, Unknown: unknown,
		Err: &cause{text: "interrupted by our own stop", err: stopOf(ctx)},
	}
}
