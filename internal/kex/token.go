package kex

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"kexrelay/internal/fault"
)

var errClosed = errors.New("the KEX client is closed")

// TokenState tells how the token stands. It holds no secret.
type TokenState struct {
	// Usable reports that requests can be sent now.
	Usable bool
	// Expiry and FetchedAt are those of the token in hand, zero without one.
	Expiry, FetchedAt time.Time
	// Failure and Detail say why the last try gave no token, empty if it gave one. A failed early refresh leaves
	// them set while the old token still serves.
	Failure fault.Reason
	Detail  string
	// FailedAt is when that try ended, NextTry until when the endpoint is left alone (unless the secret changes).
	FailedAt, NextTry time.Time
}

// tokenSource holds the token and is the only one to call the token endpoint.
//
// It has no goroutine of its own: who needs a token starts the one call ("flight") that all others then wait for, on
// a context that no waiter can cancel; a token that is due for refresh is replaced in the background while it
// serves. When the endpoint may be asked is decided by pace.
type tokenSource struct {
	fetch   func(ctx context.Context, secret string) (*token, *fault.Error)
	secret  func() (string, error)
	onToken func(outcome string, took time.Duration)

	mu      sync.Mutex
	current *token
	flight  *flight
	pace    *pace
	closed  bool
	// lastSecret is the one tried last, for comparison with the next and for scrubbing.
	lastSecret string
	// dropped is the token before the current one: a late answer may still repeat it.
	dropped *token
	// failure is how the last try ended, nil if it gave a token.
	failure  *fault.Error
	failedAt time.Time
}

// flight is a token call under way. fault is valid once done is closed.
type flight struct {
	done   chan struct{}
	cancel context.CancelFunc
	fault  *fault.Error
}

func newTokenSource(cfg Config, e *endpoint) *tokenSource {
	onToken := cfg.OnToken
	if onToken == nil {
		onToken = func(string, time.Duration) {}
	}
	return &tokenSource{fetch: e.fetch, secret: cfg.ClientSecret, onToken: onToken, pace: newPace()}
}

// authorize is Client.Authorize.
func (s *tokenSource) authorize(ctx context.Context) error {
	s.mu.Lock()
	now := time.Now()
	if t := s.current; t != nil && now.Before(t.ready) {
		s.refreshLocked(ctx, now)
		s.mu.Unlock()
		return nil
	}
	if ctx.Err() != nil {
		s.mu.Unlock()
		return interrupted(ctx, false)
	}
	fl, f := s.startLocked(ctx, now)
	usable := s.current != nil && now.Before(s.current.usable)
	s.mu.Unlock()
	switch {
	case f == nil:
	case usable:
		return nil
	default:
		return f
	}
	select {
	case <-fl.done:
	case <-ctx.Done():
		return interrupted(ctx, false)
	}
	if fl.fault == nil || s.inHand(ctx) != nil { // A failed refresh while the old token still serves is no failure.
		return nil
	}
	f = new(fault.Error)
	*f = *fl.fault // Each waiter has its own.
	return f
}

// inHand gives the token for a request, nil if there is none that is still good. It never waits.
func (s *tokenSource) inHand(ctx context.Context) *token {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.current == nil || !now.Before(s.current.usable) {
		return nil
	}
	s.refreshLocked(ctx, now)
	return s.current
}

// refreshLocked starts the early refresh if it is due and the endpoint may be asked.
func (s *tokenSource) refreshLocked(ctx context.Context, now time.Time) {
	if now.Before(s.current.refresh) || s.flight != nil {
		return
	}
	_, _ = s.startLocked(ctx, now) // Not allowed yet: the token still serves, the next request tries again.
}

// startLocked gives the flight to wait for, starting it if the endpoint may be asked, else the last failure.
func (s *tokenSource) startLocked(ctx context.Context, now time.Time) (*flight, *fault.Error) {
	if s.closed {
		return nil, &fault.Error{Kind: fault.Interrupted, Err: errClosed}
	}
	if s.flight != nil {
		return s.flight, nil
	}
	if !s.pace.mayLook(now) {
		return nil, s.lastFailureLocked(now)
	}
	// WithoutCancel: the one who happened to need the token first does not decide for all others.
	flightCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.flight = &flight{done: make(chan struct{}), cancel: cancel}
	go s.run(flightCtx, s.flight)
	return s.flight, nil
}

