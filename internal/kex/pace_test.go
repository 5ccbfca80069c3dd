package kex

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
)

// TestRejectedClient: at most 5 calls a minute in all circumstances, and a changed secret heals without a restart.
func TestRejectedClient(t *testing.T) {
	rejected := outcome{fault.Systemic, fault.Unauthorized, false}
	hammer := func(t *testing.T, s *tokenSource, d time.Duration) (last error) {
		t.Helper()
		for end := time.Now().Add(d); time.Now().Before(end); {
			if last = s.authorize(t.Context()); last == nil {
				return nil
			}
			<-time.After(100 * time.Millisecond)
		}
		return last
	}
	t.Run("same secret", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := &tokenServer{answer: func(int, *http.Request) *http.Response { return answer(401, `{"error":"invalid_client"}`) }}
			reads := 0
			s := newTokens(t, srv, func(c *Config) { c.ClientSecret = func() (string, error) { reads++; return canarySecret, nil } })
			err := hammer(t, s, 10*time.Minute)
			if reads > 10*60+1 {
				t.Errorf("the secret was read %d times in 10 minutes", reads)
			}
			if got := outcomeOf(err); got != rejected {
				t.Errorf("got %+v, want %+v", got, rejected)
			}
			if n, most := srv.count(), srv.busiest(); most > 5 || n < 40 {
				t.Errorf("%d calls in 10 minutes, %d in the busiest", n, most)
			}
			for i := 1; i < len(srv.calls); i++ {
				if gap := srv.calls[i].Sub(srv.calls[i-1]); gap < 12*time.Second {
					t.Errorf("only %s between two tries of a rejected secret", gap)
				}
			}
		})
	})
	t.Run("changed secret heals", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			secret := "wrong"
			srv := &tokenServer{answer: func(n int, req *http.Request) *http.Response {
				if _, got, _ := req.BasicAuth(); got != "right" {
					return answer(401, `{"error":"invalid_client"}`)
				}
				return granted(n, time.Hour)
			}}
			s := newTokens(t, srv, func(c *Config) { c.ClientSecret = func() (string, error) { return secret, nil } })
			if got := outcomeOf(hammer(t, s, 2*time.Second)); got != rejected {
				t.Fatalf("got %+v, want %+v", got, rejected)
			}
			secret = "right"
			start := time.Now()
			if err := hammer(t, s, time.Minute); err != nil || time.Since(start) > 1100*time.Millisecond || srv.count() != 2 {
				t.Errorf("got %v after %s and %d calls, want healed within about a second", err, time.Since(start), srv.count())
			}
			if st := s.state(); !st.Usable || st.Failure != "" || st.FetchedAt.IsZero() {
				t.Errorf("state is %+v", st)
			}
		})
	})
	t.Run("secret vanishes for a moment", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			srv := &tokenServer{answer: func(int, *http.Request) *http.Response { return answer(401, ``) }}
			s := newTokens(t, srv, func(c *Config) {
				c.ClientSecret = func() (string, error) {
					if age := time.Since(start); age > time.Second && age < 3*time.Second {
						return "", errors.New("gone")
					}
					return canarySecret, nil
				}
			})
			_ = hammer(t, s, 30*time.Second)
			if gap := srv.calls[1].Sub(srv.calls[0]); gap < 12*time.Second {
				t.Errorf("only %s between two tries of a rejected secret", gap)
			}
		})
	})
	t.Run("secret changes all the time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			srv := &tokenServer{answer: func(int, *http.Request) *http.Response { return answer(400, `{"error":"invalid_scope"}`) }}
			s := newTokens(t, srv, func(c *Config) {
				c.ClientSecret = func() (string, error) { n++; return fmt.Sprint("secret ", n), nil }
			})
			_ = hammer(t, s, 10*time.Minute)
			if n, most := srv.count(), srv.busiest(); most > 5 || n < 40 {
				t.Errorf("%d calls in 10 minutes, %d in the busiest", n, most)
			}
		})
	})
	t.Run("all kinds of answers mixed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			kinds := []int{401, 500, 401, 400, 429, 403, 503, 401, 404, 500}
			srv := &tokenServer{answer: func(n int, _ *http.Request) *http.Response { return answer(kinds[n%len(kinds)], `{}`) }}
			_ = hammer(t, newTokens(t, srv), 30*time.Minute)
			if n, most := srv.count(), srv.busiest(); most > 5 || n < 30 {
				t.Errorf("%d calls in 30 minutes, %d in the busiest", n, most)
			}
		})
	})
	t.Run("token accepted here and rejected there", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := &tokenServer{answer: func(n int, _ *http.Request) *http.Response {
				if n%2 == 0 {
					return granted(n, time.Hour)
				}
				return answer(401, `{"error":"invalid_client"}`)
			}}
			s := newTokens(t, srv)
			for range 3000 {
				if s.authorize(t.Context()) == nil {
					s.invalidate(s.inHand(t.Context()))
				}
				<-time.After(100 * time.Millisecond)
			}
			if most := srv.busiest(); most > 5 {
				t.Errorf("%d calls in the busiest minute", most)
			}
		})
	})
}

