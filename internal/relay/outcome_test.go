package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/kex"
	"kexrelay/internal/update"
)

// becomes is a line of the outcome table, seen from outside: what the first such answer does to an update.
type becomes struct {
	// settled as delivered or as a dead letter for reason; or held for hold; or waiting for its own retry.
	outcome update.Outcome
	reason  fault.Reason
	hold    fault.Reason
	retried bool
	// unknown: the result will be flagged, and with policy park it is a dead letter.
	unknown bool
	// requests made at once: 2 after a 401.
	requests int
}

// tableOf is the outcome table of the contract for a status line that was read.
func tableOf(status int, retryAfter bool) becomes {
	dead := func(reason fault.Reason) becomes {
		return becomes{outcome: update.DeadLettered, reason: reason, requests: 1}
	}
	switch {
	case status >= 200 && status <= 299:
		return becomes{outcome: update.Delivered, requests: 1}
	case status >= 300 && status <= 399:
		return dead(fault.Redirected)
	case status == 400:
		return dead(fault.BadRequest)
	case status == 401:
		return becomes{hold: fault.Unauthorized, requests: 2}
	case status == 403:
		return dead(fault.Forbidden)
	case status == 404:
		return dead(fault.NotFound)
	case status == 408, status == 425:
		return becomes{retried: true, requests: 1}
	case status == 410:
		return dead(fault.Gone)
	case status == 429, status == 503 && retryAfter:
		return becomes{hold: fault.Throttling, requests: 1}
	case status >= 400 && status <= 499:
		return dead(fault.Rejected)
	case status == 502, status == 504:
		return becomes{retried: true, unknown: true, requests: 1}
	case status >= 500:
		return becomes{retried: true, requests: 1}
	default:
		// A final 1xx is no answer of HTTP: nobody can say what became of the request.
		return becomes{retried: true, unknown: true, requests: 1}
	}
}

// TestOutcomeTable holds the whole way of an answer (bytes on the wire, kex's classification, judge, the pipeline)
// against the contract's table, for every status from 100 to 599.
func TestOutcomeTable(t *testing.T) {
	api := newRawAPI(t)
	client := api.client(t, nil)
	for status := 100; status <= 599; status++ {
		for _, retryAfter := range []bool{false, true} {
			if retryAfter && status != 429 && status != 503 {
				continue
			}
			head := fmt.Sprintf("HTTP/1.1 %d Status\r\nContent-Length: 2\r\nConnection: close\r\n", status)
			if retryAfter {
				head += "Retry-After: 7\r\n"
			}
			api.says(head + "\r\n{}")
			checkOutcome(t, fmt.Sprintf("status %d, Retry-After %v", status, retryAfter), send(t, client), tableOf(status, retryAfter))
		}
	}
}

// TestTransportErrors is the rest of the table: no status line at all.
func TestTransportErrors(t *testing.T) {
	plain := becomes{retried: true, requests: 1}
	unknown := becomes{retried: true, requests: 1, unknown: true}
	api := newRawAPI(t)
	t.Run("connection refused", func(t *testing.T) {
		checkOutcome(t, t.Name(), send(t, api.client(t, func(c *kex.Config) { c.BaseURL = "http://127.0.0.1:1" })), plain)
	})
	t.Run("DNS", func(t *testing.T) {
		checkOutcome(t, t.Name(), send(t, api.client(t, func(c *kex.Config) {
			c.BaseURL, c.InsecureHTTP = "http://no-such-host.invalid", true
		})), plain)
	})
	t.Run("TLS", func(t *testing.T) {
		server := httptest.NewUnstartedServer(http.NotFoundHandler())
		server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		server.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		server.StartTLS()
		t.Cleanup(server.Close)
		checkOutcome(t, t.Name(), send(t, api.client(t, func(c *kex.Config) { c.BaseURL = server.URL })), plain)
	})
	t.Run("cut after the request was read", func(t *testing.T) {
		api.says("")
		checkOutcome(t, t.Name(), send(t, api.client(t, nil)), unknown)
	})
	t.Run("garbage instead of a status line", func(t *testing.T) {
		api.says("SMTP ready\r\n\r\n")
		checkOutcome(t, t.Name(), send(t, api.client(t, nil)), unknown)
	})
	t.Run("no answer in time", func(t *testing.T) {
		api.says("wait")
		checkOutcome(t, t.Name(), send(t, api.client(t, func(c *kex.Config) { c.RequestTimeout = 300 * time.Millisecond })), unknown)
	})
	t.Run("answer breaks off after the status line", func(t *testing.T) {
		api.says("HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\nhalf")
		checkOutcome(t, t.Name(), send(t, api.client(t, nil)), becomes{outcome: update.Delivered, requests: 1})
	})
	t.Run("an error nobody classified", func(t *testing.T) {
		checkOutcome(t, t.Name(), errors.New("surprise"), plain)
	})
}

