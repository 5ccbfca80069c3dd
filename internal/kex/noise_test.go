package kex

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"unicode"
	"unicode/utf8"

	"kexrelay/internal/fault"
)

// harmless fails unless all texts of a fault can go to a terminal as they are.
func harmless(tb testing.TB, err error) {
	tb.Helper()
	f := faultOf(tb, err)
	texts := []string{err.Error(), f.Detail}
	for cause := f.Err; cause != nil; cause = errors.Unwrap(cause) {
		texts = append(texts, cause.Error())
	}
	for _, text := range texts {
		if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			tb.Errorf("%q is no harmless text", text)
		}
	}
}

// An answer that HTTP has no words for is never taken for a booking; one that is only old or careless counts.
func TestOddStatusLines(t *testing.T) {
	for line, want := range map[string]outcome{
		"HTTP/1.0 201 Created\r\n\r\n":            {},
		"HTTP/1.1 201\r\n\r\n":                    {},
		"HTTP/1.1 201 \r\n\r\n":                   {},
		"HTTP/1.1 201 Created\n\n":                {},
		"HTTP/1.1 201 \x1b[2J\xff\r\n\r\n":        {},
		"HTTP/1.0 410 Gone\r\n\r\n":               {fault.Permanent, fault.Gone, false},
		"HTTP/1.1 400 \x1b]0;x\x07\xff\r\n\r\n":   {fault.Permanent, fault.BadRequest, false},
		"HTTP/1.1 0201 Created\r\n\r\n":           maybe,
		"HTTP/1.1 2O1 Created\r\n\r\n":            maybe,
		"HTTP/1.1 -20 Created\r\n\r\n":            maybe,
		"HTTP/1.1 +20 Created\r\n\r\n":            maybe,
		"HTTP/1.1 099 Strange\r\n\r\n":            maybe,
		"HTTP/1.1  201 Created\r\n\r\n":           {},
		"HTTP/1.1 201Created\r\n\r\n":             maybe,
		"HTTP/1.1\r\n\r\n":                        maybe,
		"HTTP/x 201 Created\r\n\r\n":              maybe,
		"http/1.1 201 Created\r\n\r\n":            maybe,
		"ICY 201 OK\r\n\r\n":                      maybe,
		"201 Created\r\n\r\n":                     maybe,
		"\r\nHTTP/1.1 201 Created\r\n\r\n":        maybe,
		"\x1b[2J\xff\x9b31m\x00 201 OK\r\n\r\n":   maybe,
		"HTTP/1.1 201 Created\r\n\x1b[2J\r\n\r\n": maybe,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":        maybe,
		"-ERR 'Zwiebelfisch'\r\n":                 maybe,
		"":                                        maybe,
	} {
		t.Run(line, func(t *testing.T) {
			var conns atomic.Int32
			c := newTestClient(t, serveRaw(t, func(conn net.Conn) {
				conns.Add(1)
				_, _, _ = readRequest(bufio.NewReader(conn))
				_, _ = io.WriteString(conn, line)
			}))
			_, err := c.Send(t.Context(), commentsRequest("Zwiebelfisch"))
			if got := outcomeOf(err); got != want {
				t.Errorf("got %+v (%v), want %+v", got, err, want)
			}
			if n := conns.Load(); n != 1 {
				t.Errorf("the request was sent %d times", n)
			}
			if err != nil {
				harmless(t, err)
				noCanary(t, err)
			}
		})
	}
}

// noise is what must never reach a terminal: escape sequences of all kinds, the second set of control characters, marks
// that turn the reading order, line ends that would begin a line of their own, and what is no UTF-8.
const noise = "\x1b[2J\x1b]0;title\x07\x1b]52;c;YQ==\x1b\\\x1bP1$q\x1b\\\u009b31m\x9b31m\x90\xff\xfe\xc3\x28\xed\xa0\x80" +
	"\u202e\u2066\u200b\ufeff\u2028\r\nINF fake\b\b\x7f\x00"