// TestSecretThatCannotBeRead holds the relay without a call, and heals.
func TestSecretThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var secret string
		reads := 0
		problem := errors.New("open /run/secrets/kex: no such file or directory")
		srv := &tokenServer{answer: func(n int, _ *http.Request) *http.Response { return granted(n, time.Hour) }}
		s := newTokens(t, srv, func(c *Config) { c.ClientSecret = func() (string, error) { reads++; return secret, problem } })
		for _, says := range []string{"no such file", "it is empty"} {
			for range 30 {
				err := s.authorize(t.Context())
				if got, want := outcomeOf(err), (outcome{fault.Systemic, fault.Unauthorized, false}); got != want {
					t.Fatalf("got %+v (%v), want %+v", got, err, want)
				}
				<-time.After(100 * time.Millisecond)
			}
			if err := s.authorize(t.Context()); !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "KEX_CLIENT_SECRET_FILE") {
				t.Errorf("error is %q, want it to say %q", err, says)
			}
			problem = nil
		}
		if reads > 7 {
			t.Errorf("the secret was read %d times in 6 seconds", reads)
		}
		secret = canarySecret
		<-time.After(time.Second)
		if err := s.authorize(t.Context()); err != nil || srv.count() != 1 {
			t.Errorf("healed: %v, %d calls", err, srv.count())
		}
	})
}

// TestTokenOutage: backoff, failures cached meanwhile, Retry-After kept.
func TestTokenOutage(t *testing.T) {
	t.Run("backoff", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := &tokenServer{answer: func(int, *http.Request) *http.Response { return answer(500, `oops`) }}
			s := newTokens(t, srv)
			for range 10 * 60 * 10 {
				if got := outcomeOf(s.authorize(t.Context())); got != notSent {
					t.Fatalf("got %+v, want %+v", got, notSent)
				}
				<-time.After(100 * time.Millisecond)
			}
			expected := time.Second
			for i := 1; i < len(srv.calls); i++ {
				gap := srv.calls[i].Sub(srv.calls[i-1])
				if gap < expected*7/10 || gap > expected*13/10+100*time.Millisecond {
					t.Errorf("try %d came after %s, want about %s", i, gap, expected)
				}
				expected = min(2*expected, time.Minute)
			}
			if n := srv.count(); n < 10 {
				t.Errorf("only %d tries in 10 minutes", n)
			}
		})
	})
	t.Run("healed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := &tokenServer{answer: func(n int, _ *http.Request) *http.Response {
				if n <= 3 {
					return answer(503, ``)
				}
				return granted(n, time.Hour)
			}}
			s := newTokens(t, srv)
			for s.authorize(t.Context()) != nil {
				<-time.After(10 * time.Millisecond)
			}
			if srv.count() != 4 || s.state().Failure != "" {
				t.Errorf("%d calls, state %+v", srv.count(), s.state())
			}
		})
	})
	t.Run("Retry-After", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := &tokenServer{answer: func(int, *http.Request) *http.Response { return answer(429, ``, "Retry-After", "90") }}
			s := newTokens(t, srv)
			for i := range 95 {
				f := faultOf(t, s.authorize(t.Context()))
				if i < 90 && f.RetryAfter != time.Duration(90-i)*time.Second {
					t.Fatalf("after %d s: RetryAfter is %s", i, f.RetryAfter)
				}
				<-time.After(time.Second)
			}
			if srv.count() != 2 || srv.calls[1].Sub(srv.calls[0]) != 90*time.Second {
				t.Errorf("called at %v", srv.calls)
			}
		})
	})
	t.Run("timeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newTokens(t, &tokenServer{slow: time.Hour})
			start := time.Now()
			err := s.authorize(t.Context())
			if got := outcomeOf(err); got != notSent || time.Since(start) != 30*time.Second || !strings.Contains(err.Error(), "KEX_REQUEST_TIMEOUT") {
				t.Errorf("got %v after %s", err, time.Since(start))
			}
		})
	})
}
