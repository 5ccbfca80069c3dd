package kex

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
)

// tokenServer is a token endpoint without a network: it answers by a function and notes when it was called.
type tokenServer struct {
	mu     sync.Mutex
	calls  []time.Time
	answer func(n int, req *http.Request) *http.Response
	// slow is how long each call takes.
	slow time.Duration
}

func (s *tokenServer) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.calls = append(s.calls, time.Now())
	n := len(s.calls)
	s.mu.Unlock()
	if s.slow > 0 {
		select {
		case <-time.After(s.slow):
		case <-req.Context().Done():
			return nil, context.Cause(req.Context())
		}
	}
	return s.answer(n, req), nil
}

func (s *tokenServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

// busiest is the largest number of calls in any span of a minute.
func (s *tokenServer) busiest() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	most := 0
	for i, from := range s.calls {
		n := 0
		for _, at := range s.calls[i:] {
			if at.Before(from.Add(time.Minute)) {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

func answer(status int, body string, header ...string) *http.Response {
	h := http.Header{"Content-Type": {"application/json"}}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

func granted(n int, lifetime time.Duration) *http.Response {
	return answer(200, fmt.Sprintf(`{"access_token":"token-%d","token_type":"Bearer","expires_in":%d}`, n, int(lifetime.Seconds())))
}

// newTokens is a token source at srv.
func newTokens(t *testing.T, srv *tokenServer, change ...func(*Config)) *tokenSource {
	t.Helper()
	cfg := testConfig("https://api.invalid").withDefaults()
	for _, f := range change {
		f(&cfg)
	}
	s := newTokenSource(cfg, newEndpoint(cfg, mustURL(t, cfg.TokenURL), srv))
	t.Cleanup(s.close)
	return s
}

func TestOneTokenCallForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &tokenServer{slow: time.Second, answer: func(n int, _ *http.Request) *http.Response { return granted(n, time.Hour) }}
		s := newTokens(t, srv)
		for round := 1; round <= 2; round++ {
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					if err := s.authorize(t.Context()); err != nil {
						t.Errorf("authorize: %v", err)
					}
					if tok := s.inHand(t.Context()); tok == nil || tok.header[0] != fmt.Sprintf("Bearer token-%d", round) {
						t.Errorf("token in hand is %+v", tok)
					}
				})
			}
			wg.Wait()
			if n := srv.count(); n != round {
				t.Errorf("round %d: %d token calls, want %d", round, n, round)
			}
			<-time.After(time.Hour) // Expired: once more.
		}
	})
}

// TestWaitersDoNotCancelTheCall: neither the one who started it nor any other.
func TestWaitersDoNotCancelTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &tokenServer{slow: 10 * time.Second, answer: func(n int, _ *http.Request) *http.Response { return granted(n, time.Hour) }}
		s := newTokens(t, srv)
		ctx, cancel := context.WithCancel(t.Context())
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- s.authorize(ctx) }()
		synctest.Wait()
		go func() { second <- s.authorize(t.Context()) }()
		synctest.Wait()
		start := time.Now()
		cancel()
		if err := <-first; outcomeOf(err) != stopped || !errors.Is(err, context.Canceled) || time.Since(start) != 0 {
			t.Errorf("the cancelled waiter got %v after %s", err, time.Since(start))
		}
		if err := <-second; err != nil || srv.count() != 1 {
			t.Errorf("the other waiter got %v after %d calls", err, srv.count())
		}
	})
}

func TestEarlyRefreshInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &tokenServer{slow: 5 * time.Second, answer: func(n int, _ *http.Request) *http.Response { return granted(n, time.Hour) }}
		s := newTokens(t, srv)
		if err := s.authorize(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 54 { // Up to 5 minutes before the end nothing happens.
			<-time.After(time.Minute)
			if s.inHand(t.Context()) == nil || srv.count() != 1 {
				t.Fatalf("%d calls after %s", srv.count(), time.Since(srv.calls[0]))
			}
		}
		<-time.After(3 * time.Minute) // 90 s before the end at the latest; here are 2 min left.
		start := time.Now()
		for range 10 { // Many ask, one call.
			if err := s.authorize(t.Context()); err != nil || s.inHand(t.Context()).header[0] != "Bearer token-1" {
				t.Errorf("while refreshing: %v, token %s", err, s.inHand(t.Context()).header)
			}
		}
		if time.Since(start) != 0 {
			t.Errorf("waited %s for a refresh although the old token serves", time.Since(start))
		}
		<-time.After(6 * time.Second)
		if got := s.inHand(t.Context()); got.header[0] != "Bearer token-2" || srv.count() != 2 {
			t.Errorf("after the refresh: %s, %d calls", got.header, srv.count())
		}
	})
}

