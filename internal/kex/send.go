package kex

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

const (
	// maxResends is how often one attempt is put on another connection after it met one that was being closed.
	maxResends = 3
	// maxTraceHeader bounds traceparent and tracestate, which come from the publisher; W3C wants 512 passed on.
	maxTraceHeader = 1024
)

// Send makes one attempt to book r: one POST with the token in hand and one answer. nil means 2xx: booked.
//
// The error is a [*fault.Error] by the table of outcomes. Its Unknown says whether the request may have been booked
// without an answer telling so: from the first byte of the body on that has to be assumed, unless an HTTP/2 server
// itself says that it did nothing. Once the status line is read it alone decides; a broken, slow or endless body
// changes nothing and delays the return by 2 s at most. If ctx ends, Send returns at once as interrupted. After a
// 401 the token that was used is dropped, if it is still the current one.
//
// Without a usable token Send fails at once as interrupted with Unknown false: call Authorize before. Nothing is ever
// sent twice, except that a request which met a connection being closed goes out on another one if it is certain
// that it did not arrive.
func (c *Client) Send(ctx context.Context, r update.Request) (update.Answer, error) {
	start := time.Now()
	u, f := c.endpoint(r)
	if f != nil {
		return update.Answer{}, f
	}
	if ctx.Err() != nil {
		return update.Answer{}, interrupted(ctx, false)
	}
	t := c.tokens.inHand(ctx)
	if t == nil {
		return update.Answer{}, c.tokens.missing()
	}
	callCtx, cancel := context.WithTimeoutCause(ctx, c.timeout, c.tooLate)
	defer cancel()

	resp, unknown, err := c.post(callCtx, u, r, t)
	if f, ok := errors.AsType[*fault.Error](err); ok && ctx.Err() == nil && callCtx.Err() == nil {
		return update.Answer{}, f // The document could not be read.
	}
	if err != nil {
		return update.Answer{}, c.unanswered(ctx, callCtx, err, unknown, c.scrubber(ctx, r))
	}
	f = classify(resp.StatusCode, resp.Header, time.Now())
	if f == nil {
		drain(resp, cancel)
		return update.Answer{Status: resp.StatusCode, Duration: time.Since(start)}, nil
	}
	if f.Reason == fault.Unauthorized {
		c.tokens.invalidate(t)
	}
	s := c.scrubber(ctx, r)
	s.reread = f.Kind == fault.Permanent
	f.Detail = detail(f, resp.Header, readAnswer(resp, cancel), s)
	return update.Answer{}, f
}

// post brings the request to the API and gives the answer with its status line read. On an error, unknown says
// whether the request may have arrived.
func (c *Client) post(ctx context.Context, u *url.URL, r update.Request, t *token) (resp *http.Response, unknown bool, err error) {
	header := c.header(r, t)
	for resend := 0; ; resend++ {
		p := newPassage(ctx, r, c.http1.Load())
		req := (&http.Request{
			Method: http.MethodPost, URL: u, Host: u.Host, Header: header,
			Body: p.body, ContentLength: p.length,
		}).WithContext(httptrace.WithClientTrace(ctx, p.trace()))
		// The transport itself, not an http.Client: that would parse the Location of a redirect and fail on a bad one.
		resp, err = c.transport.RoundTrip(req)
		if err == nil {
			if http1 := resp.ProtoMajor == 1; http1 != c.http1.Load() {
				c.http1.Store(http1)
			}
			return resp, false, nil
		}
		if failure := p.failure(); failure != nil {
			// The request never became complete, so no server can have booked it.
			return nil, false, failure
		}
		unwritten, excluded := p.unwritten(), p.excluded(err)
		if (unwritten && p.reused || excluded) && resend < maxResends && ctx.Err() == nil {
			continue // The connection was being closed: on another one it may go better.
		}
		return nil, p.begun() && !unwritten && !excluded && !p.refused(err), err
	}
}

// header is made per request; the key of X-TraceId is spelt as the API's documentation does.
func (c *Client) header(r update.Request, t *token) http.Header {
	h := http.Header{
		"Accept":        c.mediaType,
		"Authorization": t.header,
		"Content-Type":  c.mediaType,
		"User-Agent":    c.userAgent,
		"X-TraceId":     {r.TraceID},
	}
	// A malformed trace context must not keep the update from being sent.
	if isTraceHeader(r.Traceparent) {
		h["traceparent"] = []string{r.Traceparent}
		if isTraceHeader(r.Tracestate) {
			h["tracestate"] = []string{r.Tracestate}
		}
	}
	return h
}

func isTraceHeader(v string) bool {
	return v != "" && len(v) <= maxTraceHeader && isPrintable(strings.ReplaceAll(v, " ", ""))
}

// endpoint is the URL for r. What is refused here can never be sent; update.Decode has seen to it before, so this
// is the second lock on the door: a Vorgangsnummer must not lead to another path.
func (c *Client) endpoint(r update.Request) (*url.URL, *fault.Error) {
	invalid := func(detail string) (*url.URL, *fault.Error) {
		return nil, &fault.Error{Kind: fault.Permanent, Reason: fault.Invalid, Detail: detail}
	}
	switch {
	case r.Kind != update.Document && r.Kind != update.Comments:
		return invalid("the API has no endpoint for this kind of update")
	case !isVorgangsnummer(r.Vorgangsnummer):
		return invalid("the Vorgangsnummer must be 1 to 64 letters, digits, - or _")
	case len(r.Body) == 0 && r.Content == nil:
		return invalid("the body is empty")
	case !update.ValidRequestTraceID(r.TraceID):
		return invalid("the trace ID must be printable ASCII without spaces")
	}
	u := *c.base
	if u.RawPath != "" {
		u.RawPath = pathOf(u.RawPath, r)
	}
	u.Path = pathOf(u.Path, r)
	return &u, nil
}

// pathOf is the path for r below a base's. Nothing that is added needs escaping.
func pathOf(base string, r update.Request) string {
	return strings.TrimSuffix(base, "/") + "/vorgang/" + r.Vorgangsnummer + "/" + string(r.Kind)
}

func isVorgangsnummer(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '-' && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 64
}
