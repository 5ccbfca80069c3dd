package relay

import (
	"time"

	"github.com/cenkalti/backoff/v4"

	"kexrelay/internal/update"
)

// progress is what was tried for one update so far in this process.
type progress struct {
	// attempts counts POSTs, requestID is the last one's X-TraceId.
	attempts       int
	requestID      string
	firstAttemptAt time.Time
	// unknowns counts the POSTs whose outcome nobody knows, throttles the answers that asked for a pause.
	unknowns, throttles int
	// crashes counts the processes that died with it.
	crashes int
	// answers are those that settled nothing. An update that is delivered at once has none.
	answers update.Answers

	firstFailureAt, lastFailureAt time.Time
	heldAtFailure                 time.Duration
	spent                         time.Duration
	delays                        *backoff.ExponentialBackOff
}

// failed books a failure that costs retry budget: the time since the failure before it, less what sending was held
// meanwhile, and only if the API worked for others. held is the gate's total.
func (p *progress) failed(now time.Time, held time.Duration, othersWork bool) {
	if p.firstFailureAt.IsZero() {
		p.firstFailureAt = now
	} else if othersWork {
		p.spent += max(0, now.Sub(p.lastFailureAt)-(held-p.heldAtFailure))
	}
	p.lastFailureAt, p.heldAtFailure = now, held
}

// answered keeps what the last request came to.
func (p *progress) answered(a *attempted) {
	answer := update.PastAnswer{
		Attempt: p.attempts, RequestID: p.requestID, At: a.at, DurationMs: a.duration.Milliseconds(), Status: a.status,
	}
	if a.fault != nil {
		answer.Reason, answer.Unknown = a.fault.Reason, a.fault.Unknown
	}
	p.answers = p.answers.With(answer)
}

// delay is the wait before the next attempt: exponential with jitter, see retryDelays.
func (p *progress) delay(initial, maxInterval time.Duration) time.Duration {
	if p.delays == nil {
		p.delays = retryDelays(initial, maxInterval)
	}
	return p.delays.NextBackOff()
}

// retryDelays is the retry policy: each delay is half as long again as the one before, ± 50 % so that updates that
// failed together do not come back together, and there is no last one, because a budget ends retrying, not a count.
func retryDelays(initial, maxInterval time.Duration) *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(initial),
		backoff.WithMaxInterval(maxInterval),
		backoff.WithMaxElapsedTime(0),
	)
}
