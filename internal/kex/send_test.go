package kex

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// want is the outcome table as it stands in the design, for every status.
func want(status int, retryAfter bool) outcome {
	permanent := map[int]fault.Reason{400: fault.BadRequest, 403: fault.Forbidden, 404: fault.NotFound, 410: fault.Gone}
	switch {
	case status >= 200 && status <= 299:
		return outcome{}
	case permanent[status] != "":
		return outcome{fault.Permanent, permanent[status], false}
	case status == 401:
		return outcome{fault.Systemic, fault.Unauthorized, false}
	case status == 429, status == 503 && retryAfter:
		return outcome{fault.Throttled, fault.Throttling, false}
	case status == 502, status == 504:
		return outcome{fault.Transient, fault.Outage, true}
	case status == 408, status == 425, status >= 500 && status <= 599:
		return outcome{fault.Transient, fault.Outage, false}
	case status >= 400 && status <= 499:
		return outcome{fault.Permanent, fault.Rejected, false}
	case status >= 300 && status <= 399:
		return outcome{fault.Permanent, fault.Redirected, false}
	}
	return outcome{fault.Transient, fault.Outage, true}
}

// TestEveryStatus sends a request per status, over real connections, with and without Retry-After.
func TestEveryStatus(t *testing.T) {
	base := serveRaw(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		for {
			req, _, err := readRequest(r)
			if err != nil {
				return
			}
			status, after, _ := strings.Cut(req.Header.Get("X-TraceId"), "-")
			body := "no"
			if status == "204" || status == "304" {
				body = ""
			}
			fmt.Fprintf(conn, "HTTP/1.1 %s Whatever\r\nContent-Length: %d\r\n", status, len(body))
			if after != "" {
				fmt.Fprint(conn, "Retry-After: "+after+"\r\n")
			}
			fmt.Fprint(conn, "\r\n"+body)
			if status[0] == '1' {
				return // An interim answer that no final one follows.
			}
		}
	})
	c := newTestClient(t, base)
	statuses := []int{600, 700, 999}
	for status := 100; status <= 599; status++ {
		statuses = append(statuses, status)
	}
	for _, status := range statuses {
		for _, after := range []string{"", "-7"} {
			give(c, canaryToken)
			r := commentsRequest("Testkommentar")
			r.TraceID = strconv.Itoa(status) + after
			answer, err := c.Send(t.Context(), r)
			if got, want := outcomeOf(err), want(status, after != ""); got != want {
				t.Errorf("status %d Retry-After %q: got %+v (%v), want %+v", status, after, got, err, want)
			}
			if err == nil && answer.Status != status {
				t.Errorf("status %d: answer has %d", status, answer.Status)
			}
			final := status >= 200 || status == 101
			if err != nil && final {
				f := faultOf(t, err)
				if f.Status != status || f.Detail == "" {
					t.Errorf("status %d: fault has status %d, detail %q", status, f.Status, f.Detail)
				}
				var wait time.Duration
				if f.Kind == fault.Throttled && after != "" {
					wait = 7 * time.Second
				}
				if f.RetryAfter != wait {
					t.Errorf("status %d: RetryAfter %s, want %s", status, f.RetryAfter, wait)
				}
			}
		}
	}
	for status := range 1000 {
		if got, want := outcomeOf(errOrNil(classify(status, nil, time.Now()))), want(status, false); got != want {
			t.Errorf("classify(%d) = %+v, want %+v", status, got, want)
		}
	}
}

func errOrNil(f *fault.Error) error {
	if f == nil {
		return nil
	}
	return f
}

