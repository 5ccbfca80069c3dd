package kex

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kexrelay/internal/fault"
)

// startHTTP2 starts a TLS server that offers HTTP/2.
func startHTTP2(t *testing.T, h http.HandlerFunc) (*httptest.Server, *Client) {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	c := newTestClient(t, srv.URL)
	trusting(t, c, srv)
	return srv, c
}

func TestHTTP2(t *testing.T) {
	r := bigDocument()
	tests := map[string]struct {
		handle http.HandlerFunc
		want   outcome
	}{
		"booked": {want: outcome{}, handle: func(w http.ResponseWriter, req *http.Request) {
			b, err := io.ReadAll(req.Body)
			if err != nil || !bytes.Equal(b, r.Body) || req.ContentLength != int64(len(b)) {
				t.Errorf("got %d bytes of declared %d, %v", len(b), req.ContentLength, err)
			}
			w.WriteHeader(http.StatusCreated)
		}},
		"refused early": {
			want:   outcome{fault.Permanent, fault.Rejected, false},
			handle: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusRequestEntityTooLarge) },
		},
		"aborted after the body": {want: maybe, handle: func(_ http.ResponseWriter, req *http.Request) {
			_, _ = io.Copy(io.Discard, req.Body)
			panic(http.ErrAbortHandler)
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int32
			_, c := startHTTP2(t, func(w http.ResponseWriter, req *http.Request) {
				if req.ProtoMajor != 2 {
					t.Errorf("the request came by %s", req.Proto)
				}
				requests.Add(1)
				tt.handle(w, req)
			})
			_, err := c.Send(t.Context(), r)
			if got := outcomeOf(err); got != tt.want || requests.Load() != 1 {
				t.Errorf("got %+v (%v) after %d requests, want %+v after 1", got, err, requests.Load(), tt.want)
			}
			if c.http1.Load() {
				t.Error("the client takes the API for an HTTP/1 server")
			}
		})
	}
}

// Frame types, flags and error codes of HTTP/2.
const (
	frameHeaders  = 1
	frameReset    = 3
	frameSettings = 4
	frameGoAway   = 7

	flagEndStream  = 1
	flagAck        = 1
	flagEndHeaders = 4

	codeNone     = 0
	codeProtocol = 1
	codeInternal = 2
	codeRefused  = 7
)

// frameConn speaks just enough HTTP/2 to break it.
type frameConn struct {
	net.Conn

	t *testing.T
}

func (f *frameConn) write(kind, flags byte, stream uint32, payload ...byte) {
	head := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	head = append(head, flags)
	head = binary.BigEndian.AppendUint32(head, stream)
	_, _ = f.Write(append(head, payload...))
}

// request reads up to the end of the next request and gives its stream, 0 if the connection ended.
func (f *frameConn) request() uint32 {
	for {
		var head [9]byte
		if _, err := io.ReadFull(f, head[:]); err != nil {
			return 0
		}
		length := int64(head[0])<<16 | int64(head[1])<<8 | int64(head[2])
		if _, err := io.CopyN(io.Discard, f, length); err != nil {
			return 0
		}
		kind, flags, stream := head[3], head[4], binary.BigEndian.Uint32(head[5:])
		switch {
		case kind == frameSettings && flags&flagAck == 0:
			f.write(frameSettings, flagAck, 0)
		case stream != 0 && flags&flagEndStream != 0 && kind <= frameHeaders:
			return stream
		}
	}
}

func code(last, c uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, last), c)
}

