package kex

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

var (
	notSent  = outcome{fault.Transient, fault.Outage, false}
	maybe    = outcome{fault.Transient, fault.Outage, true}
	stopped  = outcome{fault.Interrupted, "", false}
	cutShort = outcome{fault.Interrupted, "", true}
)

// closedPort is an address where nobody listens.
func closedPort(tb testing.TB) string {
	tb.Helper()
	return "127.0.0.1:1" // One that was free a moment ago may be another test's by now.
}

func bigDocument() update.Request {
	body := `{"filename": "a.pdf", "base64Content": "` + strings.Repeat("QUJD", 1<<20) + `"}`
	return update.Request{Vorgangsnummer: "1", Kind: update.Document, TraceID: "kxr-1", Body: []byte(body)}
}

// TestLostOnRealConnections: what a request without an answer may have done, over real sockets.
func TestLostOnRealConnections(t *testing.T) {
	small, big := commentsRequest("x"), bigDocument()
	tests := map[string]struct {
		r      update.Request
		want   outcome
		says   string
		handle func(net.Conn)
	}{
		"closed after the request": {small, maybe, "EOF", func(conn net.Conn) {
			_, _, _ = readRequest(bufio.NewReader(conn))
		}},
		"reset after the request": {small, maybe, "", func(conn net.Conn) {
			_, _, _ = readRequest(bufio.NewReader(conn))
			reset(conn)
		}},
		"reset in the middle of the body": {big, maybe, "", func(conn net.Conn) {
			_, _ = io.CopyN(io.Discard, conn, 100_000)
			reset(conn)
		}},
		"reset before anything was read": {big, maybe, "", func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 1))
			reset(conn)
		}},
		"not HTTP": {small, maybe, "malformed", func(conn net.Conn) {
			_, _, _ = readRequest(bufio.NewReader(conn))
			fmt.Fprint(conn, "hello world, this is not HTTP\r\n\r\n")
		}},
		"status line without header end": {small, maybe, "", func(conn net.Conn) {
			_, _, _ = readRequest(bufio.NewReader(conn))
			fmt.Fprint(conn, "HTTP/1.1 201 Created\r\nX: ")
		}},
		"answered early": {big, outcome{fault.Permanent, fault.Rejected, false}, "413", func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 1000))
			fmt.Fprint(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
			_, _ = io.Copy(io.Discard, conn)
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var conns atomic.Int32
			c := newTestClient(t, serveRaw(t, func(conn net.Conn) {
				conns.Add(1)
				tt.handle(conn)
			}))
			_, err := c.Send(t.Context(), tt.r)
			if got := outcomeOf(err); got != tt.want {
				t.Errorf("got %+v (%v), want %+v", got, err, tt.want)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error is %q, want it to say %q", err, tt.says)
			}
			if n := conns.Load(); n != 1 {
				t.Errorf("the request was sent %d times", n)
			}
		})
	}
}

