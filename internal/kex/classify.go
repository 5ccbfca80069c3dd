package kex

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"kexrelay/internal/fault"
)

// classify says what a status line means; nil means booked. The detail is filled in by the caller.
//
//	2xx                              nil
//	400, 403, 404, 410               permanent: bad_request, forbidden, not_found, gone
//	401                              systemic: unauthorized
//	429, and 503 with Retry-After    throttled
//	408, 425, other 5xx              transient: outage; of these 502 and 504 are unknown
//	other 4xx, 3xx                   permanent: rejected, redirected
//	anything else                    transient: outage, unknown, for nobody can say what it means
func classify(status int, h http.Header, now time.Time) *fault.Error {
	f := func(kind fault.Kind, reason fault.Reason) *fault.Error {
		return &fault.Error{Kind: kind, Reason: reason, Status: status}
	}
	switch status {
	case http.StatusBadRequest:
		return f(fault.Permanent, fault.BadRequest)
	case http.StatusUnauthorized:
		return f(fault.Systemic, fault.Unauthorized)
	case http.StatusForbidden:
		return f(fault.Permanent, fault.Forbidden)
	case http.StatusNotFound:
		return f(fault.Permanent, fault.NotFound)
	case http.StatusGone:
		return f(fault.Permanent, fault.Gone)
	case http.StatusRequestTimeout, http.StatusTooEarly:
		return f(fault.Transient, fault.Outage)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		wait, asked := retryAfter(h, now)
		if status == http.StatusServiceUnavailable && !asked {
			return f(fault.Transient, fault.Outage)
		}
		e := f(fault.Throttled, fault.Throttling)
		e.RetryAfter = wait
		return e
	}
	switch status / 100 {
	case 2:
		return nil
	case 3:
		return f(fault.Permanent, fault.Redirected)
	case 4:
		return f(fault.Permanent, fault.Rejected)
	}
	e := f(fault.Transient, fault.Outage)
	e.Unknown = status == http.StatusBadGateway || status == http.StatusGatewayTimeout || status/100 != 5
	return e
}

// unanswered is the fault of a request whose status line was not read. ctx is the caller's context, callCtx the one
// with the request timeout.
func (c *Client) unanswered(ctx, callCtx context.Context, err error, unknown bool, s *scrubber) *fault.Error {
	if ctx.Err() != nil {
		return interrupted(ctx, unknown)
	}
	why := causeOf(callCtx, err, s)
	f := &fault.Error{Kind: fault.Transient, Reason: fault.Outage, Unknown: unknown, Err: why}
	if unknown {
		f.Detail = cut("no answer after the request was sent, so it may have been booked: "+why.text, maxDetail)
	} else {
		f.Detail = cut("the request did not reach the API: "+why.text, maxDetail)
	}
	return f
}

// cause stands for an error whose own text may repeat what the other side sent (a malformed status line, say). It
// has a scrubbed text and answers errors.Is for the error, but does not hand it out: so no %v further up can
// print it.
type cause struct {
	text string
	err  error
}

// Error is the scrubbed text.
func (c *cause) Error() string { return c.text }

// Is compares with the error that the cause stands for.
func (c *cause) Is(target error) bool { return errors.Is(c.err, target) }

// causeOf words why a call has no answer: a timeout by its name, anything else as it is, scrubbed.
func causeOf(callCtx context.Context, err error, s *scrubber) *cause {
	if callCtx.Err() != nil {
		err = context.Cause(callCtx)
	}
	if c, ok := errors.AsType[*cause](err); ok {
		return c
	}
	text := clean([]byte(err.Error()))
	if !isOwnWords(err) {
		text = s.scrub(text)
	}
	return &cause{text: cut(text, maxDetail/2), err: err}
}

// isOwnWords reports that an error's text was made by this machine and so cannot repeat a request: these are by far
// the most frequent ones, and in an outage each document of megabytes would be compared with them.
func isOwnWords(err error) bool {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return true
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	_, ok := errors.AsType[*net.OpError](err)
	return ok
}

// stopOf is why ctx ended, comparable with context.Canceled as well as with the cause that was given.
func stopOf(ctx context.Context) error {
	why := context.Cause(ctx)
	if why == nil || errors.Is(why, ctx.Err()) {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w", ctx.Err(), why)
}