// Texts of the API and of the token endpoint become harmless wherever in an answer they are.
func TestNoiseNeverLeavesTheClient(t *testing.T) {
	raw := strings.NewReplacer("\r", "", "\n", "", "\x00", "").Replace(noise) // A header line cannot hold these.
	for name, answer := range map[string]string{
		"in the body":           "HTTP/1.1 400 Bad\r\n\r\nbefore " + noise + " after",
		"in JSON":               "HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\n\r\n" + `{"error":"invalid_scope","error_description":"before ` + noise + ` after"}`,
		"in the code":           "HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\n\r\n" + `{"error":"` + noise + `","error_uri":"` + noise + `"}`,
		"in the reason":         "HTTP/1.1 400 " + raw + "\r\n\r\n",
		"in where to go":        "HTTP/1.1 307 Away\r\nLocation: http://x/" + raw + "\r\n\r\n",
		"in how to log in":      "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=" + raw + "\r\n\r\n",
		"in the charset":        "HTTP/1.1 400 Bad\r\nContent-Type: text/" + raw + "\r\n\r\nno",
		"in the version":        "HTTP/" + raw + " 400 Bad\r\n\r\n",
		"in the status":         "HTTP/1.1 " + raw + "\r\n\r\n",
		"in a header's name":    "HTTP/1.1 400 Bad\r\n" + raw + ": x\r\n\r\n",
		"in a length":           "HTTP/1.1 400 Bad\r\nContent-Length: " + raw + "\r\n\r\n",
		"in a transfer coding":  "HTTP/1.1 400 Bad\r\nTransfer-Encoding: " + raw + "\r\n\r\n",
		"in a good answer":      "HTTP/1.1 200 OK\r\n\r\n" + noise,
		"in a token's JSON":     "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + `{"access_token":` + noise,
		"in a token":            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + `{"access_token":"` + raw + `"}`,
		"in a token's lifetime": "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + `{"access_token":"a","expires_in":"` + raw + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			c := newTestClient(t, serveRaw(t, func(conn net.Conn) {
				_, _, _ = readRequest(bufio.NewReader(conn))
				_, _ = io.WriteString(conn, answer)
			}))
			if _, err := c.Send(t.Context(), commentsRequest("x")); err != nil {
				harmless(t, err)
			} else if !strings.Contains(answer, " 200 OK") {
				t.Error("it counts as booked")
			}
			c.tokens.current = nil
			err := c.Authorize(t.Context())
			if err == nil {
				t.Fatal("that is a token")
			}
			harmless(t, err)
			if state := c.TokenState(); state.Detail != faultOf(t, err).Detail {
				t.Errorf("the state says %q, the error %q", state.Detail, err)
			}
		})
	}
}

// Neither a document with its token nor the client's secret goes to where an answer points.
func TestNothingFollowsToAnotherHost(t *testing.T) {
	for _, status := range []int{300, 301, 302, 303, 305, 307, 308, 399} {
		var asked, elsewhere atomic.Int32
		other := serve(t, func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) })
		srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.Header().Set("Location", other.URL+"/auth/token")
			w.Header().Set("Refresh", "0; url="+other.URL)
			w.Header().Set("Alt-Svc", `h2="`+strings.TrimPrefix(other.URL, "http://")+`"`)
			w.WriteHeader(status)
		})
		c := newTestClient(t, srv.URL)
		_, err := c.Send(t.Context(), commentsRequest("Zwiebelfisch"))
		if got, want := outcomeOf(err), (outcome{fault.Permanent, fault.Redirected, false}); got != want {
			t.Errorf("status %d from the API: got %+v, want %+v", status, got, want)
		}
		c.tokens.current = nil
		if got, want := outcomeOf(c.Authorize(t.Context())), (outcome{fault.Systemic, fault.Unauthorized, false}); got != want {
			t.Errorf("status %d from the token endpoint: got %+v, want %+v", status, got, want)
		}
		if asked.Load() != 2 || elsewhere.Load() != 0 {
			t.Errorf("status %d: %d calls to where they belong and %d elsewhere, want 2 and 0", status, asked.Load(), elsewhere.Load())
		}
	}
}