// TestNeverSent: failures before the first byte of the body.
func TestNeverSent(t *testing.T) {
	tlsServer := httptest.NewUnstartedServer(http.NotFoundHandler())
	tlsServer.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	tlsServer.StartTLS()
	t.Cleanup(tlsServer.Close)
	silent := serveRaw(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	garbage := serveRaw(t, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 10))
		fmt.Fprint(conn, "SSH-2.0-nope\r\n")
	})
	https := func(base string) string { return "https" + strings.TrimPrefix(base, "http") }
	proxy := func(status int) func(*testing.T, *Client) {
		return func(t *testing.T, c *Client) {
			t.Helper()
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodConnect || r.Header.Get("Authorization") != "" {
					t.Errorf("the proxy got %s with Authorization %q", r.Method, r.Header.Get("Authorization"))
				}
				w.WriteHeader(status)
			})
			u := mustURL(t, srv.URL)
			u.User = url.UserPassword("user", canarySecret)
			pool(t, c).Proxy = http.ProxyURL(u)
		}
	}
	tests := map[string]struct {
		base    string
		prepare func(*testing.T, *Client)
		says    string
	}{
		"refused":              {base: "http://" + closedPort(t), says: "refused"},
		"unknown certificate":  {base: tlsServer.URL, says: "certificate"},
		"no TLS there":         {base: https(garbage), says: "TLS"},
		"handshake times out":  {base: https(silent), says: "KEX_REQUEST_TIMEOUT", prepare: impatient(200 * time.Millisecond)},
		"proxy refuses":        {base: "https://api.invalid/kex", prepare: proxy(http.StatusForbidden), says: "status 403 (HTTPS_PROXY"},
		"proxy wants password": {base: "https://api.invalid/kex", prepare: proxy(http.StatusProxyAuthRequired), says: "status 407"},
		"proxy has no way":     {base: "https://api.invalid/kex", prepare: proxy(http.StatusBadGateway), says: "status 502"},
		"no proxy there": {base: "https://api.invalid/kex", says: "refused", prepare: func(t *testing.T, c *Client) {
			t.Helper()
			pool(t, c).Proxy = http.ProxyURL(mustURL(t, "http://"+closedPort(t)))
		}},
		"no such name": {base: "http://127.0.0.1:1", says: "no such host", prepare: func(t *testing.T, c *Client) {
			t.Helper()
			pool(t, c).DialContext = func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "api", IsNotFound: true}}
			}
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := newTestClient(t, tt.base)
			if tt.prepare != nil {
				tt.prepare(t, c)
			}
			_, err := c.Send(t.Context(), bigDocument())
			if got := outcomeOf(err); got != notSent {
				t.Errorf("got %+v (%v), want %+v", got, err, notSent)
			}
			if f := faultOf(t, err); !strings.Contains(f.Detail, tt.says) || f.Err == nil {
				t.Errorf("detail is %q, want it to say %q", f.Detail, tt.says)
			}
			noCanary(t, err)
		})
	}
}

func impatient(d time.Duration) func(*testing.T, *Client) {
	return func(_ *testing.T, c *Client) { c.timeout, c.tooLate = d, timeoutError(d) }
}

// TestStaleConnection: the server closed an idle connection, and we have not noticed when the next POST is put on
// it. What was not written at all goes out on another connection; what was written never goes out again.
func TestStaleConnection(t *testing.T) {
	t.Run("nothing could be written", func(t *testing.T) {
		var requests, dials atomic.Int32
		srv := serve(t, func(http.ResponseWriter, *http.Request) { requests.Add(1) })
		c := newTestClient(t, srv.URL)
		dial := pool(t, c).DialContext
		var broken []*brokenConn
		pool(t, c).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if err != nil || dials.Add(1) > 1 {
				return conn, err
			}
			b := &brokenConn{Conn: conn}
			broken = append(broken, b)
			return &countedConn{Conn: b}, nil
		}
		if _, err := c.Send(t.Context(), commentsRequest("1")); err != nil {
			t.Fatal(err)
		}
		broken[0].broken.Store(true)
		if _, err := c.Send(t.Context(), commentsRequest("2")); err != nil {
			t.Errorf("second request: %v", err)
		}
		if requests.Load() != 2 || dials.Load() != 2 {
			t.Errorf("%d requests arrived over %d connections, want 2 over 2", requests.Load(), dials.Load())
		}
	})
	t.Run("nothing could be written, TLS", func(t *testing.T) {
		var requests atomic.Int32
		srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
		t.Cleanup(srv.Close)
		c := newTestClient(t, srv.URL)
		trusting(t, c, srv)
		dial := pool(t, c).DialContext
		var first *brokenConn
		pool(t, c).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			b := &brokenConn{Conn: conn, smallPass: true} // The alert that says goodbye still gets out.
			if first == nil {
				first = b
			}
			return &countedConn{Conn: b}, err
		}
		if _, err := c.Send(t.Context(), commentsRequest("1")); err != nil {
			t.Fatal(err)
		}
		first.broken.Store(true)
		if _, err := c.Send(t.Context(), commentsRequest("2")); err != nil || requests.Load() != 2 {
			t.Errorf("second request: %v; %d arrived", err, requests.Load())
		}
		if !first.said.Load() {
			t.Error("nothing was written when the connection was closed: this test tests nothing")
		}
	})
	t.Run("nothing could be written anywhere", func(t *testing.T) {
		c := newTestClient(t, serveRaw(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }))
		dial := pool(t, c).DialContext
		dials := 0
		pool(t, c).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials++
			conn, err := dial(ctx, network, addr)
			b := &brokenConn{Conn: conn}
			b.broken.Store(true)
			return &countedConn{Conn: b}, err
		}
		_, err := c.Send(t.Context(), commentsRequest("1"))
		if got := outcomeOf(err); got != notSent || !errors.Is(err, syscall.EPIPE) || dials != 1 {
			t.Errorf("got %+v (%v) over %d connections, want %+v over 1", got, err, dials, notSent)
		}
	})
	t.Run("written and then lost", func(t *testing.T) {
		var requests atomic.Int32
		c := newTestClient(t, serveRaw(t, func(conn net.Conn) {
			r := bufio.NewReader(conn)
			for {
				if _, _, err := readRequest(r); err != nil {
					return
				}
				if requests.Add(1) == 2 {
					return
				}
				fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
		}))
		if _, err := c.Send(t.Context(), commentsRequest("1")); err != nil {
			t.Fatal(err)
		}
		_, err := c.Send(t.Context(), commentsRequest("2"))
		if got := outcomeOf(err); got != maybe || requests.Load() != 2 {
			t.Errorf("got %+v after %d requests, want %+v after 2", got, requests.Load(), maybe)
		}
	})
	t.Run("closed and noticed", func(t *testing.T) {
		closed := make(chan struct{}, 2)
		c := newTestClient(t, serveRaw(t, func(conn net.Conn) {
			_, _, _ = readRequest(bufio.NewReader(conn))
			fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			_ = conn.Close()
			closed <- struct{}{}
		}))
		for i := range 20 {
			_, err := c.Send(t.Context(), commentsRequest("x"))
			if err == nil {
				<-closed
				continue
			}
			// The close may cross with the request. Then it is unknown, and nothing else.
			if got := outcomeOf(err); got != maybe && got != notSent {
				t.Fatalf("request %d: got %+v (%v)", i, got, err)
			}
		}
	})
}

