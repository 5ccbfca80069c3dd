package kex

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
)

// What a hostile answer may cost at most, whatever it is: the bytes that are read of it, and what is allocated in all
// until the call returns (the test's own server included). Chunks of one byte are six on the wire, and a header of
// nothing but names costs twenty times its size.
const (
	mostRead      = 448 << 10
	mostAllocated = 8 << 20
)

// metered counts what is read from a connection.
type metered struct {
	net.Conn

	read *atomic.Int64
}

func (m metered) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	m.read.Add(int64(n))
	return n, err
}

// newMeteredClient is a client inside a bubble whose API and token endpoint are both handle, and how many bytes it has
// read from them.
func newMeteredClient(tb testing.TB, handle func(net.Conn)) (*Client, *atomic.Int64) {
	tb.Helper()
	p, read := newPipeNet(), new(atomic.Int64)
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := p.dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &countedConn{Conn: metered{conn, read}}, nil
	}
	c := newTestClient(tb, "http://127.0.0.1:1")
	pool(tb, c).DialContext = dial
	tokens := newTransport(nil, spareConns)
	tokens.DialContext = dial
	tb.Cleanup(tokens.CloseIdleConnections)
	c.tokens.fetch = newEndpoint(testConfig("").withDefaults(), mustURL(tb, "http://127.0.0.1:1/token"), tokens).fetch
	serveListener(tb, p, handle)
	return c, read
}