// run is the flight: read the secret, ask the endpoint if it may be asked, note the outcome.
func (s *tokenSource) run(ctx context.Context, fl *flight) {
	defer fl.cancel()
	secret, failed := s.readSecret()

	s.mu.Lock()
	start := time.Now()
	allowed := failed == nil && s.pace.mayTry(start, secret != s.lastSecret)
	if allowed {
		s.pace.began(start)
		s.lastSecret = secret
	}
	s.mu.Unlock()

	if !allowed {
		s.mu.Lock()
		defer s.mu.Unlock()
		if failed != nil {
			s.failure, s.failedAt = failed, start
			s.pace.unreadable(start)
		}
		s.landLocked(fl, s.lastFailureLocked(start))
		return
	}

	t, f := s.fetch(ctx, secret)
	outcome := TokenOK
	if f != nil {
		outcome = string(f.Reason)
	}
	if f == nil || f.Kind != fault.Interrupted {
		s.onToken(outcome, time.Since(start))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	end := time.Now()
	switch {
	case s.closed: // No outcome.
	case f == nil:
		if s.current != nil {
			s.dropped = s.current
		}
		s.current = t
		s.failure, s.failedAt = nil, time.Time{}
		s.pace.succeeded()
	default:
		s.failure, s.failedAt = f, end
		s.pace.failed(end, f)
	}
	s.landLocked(fl, f)
}

func (s *tokenSource) landLocked(fl *flight, f *fault.Error) {
	fl.fault = f
	s.flight = nil
	close(fl.done)
}

// readSecret gives the secret as it is now.
func (s *tokenSource) readSecret() (string, *fault.Error) {
	secret, err := s.secret()
	if err == nil && secret == "" {
		err = errors.New("it is empty")
	}
	if err != nil {
		return "", &fault.Error{
			Kind: fault.Systemic, Reason: fault.Unauthorized,
			Detail: cut("the client secret cannot be read: "+clean([]byte(err.Error()))+
				"; check KEX_CLIENT_SECRET or KEX_CLIENT_SECRET_FILE", maxDetail),
		}
	}
	return secret, nil
}

// lastFailureLocked is the last failure as it stands now: with what is left of the pause that was asked for.
func (s *tokenSource) lastFailureLocked(now time.Time) *fault.Error {
	if s.failure == nil { // The endpoint is left alone although the last try went well: too many rejections before.
		return &fault.Error{
			Kind: fault.Transient, Reason: fault.Outage,
			Detail: "the token endpoint is not asked more than 5 times a minute after a rejection",
		}
	}
	f := *s.failure
	if f.RetryAfter > 0 {
		f.RetryAfter = max(s.failedAt.Add(f.RetryAfter).Sub(now), 0)
	}
	return &f
}

// invalidate drops t, which the API did not accept, if it is still the current token.
func (s *tokenSource) invalidate(t *token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == t {
		s.dropped, s.current = t, nil
	}
}

// missing is the fault of a request that found no token.
func (s *tokenSource) missing() *fault.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return &fault.Error{Kind: fault.Interrupted, Err: errClosed}
	}
	// Somebody else's 401 dropped the token between Authorize and Send. It is neither a failure nor an attempt: the
	// caller begins again with Authorize.
	return &fault.Error{Kind: fault.Interrupted, Detail: "nothing was sent: no usable token in hand"}
}

// known are the secrets that must not show up in any text.
func (s *tokenSource) known() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := []string{s.lastSecret}
	for _, t := range []*token{s.current, s.dropped} {
		if t != nil {
			known = append(known, strings.TrimPrefix(t.header[0], "Bearer "))
		}
	}
	return known
}

func (s *tokenSource) state() TokenState {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var st TokenState
	if t := s.current; t != nil {
		st.Usable, st.Expiry, st.FetchedAt = now.Before(t.usable), t.expiry, t.fetched
	}
	if f := s.failure; f != nil {
		st.Failure, st.Detail, st.FailedAt = f.Reason, f.Detail, s.failedAt
		st.NextTry = s.pace.next(now)
	}
	return st
}

// close ends the flight, if there is one, and waits for it.
func (s *tokenSource) close() {
	s.mu.Lock()
	s.closed, s.current = true, nil
	fl := s.flight
	if fl != nil {
		fl.cancel()
	}
	s.mu.Unlock()
	if fl != nil {
		<-fl.done
	}
}
