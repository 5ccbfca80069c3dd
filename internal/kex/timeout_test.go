package kex

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
)

// TestTimeouts are exact: they run on synctest's clock.
func TestTimeouts(t *testing.T) {
	silent := func(conn net.Conn) {
		_, _, _ = readRequest(bufio.NewReader(conn))
		_, _ = io.Copy(io.Discard, conn)
	}
	answering := func(head string, drip bool) func(net.Conn) {
		return func(conn net.Conn) {
			_, _, _ = readRequest(bufio.NewReader(conn))
			fmt.Fprint(conn, head)
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for range tick.C {
				chunk := "a"
				if !drip {
					chunk = strings.Repeat("a", 16<<10)
				}
				if _, err := fmt.Fprint(conn, chunk); err != nil {
					return
				}
			}
		}
	}
	tests := map[string]struct {
		handle func(net.Conn)
		dial   bool
		want   outcome
		took   time.Duration
	}{
		"no connection":           {dial: true, want: notSent, took: 30 * time.Second},
		"no answer":               {handle: silent, want: maybe, took: 30 * time.Second},
		"body never read":         {handle: func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)); waitClosed(conn) }, want: maybe, took: 30 * time.Second},
		"201, body drips":         {handle: answering("HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n", true), took: drainTime},
		"201, endless body":       {handle: answering("HTTP/1.1 201 Created\r\n\r\n", false), took: 400 * time.Millisecond},
		"201, huge body declared": {handle: answering("HTTP/1.1 201 Created\r\nContent-Length: 99999999\r\n\r\n", false), took: 0},
		"400, body drips": {
			handle: answering("HTTP/1.1 400 Bad\r\nContent-Length: 1000\r\n\r\n", true),
			want:   outcome{fault.Permanent, fault.BadRequest, false}, took: answerTime,
		},
		"400, endless body": {
			handle: answering("HTTP/1.1 400 Bad\r\n\r\n", false),
			want:   outcome{fault.Permanent, fault.BadRequest, false}, took: 400 * time.Millisecond,
		},
		"410, body breaks": {
			handle: func(conn net.Conn) {
				_, _, _ = readRequest(bufio.NewReader(conn))
				fmt.Fprint(conn, "HTTP/1.1 410 Gone\r\nContent-Length: 100\r\n\r\nhalf")
			},
			want: outcome{fault.Permanent, fault.Gone, false},
		},
		"201, body breaks": {
			handle: func(conn net.Conn) {
				_, _, _ = readRequest(bufio.NewReader(conn))
				fmt.Fprint(conn, "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\nzz")
			},
		},
		"101": {
			handle: func(conn net.Conn) {
				_, _, _ = readRequest(bufio.NewReader(conn))
				fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
				waitClosed(conn)
			},
			want: maybe,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				handle := tt.handle
				if handle == nil {
					handle = waitClosed
				}
				c := newPipedClient(t, handle)
				if tt.dial {
					pool(t, c).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
						<-ctx.Done()
						return nil, ctx.Err()
					}
				}
				start := time.Now()
				r := bigDocument()
				r.Body = r.Body[:20_000] // More than fits into any buffer on the way.
				_, err := c.Send(t.Context(), r)
				if got := outcomeOf(err); got != tt.want {
					t.Errorf("got %+v (%v), want %+v", got, err, tt.want)
				}
				if took := time.Since(start); took != tt.took {
					t.Errorf("took %s, want %s", took, tt.took)
				}
				if tt.took == 30*time.Second && (!strings.Contains(err.Error(), "within 30s (KEX_REQUEST_TIMEOUT)") ||
					!errors.Is(err, context.DeadlineExceeded)) {
					t.Errorf("error %q does not name the timeout", err)
				}
			})
		})
	}
}

// waitClosed waits until the other side is gone without reading what it sends.
func waitClosed(conn net.Conn) {
	// A pipe has no buffer: one byte is read at a time and slowly, until the other side closes.
	for {
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			return
		}
		<-time.After(time.Second)
	}
}

// TestOwnStop: the caller's context ends the attempt at once, at every stage, and says so.
func TestOwnStop(t *testing.T) {
	errStopping := errors.New("the relay is stopping")
	const never = -1
	tests := map[string]struct {
		want outcome
		// read is how much of the request the server reads before the stop, never if there is no server.
		read int64
		dial bool
	}{
		"before the attempt":           {want: stopped, read: never},
		"while connecting":             {want: stopped, read: never, dial: true},
		"while the body goes out":      {want: cutShort, read: 10_000},
		"while waiting for the answer": {want: cutShort, read: 4 << 20},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			c := newTestClient(t, serveRaw(t, func(conn net.Conn) {
				if tt.read == never {
					t.Error("there was a connection")
				}
				_, _ = io.CopyN(io.Discard, conn, tt.read)
				cancel(errStopping)
				<-ctx.Done()
			}))
			switch {
			case tt.dial:
				pool(t, c).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
					cancel(errStopping)
					<-ctx.Done()
					return nil, ctx.Err()
				}
			case tt.read == never:
				cancel(errStopping)
			}
			_, err := c.Send(ctx, bigDocument())
			if got := outcomeOf(err); got != tt.want {
				t.Errorf("got %+v (%v), want %+v", got, err, tt.want)
			}
			if !errors.Is(err, context.Canceled) || !errors.Is(err, errStopping) {
				t.Errorf("error %v is neither context.Canceled nor its cause", err)
			}
		})
	}
}