// checkOutcome lets an update meet the answer in the pipeline and looks what becomes of it, under both policies.
func checkOutcome(t *testing.T, name string, answer error, want becomes) {
	t.Helper()
	for _, park := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			want := want
			if park && want.unknown {
				want = becomes{outcome: update.DeadLettered, reason: fault.UnknownOutcome, requests: 1}
			}
			var healthy atomic.Bool
			b := start(t, &fakeAPI{answer: func(int, update.Request) error {
				if healthy.Load() {
					return nil
				}
				return answer
			}}, func(c *Config) { c.ParkUnknown = park })
			d := comments(1, "1")
			b.Accept(d)
			synctest.Wait()
			got := becomes{requests: len(b.api.requests()), retried: b.Stats().Lanes.Waiting == 1}
			if settled := b.journal.all(); len(settled) == 1 {
				got.outcome, got.reason = settled[0].Outcome, settled[0].Reason
			}
			for _, h := range b.gate.Holds() {
				got.hold = h.Reason
			}
			got.unknown = want.unknown // seen below
			if got != want {
				t.Errorf("%s, park %v: %v became %+v, want %+v", name, park, answer, got, want)
			}
			if want.outcome != "" {
				return
			}
			healthy.Store(true)
			<-d.acked
			if s := b.journal.all()[0]; s.Outcome != update.Delivered || s.PossibleDuplicate != want.unknown {
				t.Errorf("%s, park %v: in the end %s, flagged %v; want delivered, flagged %v", name, park, s.Outcome, s.PossibleDuplicate, want.unknown)
			}
		})
	}
}

// send makes one real attempt and gives the error as the pipeline would see it.
func send(t *testing.T, client *kex.Client) error {
	t.Helper()
	if err := client.Authorize(t.Context()); err != nil {
		t.Fatalf("Authorize: %v", err)
	}
	_, err := client.Send(t.Context(), update.Request{
		Vorgangsnummer: "1", Kind: update.Comments, TraceID: "t", Body: []byte(`["x"]`),
	})
	return err
}

// rawAPI answers every request with the bytes it is told, whatever HTTP says about them.
type rawAPI struct {
	answer atomic.Pointer[string]
	base   string
	tokens string
}

func newRawAPI(t *testing.T) *rawAPI {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"token","token_type":"bearer","expires_in":3600}`)
	}))
	api := &rawAPI{base: "http://" + l.Addr().String(), tokens: tokens.URL}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go api.serve(ctx, conn)
		}
	}()
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		<-done
		tokens.Close()
	})
	return api
}

// says sets what the next requests are answered: nothing cuts the connection, "wait" leaves it open.
func (a *rawAPI) says(answer string) { a.answer.Store(&answer) }

func (a *rawAPI) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close() //nolint:errcheck // the other side looks at what came before
	r := bufio.NewReader(conn)
	length := 0
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if name, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(name, "Content-Length") {
			length, _ = strconv.Atoi(strings.TrimSpace(value))
		}
		if line == "\r\n" {
			break
		}
	}
	if _, err := io.CopyN(io.Discard, r, int64(length)); err != nil {
		return
	}
	answer := *a.answer.Load()
	if answer == "wait" {
		<-ctx.Done()
		return
	}
	_, _ = io.WriteString(conn, answer)
}

func (a *rawAPI) client(t *testing.T, change func(*kex.Config)) *kex.Client {
	t.Helper()
	cfg := kex.Config{
		BaseURL: a.base, TokenURL: a.tokens, ClientID: "id", ClientSecret: func() (string, error) { return "secret", nil },
		RequestTimeout: 5 * time.Second, Concurrency: 2,
	}
	if change != nil {
		change(&cfg)
	}
	client, err := kex.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}
