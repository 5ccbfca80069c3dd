package kex

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	tests := map[string]struct {
		value, date string
		want        time.Duration
		ok          bool
	}{
		"absent":                  {},
		"seconds":                 {value: "5", want: 5 * time.Second, ok: true},
		"zero":                    {value: "0", ok: true},
		"leading zeros":           {value: "0007", want: 7 * time.Second, ok: true},
		"spaces around":           {value: " 5 ", want: 5 * time.Second, ok: true},
		"an hour":                 {value: "3600", want: time.Hour, ok: true},
		"a day":                   {value: "86400", want: time.Hour, ok: true},
		"more than an int":        {value: strings.Repeat("9", 40), want: time.Hour, ok: true},
		"negative":                {value: "-5"},
		"signed":                  {value: "+5"},
		"fraction":                {value: "1.5"},
		"words":                   {value: "soon"},
		"unit":                    {value: "5s"},
		"Arabic digits":           {value: "٥"},
		"date":                    {value: "Sun, 22 Nov 2026 12:00:30 GMT", want: 30 * time.Second, ok: true},
		"date, RFC 850":           {value: "Sunday, 22-Nov-26 12:00:30 GMT", want: 30 * time.Second, ok: true},
		"date, asctime":           {value: "Sun Nov 22 12:00:30 2026", want: 30 * time.Second, ok: true},
		"date in the past":        {value: "Sun, 22 Nov 2026 11:00:00 GMT", ok: true},
		"date next year":          {value: "Mon, 22 Nov 2027 12:00:00 GMT", want: time.Hour, ok: true},
		"date by the other clock": {value: "Sun, 22 Nov 2026 15:00:30 GMT", date: "Sun, 22 Nov 2026 15:00:00 GMT", want: 30 * time.Second, ok: true},
		"date beside a bad Date":  {value: "Sun, 22 Nov 2026 12:00:30 GMT", date: "yesterday", want: 30 * time.Second, ok: true},
		"no date":                 {value: "Sun, 99 Nov 2026 12:00:30 GMT"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := http.Header{}
			if tt.value != "" {
				h.Set("Retry-After", tt.value)
			}
			if tt.date != "" {
				h.Set("Date", tt.date)
			}
			got, ok := retryAfter(h, now)
			if got != tt.want || ok != tt.ok {
				t.Errorf("got %s, %v, want %s, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}

// TestThrottled: how the header and the status go together.
func TestThrottled(t *testing.T) {
	for name, tt := range map[string]struct {
		status int
		value  string
		kind   string
		wait   time.Duration
	}{
		"429 with":         {429, "7", "throttled", 7 * time.Second},
		"429 without":      {429, "", "throttled", 0},
		"429 with rubbish": {429, "soon", "throttled", 0},
		"503 with":         {503, "7", "throttled", 7 * time.Second},
		"503 with zero":    {503, "0", "throttled", 0},
		"503 without":      {503, "", "transient", 0},
		"503 with rubbish": {503, "soon", "transient", 0},
		"500 with":         {500, "7", "transient", 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.Header{}
			if tt.value != "" {
				h.Set("Retry-After", tt.value)
			}
			f := classify(tt.status, h, time.Now())
			if f.Kind.String() != tt.kind || f.RetryAfter != tt.wait {
				t.Errorf("got %s after %s, want %s after %s", f.Kind, f.RetryAfter, tt.kind, tt.wait)
			}
		})
	}
}

// FuzzRetryAfter: whatever stands in the header, the wait is within its bounds, and nothing is no wait.
func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"5", "-1", "Sun, 22 Nov 2026 12:00:30 GMT", "99999999999999999999", "", "٥", "1e9", "Sun Nov 22 12:00:30 2026"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, value, date string) {
		h := http.Header{"Retry-After": {value}, "Date": {date}}
		d, ok := retryAfter(h, time.Now())
		if d < 0 || d > maxRetryAfter || !ok && d != 0 {
			t.Errorf("%q, %q: got %s, %v", value, date, d, ok)
		}
	})
}