// brokenConn fails to write once broken, but goes on reading, as one does that has not seen the FIN yet.
type brokenConn struct {
	net.Conn

	broken, said atomic.Bool
	smallPass    bool
}

func (b *brokenConn) Write(p []byte) (int, error) {
	if b.broken.Load() {
		if b.smallPass && len(p) < minRequestWrite {
			b.said.Store(true)
			return b.Conn.Write(p)
		}
		return 0, &net.OpError{Op: "write", Err: syscall.EPIPE}
	}
	return b.Conn.Write(p)
}

// TestBodyIsNeverBegunAfterItWasFoundUntouched: the claim "nothing was sent" has to stay true.
func TestBodyIsNeverBegunAfterItWasFoundUntouched(t *testing.T) {
	b := newBody([]byte("abc"))
	if b.begun() {
		t.Fatal("begun before anything was read")
	}
	if n, err := b.Read(make([]byte, 3)); n != 0 || err == nil {
		t.Errorf("Read gave %d bytes, %v after the body had been found untouched", n, err)
	}
	b = newBody([]byte("abc"))
	if got, err := io.ReadAll(b); string(got) != "abc" || err != nil || !b.begun() {
		t.Errorf("got %q, %v, begun %v", got, err, b.begun())
	}
	_ = b.Close()
	if !b.begun() {
		t.Error("a closed body that was read counts as untouched")
	}
}

// TestHugeHeader: an answer's header is bounded, too; beyond, the request counts as unanswered.
func TestHugeHeader(t *testing.T) {
	c := newTestClient(t, serveRaw(t, func(conn net.Conn) {
		_, _, _ = readRequest(bufio.NewReader(conn))
		fmt.Fprint(conn, "HTTP/1.1 201 Created\r\n")
		line := bytes.Repeat([]byte("X-Filler: "+strings.Repeat("a", 1000)+"\r\n"), 10)
		for {
			if _, err := conn.Write(line); err != nil {
				return
			}
		}
	}))
	_, err := c.Send(t.Context(), commentsRequest("x"))
	if got := outcomeOf(err); got != maybe || !strings.Contains(err.Error(), "exceeded") {
		t.Errorf("got %+v (%v), want %+v", got, err, maybe)
	}
}