// forever writes the same again and again until the other side has gone, with a pause before each if there is one.
func forever(w io.Writer, text string, pause time.Duration) {
	chunk := []byte(text)
	for {
		if pause > 0 {
			<-time.After(pause)
		}
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// bomb is 64 MiB of JSON in 64 KiB.
func bomb(tb testing.TB) string {
	tb.Helper()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	spaces := bytes.Repeat([]byte(" "), 1<<20)
	for range 64 {
		_, _ = z.Write(spaces)
	}
	_, _ = io.WriteString(z, `{"access_token":"t","expires_in":3600}`)
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return packed.String()
}

// Whatever the API or the token endpoint answers costs so many bytes, so much memory and so much time, and becomes what
// the status line says; without one it is unknown (of a token: an outage).
func TestHostileAnswersAreBounded(t *testing.T) {
	packed := bomb(t)
	mebibyte := strings.Repeat("a", 1<<20)
	const timeout, patience = 30 * time.Second, 2 * time.Second
	tests := map[string]struct {
		// answer is given the status line to begin with.
		answer func(conn net.Conn, line string)
		// headless says that the header never ends, so that there is no status.
		headless bool
		// A token that is whole in spite of all is taken.
		token bool
		took  time.Duration // At most; by an answer with a status line a good token takes the timeout.
	}{
		"status line byte by byte": {headless: true, took: timeout, answer: func(conn net.Conn, line string) {
			for i := range line {
				<-time.After(2 * time.Second)
				_, _ = io.WriteString(conn, line[i:i+1])
			}
		}},
		"header byte by byte": {headless: true, took: timeout, answer: func(conn net.Conn, line string) {
			_, _ = io.WriteString(conn, line+"X: ")
			forever(conn, "a", 100*time.Millisecond)
		}},
		"header without end": {headless: true, answer: func(conn net.Conn, line string) {
			_, _ = io.WriteString(conn, line)
			forever(conn, "X-Filler: "+strings.Repeat("a", 1000)+"\r\n", 0)
		}},
		"header line without end": {headless: true, answer: func(conn net.Conn, line string) {
			_, _ = io.WriteString(conn, line+"X: ")
			forever(conn, mebibyte, 0)
		}},
		"headers of one byte": {headless: true, answer: func(conn net.Conn, line string) {
			_, _ = io.WriteString(conn, line)
			forever(conn, "a:\r\n", 0)
		}},
		"status line without end": {headless: true, answer: func(conn net.Conn, _ string) {
			_, _ = io.WriteString(conn, "HTTP/1.1 ")
			forever(conn, mebibyte, 0)
		}},
		"interim answers without end": {headless: true, answer: func(conn net.Conn, _ string) {
			forever(conn, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 0)
		}},
		"interim answers, slowly": {headless: true, took: timeout, answer: func(conn net.Conn, _ string) {
			forever(conn, "HTTP/1.1 100 Continue\r\n\r\n", time.Second)
		}},
		"lengths that contradict each other": {headless: true, answer: func(conn net.Conn, line string) {
			_, _ = io.WriteString(conn, line+"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!")
		}},
		"a negative length": {headless: true, answer: func(conn net.Conn, line string) {
			_, _ = io.WriteString(conn, line+"Content-Length: -1\r\n\r\n")
		}},
		"a body of 1 GB": {took: patience, answer: func(conn net.Conn, line string) {
			_, _ = io.WriteString(conn, line+"Content-Length: 1073741824\r\n\r\n")
			forever(conn, mebibyte, 0)
		}},
		"a body of 1 GB in chunks": {took: patience, answer: func(conn net.Conn, line string) {
			_, _ = io.WriteString(conn, line+"Transfer-Encoding: chunked\r\n\r\n40000000\r\n")
			forever(conn, mebibyte, 0)
		}},
		"chunks of one byte": {took: patience, answer: func(conn net.Conn, line string) {
			_, _ = io.WriteString(conn, line+"Transfer-Encoding: chunked\r\n\r\n")
			forever(conn, "1\r\na\r\n", 0)
		}},
		"a body byte by byte": {took: patience, answer: func(conn net.Conn, line string) {
			_, _ = io.WriteString(conn, line+"Content-Length: 100000\r\n\r\n")
			forever(conn, "a", 100*time.Millisecond)
		}},
		"a chunk of impossible length": {answer: func(conn net.Conn, line string) {
			_, _ = io.WriteString(conn, line+"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n")
			forever(conn, mebibyte, 0)
		}},
		"a chunk without a length": {answer: func(conn net.Conn, line string) {
			_, _ = io.WriteString(conn, line+"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
		}},
		"a chunk that breaks off": {answer: func(conn net.Conn, line string) {
			_, _ = io.WriteString(conn, line+"Transfer-Encoding: chunked\r\n\r\n100\r\n{\"access_")
		}},
		"a chunk extension without end": {answer: func(conn net.Conn, line string) {
			_, _ = io.WriteString(conn, line+"Transfer-Encoding: chunked\r\n\r\n1;")
			forever(conn, mebibyte, 0)
		}},
		"trailers without end": {answer: func(conn net.Conn, line string) {
			_, _ = io.WriteString(conn, line+"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
			forever(conn, "X-Filler: "+strings.Repeat("a", 1000)+"\r\n", 0)
		}},
		"a compressed bomb": {answer: func(conn net.Conn, line string) {
			_, _ = io.WriteString(conn, line+"Content-Encoding: gzip\r\nContent-Type: application/json\r\n\r\n"+packed)
		}},
		"a compressed bomb in chunks": {answer: func(conn net.Conn, line string) {
			_, _ = io.WriteString(conn, line+"Transfer-Encoding: gzip, chunked\r\n\r\n1000\r\n"+packed)
		}, headless: true}, // Only "chunked" is a transfer encoding that a request has not asked for.
		"a token in the midst of noise": {token: true, answer: func(conn net.Conn, line string) {
			_, _ = io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n"+
				line+"Content-Type: application/json\r\n\r\n"+`{"access_token":"t","expires_in":3600}`)
		}},
	}
	for name, tt := range tests {
		for _, line := range []string{"HTTP/1.1 201 Created\r\n", "HTTP/1.1 400 Bad\r\n"} {
			good := strings.Contains(line, "201")
			api, token := outcome{}, notSent
			switch {
			case tt.headless:
				api = maybe
			case !good:
				api, token = outcome{fault.Permanent, fault.BadRequest, false}, outcome{fault.Systemic, fault.Unauthorized, false}
			case tt.token:
				token = outcome{}
			}
			t.Run(name+", "+line[9:12]+" from the API", func(t *testing.T) {
				hostile(t, tt.answer, line, api, tt.took, func(ctx context.Context, c *Client) error {
					_, err := c.Send(ctx, commentsRequest("Zwiebelfisch"))
					return err
				})
			})
			took := tt.took
			if tt.took == patience && good { // The token is in the body: it is waited for.
				took = timeout
			}
			t.Run(name+", "+line[9:12]+" from the token endpoint", func(t *testing.T) {
				hostile(t, tt.answer, line, token, took, func(ctx context.Context, c *Client) error {
					c.tokens.current = nil
					return c.Authorize(ctx)
				})
			})
		}
	}
}

// hostile makes a call that is answered so, and checks what came of it and what it cost.
func hostile(
	t *testing.T, answer func(net.Conn, string), line string, want outcome, took time.Duration, call func(context.Context, *Client) error,
) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c, read := newMeteredClient(t, func(conn net.Conn) {
			req, _, err := readRequest(bufio.NewReader(conn))
			if err != nil {
				return
			}
			if enc := req.Header.Get("Accept-Encoding"); enc != "" {
				t.Errorf("the request accepts %q", enc)
			}
			answer(conn, line)
		})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		err := call(t.Context(), c)
		if d := time.Since(start); d > took {
			t.Errorf("took %s, want at most %s", d, took)
		}
		runtime.ReadMemStats(&after)
		if got := outcomeOf(err); got != want {
			t.Errorf("got %+v (%v), want %+v", got, err, want)
		}
		if n := read.Load(); n > mostRead {
			t.Errorf("%d bytes were read, want at most %d", n, mostRead)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > mostAllocated {
			t.Errorf("%d bytes were allocated, want at most %d", n, mostAllocated)
		}
		if err != nil {
			harmless(t, err)
		}
	})
}

// The same over HTTP/2, whose frames net/http reads by itself: bodies of 1 GB, headers and interim answers without end.
func TestHostileAnswersAreBoundedOverHTTP2(t *testing.T) {
	filler := strings.Repeat("a", 1000)
	for name, tt := range map[string]struct {
		handle http.HandlerFunc
		want   outcome
	}{
		"a body of 1 GB": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusCreated)
			forever(w, filler, 0)
		}, outcome{}},
		"an error of 1 GB": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusGone)
			forever(w, filler, 0)
		}, outcome{fault.Permanent, fault.Gone, false}},
		"a header beyond all bounds": {func(w http.ResponseWriter, _ *http.Request) {
			for range 512 << 10 / len(filler) {
				w.Header().Add("X-Filler", filler)
			}
			w.WriteHeader(http.StatusCreated)
		}, maybe},
		"interim answers without end": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", filler)
			for r.Context().Err() == nil {
				w.WriteHeader(http.StatusEarlyHints)
			}
		}, maybe},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(tt.handle)
			srv.EnableHTTP2 = true
			srv.StartTLS()
			t.Cleanup(srv.Close)
			read := new(atomic.Int64)
			c := newTestClient(t, srv.URL, func(cfg *Config) { cfg.RequestTimeout = 10 * time.Second })
			trusting(t, c, srv)
			dial := pool(t, c).DialContext
			pool(t, c).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := dial(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				return &countedConn{Conn: metered{conn, read}}, nil
			}
			_, err := c.Send(t.Context(), commentsRequest("x"))
			if got := outcomeOf(err); got != tt.want {
				t.Errorf("got %+v (%v), want %+v", got, err, tt.want)
			}
			// HTTP/2 sends what the window allows before anybody reads it: 4 MiB per stream.
			if n := read.Load(); n > 5<<20 {
				t.Errorf("%d bytes were read", n)
			}
		})
	}
}