// TestHTTP2Refusals: what an HTTP/2 server says about requests it did not answer.
func TestHTTP2Refusals(t *testing.T) {
	answer := func(f *frameConn, stream uint32) {
		f.write(frameHeaders, flagEndHeaders|flagEndStream, stream, 0x88) // :status 200
	}
	tests := map[string]struct {
		// handle is called for each complete request; nth counts them over all connections.
		handle   func(f *frameConn, stream uint32, nth int32)
		want     outcome
		requests int32
	}{
		"excluded by a GOAWAY, then answered elsewhere": {
			handle: func(f *frameConn, stream uint32, nth int32) {
				if nth == 1 {
					f.write(frameGoAway, 0, 0, code(0, codeNone)...)
					return
				}
				answer(f, stream)
			},
			want: outcome{}, requests: 2,
		},
		"excluded by a GOAWAY everywhere": {
			handle:   func(f *frameConn, _ uint32, _ int32) { f.write(frameGoAway, 0, 0, code(0, codeNone)...) },
			want:     notSent,
			requests: 1 + maxResends,
		},
		"stream refused": {
			handle: func(f *frameConn, stream uint32, _ int32) {
				f.write(frameReset, 0, stream, code(0, codeRefused)[4:]...)
			},
			want:     notSent,
			requests: 1,
		},
		"stream reset for a protocol error": { // net/http would repeat this one if it could.
			handle: func(f *frameConn, stream uint32, _ int32) {
				f.write(frameReset, 0, stream, code(0, codeProtocol)[4:]...)
			},
			want:     maybe,
			requests: 1,
		},
		"stream reset for an internal error": {
			handle: func(f *frameConn, stream uint32, _ int32) {
				f.write(frameReset, 0, stream, code(0, codeInternal)[4:]...)
			},
			want:     maybe,
			requests: 1,
		},
		"GOAWAY that includes it, then closed": {
			handle: func(f *frameConn, stream uint32, _ int32) {
				f.write(frameGoAway, 0, 0, code(stream, codeNone)...)
				_ = f.Close()
			},
			want: maybe, requests: 1,
		},
		"GOAWAY whose debug text claims otherwise": {
			handle: func(f *frameConn, stream uint32, _ int32) {
				f.write(frameGoAway, 0, 0, append(code(stream, codeInternal), textGoAway+textStream+textRefused...)...)
				_ = f.Close()
			},
			want: maybe, requests: 1,
		},
		"connection lost": {
			handle: func(f *frameConn, _ uint32, _ int32) { _ = f.Close() },
			want:   maybe, requests: 1,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			certificate := httptest.NewUnstartedServer(nil)
			certificate.EnableHTTP2 = true
			certificate.StartTLS()
			t.Cleanup(certificate.Close)
			l, err := tls.Listen("tcp", "127.0.0.1:0", certificate.TLS)
			if err != nil {
				t.Fatal(err)
			}
			var requests atomic.Int32
			addr := serveListener(t, l, func(conn net.Conn) {
				f := &frameConn{Conn: conn, t: t}
				if _, err := io.ReadFull(conn, make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))); err != nil {
					return
				}
				f.write(frameSettings, 0, 0)
				for stream := f.request(); stream != 0; stream = f.request() {
					tt.handle(f, stream, requests.Add(1))
				}
			})
			c := newTestClient(t, "https://"+addr)
			trusting(t, c, certificate)
			_, err = c.Send(t.Context(), commentsRequest("x"))
			if got := outcomeOf(err); got != tt.want || requests.Load() != tt.requests {
				t.Errorf("got %+v (%v) after %d requests, want %+v after %d", got, err, requests.Load(), tt.want, tt.requests)
			}
		})
	}
}

// TestHTTP2GivenUp: a request that we give up is unknown, too, and goes out once.
func TestHTTP2GivenUp(t *testing.T) {
	var requests atomic.Int32
	arrived := make(chan struct{}, 1)
	_, c := startHTTP2(t, func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		requests.Add(1)
		arrived <- struct{}{}
		<-req.Context().Done()
	})
	t.Run("interrupted", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-arrived
			cancel()
		}()
		_, err := c.Send(ctx, commentsRequest("x"))
		if got := outcomeOf(err); got != cutShort || !errors.Is(err, context.Canceled) || requests.Load() != 1 {
			t.Errorf("got %+v (%v) after %d requests, want %+v after 1", got, err, requests.Load(), cutShort)
		}
	})
	t.Run("timed out", func(t *testing.T) {
		impatient(time.Second)(t, c)
		_, err := c.Send(t.Context(), commentsRequest("x"))
		if got := outcomeOf(err); got != maybe || !strings.Contains(err.Error(), "KEX_REQUEST_TIMEOUT") || requests.Load() != 2 {
			t.Errorf("got %+v (%v) after %d requests, want %+v after 2", got, err, requests.Load(), maybe)
		}
	})
}

// TestHTTP2FromHTTP1: a server that is taken for HTTP/1 turns out to speak HTTP/2; a lost request stays unknown.
func TestHTTP2FromHTTP1(t *testing.T) {
	_, c := startHTTP2(t, func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		panic(http.ErrAbortHandler)
	})
	c.http1.Store(true)
	_, err := c.Send(t.Context(), commentsRequest("x"))
	if got := outcomeOf(err); got != maybe {
		t.Errorf("got %+v (%v), want %+v", got, err, maybe)
	}
}

// TestHTTP1OverTLS: where no HTTP/2 is offered, the client learns to put header and body into one write.
func TestHTTP1OverTLS(t *testing.T) {
	var requests atomic.Int32
	srv := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		if requests.Add(1) == 3 {
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(srv.Close)
	c := newTestClient(t, srv.URL)
	trusting(t, c, srv)
	for i, want := range []outcome{{}, {}, maybe} {
		_, err := c.Send(t.Context(), commentsRequest("x"))
		if got := outcomeOf(err); got != want || c.http1.Load() != true {
			t.Errorf("request %d: got %+v (%v), want %+v; HTTP/1 %v", i, got, err, want, c.http1.Load())
		}
	}
}
