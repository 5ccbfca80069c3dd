package kex

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"kexrelay/internal/update"
)

// A document that is in memory goes out as it lies there, not in pieces of a buffer.
func TestADocumentIsWrittenInOneGo(t *testing.T) {
	t.Parallel()
	body := []byte(`{"filename": "a.pdf", "base64Content": "` + strings.Repeat("QUJD", 1<<18) + `"}`)
	received := make(chan []byte, 2)
	srv := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		all, _ := io.ReadAll(r.Body)
		received <- all
	})
	c := newTestClient(t, srv.URL)
	dial, conns := pool(t, c).DialContext, make(chan *countedConn, 1)
	pool(t, c).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if counted, ok := conn.(*countedConn); ok {
			conns <- counted
		}
		return conn, err
	}
	for n := range 2 {
		if _, err := c.Send(t.Context(), update.Request{Vorgangsnummer: "1", Kind: update.Document, TraceID: "t", Body: body}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(<-received, body) {
			t.Errorf("request %d has another body", n+1)
		}
	}
	if conn := <-conns; conn.writes.Load() > 4 {
		t.Errorf("two requests took %d writes, want the headers and the body of each", conn.writes.Load())
	}
}

// What is said to be shorter than it is never leaves in full: the next request would begin in the middle of it.
func TestNoMoreOfABodyIsWrittenThanWasSaid(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := &countedConn{Conn: connOf{Writer: &out}}
	for _, r := range []io.Reader{
		&io.LimitedReader{R: bytes.NewReader(make([]byte, 100)), N: 100}, // Whole.
		&io.LimitedReader{R: struct{ io.Reader }{bytes.NewReader(make([]byte, 200))}, N: 100},
		struct{ io.Reader }{bytes.NewReader(make([]byte, 100))},
	} {
		out.Reset()
		if n, err := c.ReadFrom(r); n != 100 || err != nil || out.Len() != 100 {
			t.Errorf("%T: %d bytes said, %d written, %v; want 100", r, n, out.Len(), err)
		}
		if limited, ok := r.(*io.LimitedReader); ok && limited.N != 0 {
			t.Errorf("%d bytes are left of the limit", limited.N)
		}
	}
	out.Reset()
	if n, err := c.ReadFrom(&io.LimitedReader{R: bytes.NewReader(make([]byte, 101)), N: 100}); !errors.Is(err, errBodyTooLong) || n != 0 || out.Len() != 0 {
		t.Errorf("of a body that is too long %d bytes were said, %d written: %v", n, out.Len(), err)
	}
}

// connOf is a connection that can only be written to.
type connOf struct {
	net.Conn
	io.Writer
}

func (c connOf) Write(p []byte) (int, error) { return c.Writer.Write(p) }
