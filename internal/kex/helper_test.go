package kex

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

func TestMain(m *testing.M) {
	// An HTTP server that has answered before the request was read lets the connection linger for half a second.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// What must never show up in any text.
const (
	canarySecret  = "S3cr3t-Canary-47110815"
	canaryToken   = "aZ3-Canary.9f8e7d6c5b4a.signature"
	canaryFile    = "Gehaltsnachweis Mustermann-Krüger 2024.pdf"
	canaryComment = "Frau Quittenbaum verdient 4711 Euro & wohnt bei \"Zwiebelfisch\"\nseit März"
)

func testConfig(base string) Config {
	return Config{
		BaseURL: base, TokenURL: base + "/token",
		ClientID: "client-1", ClientSecret: func() (string, error) { return canarySecret, nil },
		Scopes: []string{"privatkredit:vorgang:schreiben"},
	}
}

// newTestClient makes a client with a token in hand that is good for an hour.
func newTestClient(tb testing.TB, base string, change ...func(*Config)) *Client {
	tb.Helper()
	cfg := testConfig(base)
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		tb.Fatalf("New: %v", err)
	}
	tb.Cleanup(c.Close)
	give(c, canaryToken)
	return c
}

// give puts a token into the client's hand.
func give(c *Client, value string) {
	c.tokens.mu.Lock()
	defer c.tokens.mu.Unlock()
	c.tokens.current = newToken(value, time.Now(), time.Hour)
	c.tokens.lastSecret = canarySecret
}

func pool(tb testing.TB, c *Client) *http.Transport {
	tb.Helper()
	tr, ok := c.transport.(*http.Transport)
	if !ok {
		tb.Fatalf("transport is %T", c.transport)
	}
	return tr
}

func commentsRequest(text string) update.Request {
	return update.Request{
		Vorgangsnummer: "123456", Kind: update.Comments, TraceID: "kxr-1", Body: []byte(`["` + text + `"]`),
	}
}

// faultOf fails the test unless err is a fault.
func faultOf(tb testing.TB, err error) *fault.Error {
	tb.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		tb.Fatalf("got error %v (%T), want a *fault.Error", err, err)
	}
	if len(f.Detail) > maxDetail {
		tb.Errorf("detail has %d bytes, want at most %d", len(f.Detail), maxDetail)
	}
	return f
}

// outcome is the part of a fault that the judge decides by.
type outcome struct {
	kind    fault.Kind
	reason  fault.Reason
	unknown bool
}

func outcomeOf(err error) outcome {
	if err == nil {
		return outcome{}
	}
	f := fault.Of(err)
	return outcome{kind: f.Kind, reason: f.Reason, unknown: f.Unknown}
}

// serve starts an HTTP/1 server on loopback.
func serve(tb testing.TB, h http.HandlerFunc) *httptest.Server {
	tb.Helper()
	srv := httptest.NewServer(h)
	tb.Cleanup(srv.Close)
	return srv
}

// serveRaw accepts connections on loopback and lets handle do with each as it likes.
func serveRaw(tb testing.TB, handle func(net.Conn)) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return "http://" + serveListener(tb, l, handle)
}

func serveListener(tb testing.TB, l net.Listener, handle func(net.Conn)) string {
	tb.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[conn] = true
			mu.Unlock()
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				handle(conn)
			})
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for conn := range conns {
			_ = conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// readRequest reads one HTTP/1 request with its body from conn.
func readRequest(r *bufio.Reader) (*http.Request, []byte, error) {
	req, err := http.ReadRequest(r)
	if err != nil {
		return nil, nil, err
	}
	b, err := io.ReadAll(req.Body)
	return req, b, err
}

// reset ends a connection by RST, not FIN.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// pipeNet is a network in memory, so that a whole client can live in a synctest bubble. Its "listener" gives the
// server's ends of the connections.
type pipeNet struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipeNet() *pipeNet {
	return &pipeNet{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (p *pipeNet) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipeNet) Close() error {
	select {
	case <-p.done:
	default:
		close(p.done)
	}
	return nil
}

func (*pipeNet) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (p *pipeNet) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return &countedConn{Conn: ours}, nil
	case <-p.done:
		return nil, &net.OpError{Op: "dial", Err: net.ErrClosed}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// newPipedClient is a client inside a bubble whose API is handle, called for each connection.
func newPipedClient(tb testing.TB, handle func(net.Conn)) *Client {
	tb.Helper()
	p := newPipeNet()
	c := newTestClient(tb, "http://127.0.0.1:1")
	pool(tb, c).DialContext = p.dial
	serveListener(tb, p, handle)
	return c
}

// roundTripper is a function as http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// trusting makes the client trust srv's certificate.
func trusting(tb testing.TB, c *Client, srv *httptest.Server) {
	tb.Helper()
	ours, ok := srv.Client().Transport.(*http.Transport)
	if !ok {
		tb.Fatal("no transport")
	}
	pool(tb, c).TLSClientConfig = &tls.Config{RootCAs: ours.TLSClientConfig.RootCAs, MinVersion: tls.VersionTLS12}
}

func mustURL(tb testing.TB, raw string) *url.URL {
	tb.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		tb.Fatal(err)
	}
	return u
}