// TestRequestOnTheWire: the documented examples go out byte for byte, to the documented addresses.
func TestRequestOnTheWire(t *testing.T) {
	const (
		document = `{"filename": "Gehaltsnachweis.pdf", "base64Content": "JVBERi0xLjMKJcTl8uXrp"}`
		comments = `["Testkommentar"]`
		parent   = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	)
	type seen struct {
		method, uri, body string
		length            int64
		header            http.Header
	}
	got := make(chan seen, 1)
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- seen{r.Method, r.RequestURI, string(b), r.ContentLength, r.Header}
		w.WriteHeader(http.StatusCreated)
	})
	header := func(more ...string) http.Header {
		h := http.Header{
			"Accept": {"application/json"}, "Authorization": {"Bearer " + canaryToken}, "Content-Type": {"application/json"},
			"User-Agent": {"kexrelay/test"}, "X-Traceid": {"sys12345678"},
		}
		for i := 0; i < len(more); i += 2 {
			h.Set(more[i], more[i+1])
		}
		return h
	}
	tests := map[string]struct {
		path string
		r    update.Request
		want seen
	}{
		"document": {
			"/kreditsmart/kex",
			update.Request{Vorgangsnummer: "123456", Kind: update.Document, Body: []byte(document)},
			seen{"POST", "/kreditsmart/kex/vorgang/123456/dokument", document, int64(len(document)), header()},
		},
		"comments with trace context, slash at the base's end": {
			"/kreditsmart/kex/",
			update.Request{Vorgangsnummer: "A-b_9", Kind: update.Comments, Body: []byte(comments), Traceparent: parent, Tracestate: "a=1, b=2"},
			seen{
				"POST", "/kreditsmart/kex/vorgang/A-b_9/kommentare", comments, int64(len(comments)),
				header("Traceparent", parent, "Tracestate", "a=1, b=2"),
			},
		},
		"escaped base, malformed trace context": {
			"/a%2Fb",
			update.Request{Vorgangsnummer: "1", Kind: update.Comments, Body: []byte(comments), Traceparent: "x\r\nEvil: 1", Tracestate: "a=1"},
			seen{"POST", "/a%2Fb/vorgang/1/kommentare", comments, int64(len(comments)), header()},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := newTestClient(t, srv.URL+tt.path, func(c *Config) { c.UserAgent = "kexrelay/test" })
			tt.r.TraceID = "sys12345678"
			answer, err := c.Send(t.Context(), tt.r)
			if err != nil || answer.Status != http.StatusCreated || answer.Duration <= 0 {
				t.Fatalf("got %+v, %v", answer, err)
			}
			sent := <-got
			sent.header.Del("Content-Length")
			if diff := cmp.Diff(tt.want, sent, cmp.AllowUnexported(seen{})); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

// TestTraceIDIsSpeltAsDocumented: Go would write X-Traceid.
func TestTraceIDIsSpeltAsDocumented(t *testing.T) {
	head := make(chan string, 1)
	base := serveRaw(t, func(conn net.Conn) {
		buf := make([]byte, 4096)
		n, _ := conn.Read(buf)
		head <- string(buf[:n])
		fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	c := newTestClient(t, base)
	if _, err := c.Send(t.Context(), commentsRequest("x")); err != nil {
		t.Fatal(err)
	}
	if got := <-head; !strings.Contains(got, "\r\nX-TraceId: kxr-1\r\n") {
		t.Errorf("request head is %q", got)
	}
}

// TestSmallRequestIsOneWrite: net/http flushes the header by itself unless it knows the body to be in memory.
func TestSmallRequestIsOneWrite(t *testing.T) {
	srv := serve(t, func(http.ResponseWriter, *http.Request) {})
	c := newTestClient(t, srv.URL)
	var conn *countedConn
	dial := pool(t, c).DialContext
	pool(t, c).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		got, err := dial(ctx, network, addr)
		conn = counted(got)
		return got, err
	}
	if _, err := c.Send(t.Context(), commentsRequest(strings.Repeat("Testkommentar ", 20))); err != nil {
		t.Fatal(err)
	}
	if n := conn.writes.Load(); n != 1 {
		t.Errorf("the request took %d writes, want 1", n)
	}
}

func TestInvalidRequestsAreNeverSent(t *testing.T) {
	c := newTestClient(t, "http://127.0.0.1:1")
	c.transport = roundTripper(func(*http.Request) (*http.Response, error) {
		t.Error("a request was sent")
		return nil, io.EOF
	})
	for name, change := range map[string]func(*update.Request){
		"other path":    func(r *update.Request) { r.Vorgangsnummer = "../1" },
		"dots":          func(r *update.Request) { r.Vorgangsnummer = ".." },
		"slash":         func(r *update.Request) { r.Vorgangsnummer = "1/2" },
		"escape":        func(r *update.Request) { r.Vorgangsnummer = "1%2f" },
		"none":          func(r *update.Request) { r.Vorgangsnummer = "" },
		"placeholder":   func(r *update.Request) { r.Vorgangsnummer = update.NoVorgangsnummer },
		"too long":      func(r *update.Request) { r.Vorgangsnummer = strings.Repeat("1", 65) },
		"no kind":       func(r *update.Request) { r.Kind = update.Invalid },
		"no body":       func(r *update.Request) { r.Body = nil },
		"no trace":      func(r *update.Request) { r.TraceID = "" },
		"header escape": func(r *update.Request) { r.TraceID = "a\r\nb" },
		"trace's space": func(r *update.Request) { r.TraceID = "a b" },
		"endless trace": func(r *update.Request) { r.TraceID = strings.Repeat("x", 1000) },
	} {
		t.Run(name, func(t *testing.T) {
			r := commentsRequest("x")
			change(&r)
			_, err := c.Send(t.Context(), r)
			if got, want := outcomeOf(err), (outcome{fault.Permanent, fault.Invalid, false}); got != want || faultOf(t, err).Detail == "" {
				t.Errorf("got %+v (%v), want %+v", got, err, want)
			}
		})
	}
}

func TestRedirectsAreNeverFollowed(t *testing.T) {
	for name, location := range map[string]string{
		"same host": "/elsewhere", "bad": "http://[::1", "absent": "", "echo": "/x?name=" + "Zwiebelfisch",
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				calls++
				if location != "" {
					w.Header().Set("Location", location)
				}
				w.WriteHeader(http.StatusTemporaryRedirect)
			})
			c := newTestClient(t, srv.URL)
			_, err := c.Send(t.Context(), commentsRequest("Zwiebelfisch"))
			if got, want := outcomeOf(err), (outcome{fault.Permanent, fault.Redirected, false}); got != want || calls != 1 {
				t.Errorf("got %+v after %d calls, want %+v after 1", got, calls, want)
			}
			f := faultOf(t, err)
			if strings.Contains(f.Detail, "Zwiebelfisch") || !strings.Contains(f.Detail, "KEX_BASE_URL") {
				t.Errorf("detail is %q", f.Detail)
			}
			if name == "same host" && !strings.Contains(f.Detail, "/elsewhere") {
				t.Errorf("detail %q does not say where to", f.Detail)
			}
		})
	}
}

