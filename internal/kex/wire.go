package kex

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptrace"
	"strings"
	"sync/atomic"

	"kexrelay/internal/update"
)

// Whether a request without an answer may have been booked depends on whether anything of its body can have left
// this process. Two witnesses tell: the connection, which knows whether anything was written to it at all, and for
// HTTP/2, where connections are shared, the body, which knows whether net/http ever took a byte of it. Both err only
// towards "may have left".

var errBodyClosed = errors.New("request body is closed")

const (
	bodyUntouched int32 = iota
	bodyBegun
	bodyClosed
)

// body is a request body that knows whether it was begun.
type body struct {
	rest  []byte
	state atomic.Int32
}

func newBody(b []byte) *body { return &body{rest: b} }

// Read gives the next bytes, from the first one on the body counts as begun.
func (b *body) Read(p []byte) (int, error) {
	if b.state.Load() != bodyBegun && !b.state.CompareAndSwap(bodyUntouched, bodyBegun) {
		return 0, errBodyClosed
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	if len(b.rest) == 0 {
		return n, io.EOF
	}
	return n, nil
}

// Close ends reading of a body that was not begun.
func (b *body) Close() error {
	b.state.CompareAndSwap(bodyUntouched, bodyClosed)
	return nil
}

// begun reports whether any byte was taken. A false is final although net/http's goroutines may still be running:
// it closes the body.
func (b *body) begun() bool {
	b.state.CompareAndSwap(bodyUntouched, bodyClosed)
	return b.state.Load() == bodyBegun
}

// minRequestWrite is smaller than any write that holds part of a request of ours (request line and headers alone
// are more than 100 bytes, in TLS some more) and larger than the TLS alert that says goodbye when a connection is
// closed: a connection that was found closed has written nothing but that.
const minRequestWrite = 64

// countedConn is a network connection below TLS that counts the writes which may have carried a request.
type countedConn struct {
	net.Conn

	writes atomic.Int64
}

func (c *countedConn) Write(p []byte) (int, error) {
	if len(p) < minRequestWrite {
		return c.Conn.Write(p)
	}
	c.writes.Add(1) // Before the write: what is under way counts.
	n, err := c.Conn.Write(p)
	if err != nil && n == 0 {
		c.writes.Add(-1)
	}
	return n, err
}

// ReadFrom writes a body that is in memory as it lies there. net/http reads bodies through a limit, and so would copy it
// into a buffer of 32 KiB and write that, again and again: for 1 MB, thirty writes in place of one.
func (c *countedConn) ReadFrom(r io.Reader) (int64, error) {
	if limited, ok := r.(*io.LimitedReader); ok {
		if body, ok := limited.R.(io.WriterTo); ok {
			n, err := body.WriteTo(&limitedWriter{c, limited.N})
			limited.N -= n
			return n, err
		}
	}
	return io.Copy(struct{ io.Writer }{c}, r)
}

// limitedWriter writes no more than what a body may have.
type limitedWriter struct {
	to   io.Writer
	left int64
}

var errBodyTooLong = errors.New("request body is longer than it was said to be")

// Write writes, or says that it is too much.
func (l *limitedWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > l.left {
		return 0, errBodyTooLong
	}
	n, err := l.to.Write(p)
	l.left -= int64(n)
	return n, err
}

// counted finds our connection below the TLS layers (two of them through an https:// proxy).
func counted(conn net.Conn) *countedConn {
	for conn != nil {
		if c, ok := conn.(*countedConn); ok {
			return c
		}
		layer, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		conn = layer.NetConn()
	}
	return nil
}

// passage watches one request on its way out.
type passage struct {
	body   io.ReadCloser
	length int64
	conn   net.Conn // nil: no connection was found.
	reused bool
	before int64 // Writes on the connection before this request.
}

// newPassage prepares for sending r's body, to a server that presumably speaks HTTP/1 or HTTP/2. In HTTP/1 the connection
// knows all, and the body is a bytes.Reader: only with that does net/http put header and body into one write (and
// packet, and TLS record), which saves a fifth of the time of a small request. Neither body has a GetBody, on purpose:
// net/http would use it to repeat a POST by itself, also after an HTTP/2 PROTOCOL_ERROR, when nobody knows what the
// server did with the first.
func newPassage(ctx context.Context, r update.Request, http1 bool) *passage {
	switch {
	case r.Content != nil:
		return &passage{body: newContentBody(ctx, r.Content), length: r.Content.Length()}
	case http1:
		return &passage{body: io.NopCloser(bytes.NewReader(r.Body)), length: int64(len(r.Body))}
	}
	return &passage{body: newBody(r.Body), length: int64(len(r.Body))}
}

// begun reports that the body may have been begun.
func (p *passage) begun() bool {
	if b, ok := p.body.(interface{ begun() bool }); ok {
		return b.begun()
	}
	return p.conn != nil
}

// failure is why the body could not be given in full, nil if nothing was wrong with it.
func (p *passage) failure() error {
	if b, ok := p.body.(*contentBody); ok {
		return b.failure()
	}
	return nil
}

// trace notes the connection that net/http chose for the request. The hook runs on RoundTrip's own goroutine.
func (p *passage) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		p.conn, p.reused, p.before = info.Conn, info.Reused, 0
		if c := counted(info.Conn); c != nil {
			p.before = c.writes.Load()
		}
	}}
}

// unwritten reports that nothing was written to the request's connection since it got it, so nothing of it can have
// left. HTTP/1 only: there the connection was the request's alone.
func (p *passage) unwritten() bool {
	c := counted(p.conn)
	return c != nil && !p.http2() && c.writes.Load() == p.before
}

func (p *passage) http2() bool {
	c, ok := p.conn.(*tls.Conn)
	return ok && c.ConnectionState().NegotiatedProtocol == "h2"
}

// How net/http words it when an HTTP/2 server promised not to have processed a request (RFC 9113 §8.7). It has no
// types for them; should the wording change, such requests count as unknown, which is safe.
const (
	textGoAway  = "http2: Transport: cannot retry err [http2: Transport received Server's graceful shutdown GOAWAY]"
	textStream  = "http2: Transport: cannot retry err [stream error: "
	textRefused = "; REFUSED_STREAM; received from peer]"
)

// excluded reports that the server's GOAWAY excludes the request's stream: it is closing the connection in the
// ordinary way, and the request belongs on another one.
func (p *passage) excluded(err error) bool {
	return p.http2() && strings.HasPrefix(err.Error(), textGoAway)
}

// refused reports that the server refused the request's stream before doing anything with it.
func (p *passage) refused(err error) bool {
	text := err.Error()
	return p.http2() && strings.HasPrefix(text, textStream) && strings.Contains(text, textRefused)
}