// TestFailedRefreshDoesNotHurt as long as the old token serves; it is told all the same.
func TestFailedRefreshDoesNotHurt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &tokenServer{answer: func(n int, _ *http.Request) *http.Response {
			if n > 1 {
				return answer(401, `{"error":"invalid_client"}`)
			}
			return granted(n, time.Hour)
		}}
		s := newTokens(t, srv)
		for range 59*60 - 30 {
			if err := s.authorize(t.Context()); err != nil {
				t.Fatalf("%s before expiry: %v", time.Until(s.state().Expiry), err)
			}
			<-time.After(time.Second)
		}
		st := s.state()
		if !st.Usable || st.Failure != fault.Unauthorized || st.Detail == "" || st.FailedAt.IsZero() || !st.NextTry.After(st.FailedAt) {
			t.Errorf("state is %+v", st)
		}
		if n := srv.busiest(); n > rejectedTries {
			t.Errorf("%d token calls in a minute", n)
		}
		<-time.After(2 * time.Minute)
		if got, want := outcomeOf(s.authorize(t.Context())), (outcome{fault.Systemic, fault.Unauthorized, false}); got != want {
			t.Errorf("after expiry: got %+v, want %+v", got, want)
		}
	})
}

// TestFailedRefreshAtTheLastMoment: a request that can still begin with the old token is let through.
func TestFailedRefreshAtTheLastMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &tokenServer{answer: func(n int, _ *http.Request) *http.Response {
			if n > 1 {
				return answer(500, ``)
			}
			return granted(n, time.Hour)
		}}
		s := newTokens(t, srv)
		for i, before := range []time.Duration{time.Hour, 8 * time.Second, 7900 * time.Millisecond} {
			if i > 0 {
				<-time.After(time.Until(s.state().Expiry) - before)
			}
			if err := s.authorize(t.Context()); err != nil || srv.count() != min(i+1, 2) {
				t.Errorf("%s before expiry: %v after %d calls", before, err, srv.count())
			}
		}
	})
}

// TestTokenTimes: with jitter, but always refresh before ready before usable before expiry.
func TestTokenTimes(t *testing.T) {
	now := time.Now()
	for _, lifetime := range []time.Duration{time.Nanosecond, time.Second, 10 * time.Second, time.Minute, time.Hour, 24 * time.Hour} {
		refreshes := map[time.Time]bool{}
		for range 50 {
			tok := newToken("x", now, lifetime)
			refreshes[tok.refresh] = true
			if tok.refresh.Before(now) || tok.refresh.After(tok.ready) || tok.ready.After(tok.usable) || tok.usable.After(tok.expiry) {
				t.Fatalf("lifetime %s: %+v", lifetime, tok)
			}
			if ahead := tok.expiry.Sub(tok.refresh); ahead > 5*time.Minute || lifetime >= time.Hour && ahead < 3*time.Minute {
				t.Errorf("lifetime %s: refreshed %s ahead", lifetime, ahead)
			}
		}
		if lifetime > time.Second && len(refreshes) < 10 {
			t.Errorf("lifetime %s: no jitter", lifetime)
		}
	}
}

func TestCloseEndsTheTokenCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		s := newTokens(t, &tokenServer{slow: time.Hour}, func(c *Config) {
			c.OnToken = func(outcome string, _ time.Duration) { told = append(told, outcome) }
		})
		waiter := make(chan error, 1)
		go func() { waiter <- s.authorize(t.Context()) }()
		synctest.Wait()
		start := time.Now()
		s.close()
		if err := <-waiter; outcomeOf(err) != stopped || time.Since(start) != 0 {
			t.Errorf("the waiter got %v after %s", err, time.Since(start))
		}
		if err := s.authorize(t.Context()); outcomeOf(err) != stopped {
			t.Errorf("afterwards: %v", err)
		}
		if err := s.missing(); outcomeOf(err) != stopped {
			t.Errorf("afterwards: %v", err)
		}
		if len(told) != 0 {
			t.Errorf("the interrupted call was counted as %v", told)
		}
		s.close() // Once more does no harm.
	})
}

func TestOnToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type call struct {
			outcome string
			took    time.Duration
		}
		var told []call
		srv := &tokenServer{slow: 2 * time.Second, answer: func(n int, _ *http.Request) *http.Response {
			return []*http.Response{answer(500, ``), answer(401, ``), granted(n, time.Hour)}[n-1]
		}}
		s := newTokens(t, srv, func(c *Config) {
			c.OnToken = func(outcome string, d time.Duration) { told = append(told, call{outcome, d}) }
		})
		for s.authorize(t.Context()) != nil {
			<-time.After(time.Second)
		}
		want := []call{{"outage", 2 * time.Second}, {"unauthorized", 2 * time.Second}, {TokenOK, 2 * time.Second}}
		if fmt.Sprint(told) != fmt.Sprint(want) {
			t.Errorf("told %v, want %v", told, want)
		}
	})
}

// TestInvalidate drops only the token it is told, and only while that is the current one.
func TestInvalidate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &tokenServer{answer: func(n int, _ *http.Request) *http.Response { return granted(n, time.Hour) }}
		s := newTokens(t, srv)
		var old *token
		for n := 1; n <= 3; n++ {
			if err := s.authorize(t.Context()); err != nil {
				t.Fatal(err)
			}
			current := s.inHand(t.Context())
			for range 64 {
				s.invalidate(old) // Late answers to earlier requests.
			}
			if s.inHand(t.Context()) != current || srv.count() != n {
				t.Fatalf("token %d was dropped by a late answer, or fetched anew: %d calls", n, srv.count())
			}
			s.invalidate(current)
			if s.inHand(t.Context()) != nil {
				t.Fatal("the rejected token is still in hand")
			}
			old = current
		}
	})
}