func TestSendWithoutTokenFailsAtOnce(t *testing.T) {
	for name, prepare := range map[string]func(*Client){
		"none":     func(c *Client) { c.tokens.current = nil },
		"expired":  func(c *Client) { c.tokens.current = newToken("old", time.Now().Add(-time.Hour), time.Minute) },
		"expiring": func(c *Client) { c.tokens.current = newToken("old", time.Now().Add(-56*time.Second), time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			srv := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") })
			c := newTestClient(t, srv.URL)
			prepare(c)
			_, err := c.Send(t.Context(), commentsRequest("x"))
			if got, want := outcomeOf(err), stopped; got != want {
				t.Errorf("got %+v (%v), want %+v", got, err, want)
			}
		})
	}
}

// TestUnauthorizedDropsOnlyTheTokenItUsed: a late 401 must not cost the fresh token that others work with.
func TestUnauthorizedDropsOnlyTheTokenItUsed(t *testing.T) {
	for name, renewed := range map[string]bool{"still current": false, "renewed meanwhile": true} {
		t.Run(name, func(t *testing.T) {
			var c *Client
			srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if renewed {
					give(c, "fresh")
				}
				w.Header().Set("WWW-Authenticate", `Bearer realm="kex", error="invalid_token"`)
				w.WriteHeader(http.StatusUnauthorized)
			})
			c = newTestClient(t, srv.URL)
			_, err := c.Send(t.Context(), commentsRequest("x"))
			if got, want := outcomeOf(err), (outcome{fault.Systemic, fault.Unauthorized, false}); got != want {
				t.Fatalf("got %+v, want %+v", got, want)
			}
			if f := faultOf(t, err); f.Status != 401 || !strings.Contains(f.Detail, "invalid_token") {
				t.Errorf("status %d, detail %q", f.Status, f.Detail)
			}
			switch tok := c.tokens.inHand(t.Context()); {
			case renewed && (tok == nil || tok.header[0] != "Bearer fresh"):
				t.Error("the fresh token was dropped")
			case !renewed && tok != nil:
				t.Error("the rejected token is still used")
			}
		})
	}
}

// TestPoolHoldsAllConnections: as many connections as requests at once, and no more ever.
func TestPoolHoldsAllConnections(t *testing.T) {
	const concurrency, rounds = 8, 5
	opened := make(chan struct{}, 1000)
	gate := make(chan struct{})
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-gate
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(bytes.Repeat([]byte("a"), 1000))
	})
	c := newTestClient(t, srv.URL, func(c *Config) { c.Concurrency = concurrency })
	dial := pool(t, c).DialContext
	pool(t, c).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		opened <- struct{}{}
		return dial(ctx, network, addr)
	}
	for range rounds {
		done := make(chan error, 3*concurrency)
		for range 3 * concurrency { // The pool is the bound, even if somebody sends more at once than configured.
			go func() {
				_, err := c.Send(t.Context(), commentsRequest("x"))
				done <- err
			}()
		}
		for range 3 * concurrency {
			gate <- struct{}{}
		}
		for range 3 * concurrency {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := len(opened); n < concurrency || n > concurrency+spareConns {
		t.Errorf("%d connections were opened for %d requests of %d at once", n, 3*rounds*concurrency, 3*concurrency)
	}
}
