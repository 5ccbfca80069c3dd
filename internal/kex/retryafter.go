package kex

import (
	"net/http"
	"strings"
	"time"
)

// maxRetryAfter is the longest pause another side may ask for: one mistaken header must not stop the relay for
// a day.
const maxRetryAfter = time.Hour

// retryAfter reads the Retry-After header: seconds, or an HTTP date, clamped to [0, 1h]. It reports false if there
// is none or if it means nothing. A date counts from the answer's own Date header, so that two clocks which
// disagree do not matter; without one it counts from now.
func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if value == "" {
		return 0, false
	}
	if d, ok := delaySeconds(value); ok {
		return d, true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return min(max(at.Sub(now), 0), maxRetryAfter), true
}

// delaySeconds parses RFC 9110's delay-seconds: digits only, of any length.
func delaySeconds(value string) (time.Duration, bool) {
	var seconds int64
	for i := range len(value) {
		c := value[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		// Clamped as it grows: the number of digits has no bound.
		seconds = min(seconds*10+int64(c-'0'), int64(maxRetryAfter/time.Second))
	}
	return time.Duration(seconds) * time.Second, true
}
