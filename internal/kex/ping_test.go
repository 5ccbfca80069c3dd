package kex

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"

	"kexrelay/internal/fault"
)

// TestPing: anything but a gateway's own failure means that the API answers; and a ping is never a possible booking.
func TestPing(t *testing.T) {
	for status, wantErr := range map[int]outcome{
		200: {}, 301: {}, 401: {}, 404: {}, 429: {}, 500: {}, 502: {fault.Transient, fault.Outage, false},
		503: {fault.Transient, fault.Outage, false}, 504: {fault.Transient, fault.Outage, false},
	} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet || r.URL.Path != "/kex" || r.ContentLength != 0 {
					t.Errorf("got %s %s with %d bytes", r.Method, r.URL, r.ContentLength)
				}
				if id := r.Header.Get("X-TraceId"); id != "probe-1" {
					t.Errorf("trace ID is %q", id)
				}
				w.WriteHeader(status)
			})
			c := newTestClient(t, srv.URL+"/kex")
			if got := outcomeOf(c.Ping(t.Context(), "probe-1")); got != wantErr {
				t.Errorf("got %+v, want %+v", got, wantErr)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		c := newTestClient(t, "http://"+closedPort(t))
		if got, want := outcomeOf(c.Ping(t.Context(), "")), (outcome{fault.Transient, fault.Outage, false}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
	t.Run("no answer is not a possible booking", func(t *testing.T) {
		c := newTestClient(t, serveRaw(t, func(conn net.Conn) { _, _, _ = readRequest(bufio.NewReader(conn)) }))
		if got, want := outcomeOf(c.Ping(t.Context(), "")), (outcome{fault.Transient, fault.Outage, false}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
	t.Run("again on another connection it has another trace ID", func(t *testing.T) {
		ids := make(chan string, 10)
		c := newTestClient(t, serveRaw(t, func(conn net.Conn) {
			r := bufio.NewReader(conn)
			for n := range 2 {
				req, _, err := readRequest(r)
				if err != nil {
					return
				}
				if ids <- req.Header.Get("X-TraceId"); n == 0 { // The second is read and gets no answer.
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			}
		}))
		for _, id := range []string{"a", "b"} {
			if err := c.Ping(t.Context(), id); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		}
		if first, second, third := <-ids, <-ids, <-ids; first != "a" || second != "b" || third == "b" || third == "" {
			t.Errorf("the trace IDs were %q, %q, %q", first, second, third)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		c := newTestClient(t, "http://127.0.0.1:1")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if got := outcomeOf(c.Ping(ctx, "")); got.kind != fault.Interrupted {
			t.Errorf("got %+v, want interrupted", got)
		}
	})
}
