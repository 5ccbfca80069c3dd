package telemetry_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/telemetry"
)

func TestCheckHealthFollowsTheStatusAndNamesTheReason(t *testing.T) {
	readiness := working()
	s := started(t, func() telemetry.Readiness { return readiness }, nil)
	url := "http://" + s.Addr() + "/readyz"
	if err := telemetry.CheckHealth(t.Context(), client(), url); err != nil {
		t.Errorf("ready: %v", err)
	}
	readiness.Holds = []telemetry.Hold{{Reason: fault.Outage}}
	if err := telemetry.CheckHealth(t.Context(), client(), url); err != nil {
		t.Errorf("hold outage: %v, want healthy", err)
	}
	readiness.Holds = []telemetry.Hold{{Reason: fault.Unauthorized}}
	err := telemetry.CheckHealth(t.Context(), client(), url)
	if want := "checking health: " + url + " answered 503: unauthorized"; err == nil || err.Error() != want {
		t.Errorf("hold unauthorized: %v, want %s", err, want)
	}
}

func TestCheckHealthRepeatsNoForeignBodyAndFollowsNoRedirect(t *testing.T) {
	reached := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/fine", http.StatusFound)
		case "/fine":
			reached = true
		case "/text":
			http.Error(w, "c4nary", http.StatusInternalServerError)
		case "/json":
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"reason":"c4nary C4NARY"}`))
		case "/long":
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"reason":"` + strings.Repeat("c", 100) + `"}`))
		case "/huge":
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"x":"` + strings.Repeat("c", 1<<20) + `","reason":"outage"}`))
		}
	}))
	defer server.Close()
	for path, status := range map[string]string{"/moved": "302", "/text": "500", "/json": "503", "/long": "503", "/huge": "503"} {
		err := telemetry.CheckHealth(t.Context(), client(), server.URL+path)
		if want := "checking health: " + server.URL + path + " answered " + status; err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
	if reached {
		t.Error("the redirect was followed")
	}
}

func TestCheckHealthTellsWhatItCannotReachWithoutThePassword(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	withPassword := strings.Replace(server.URL, "http://", "http://u:c4nary@", 1)
	err := telemetry.CheckHealth(t.Context(), client(), withPassword)
	if err == nil || strings.Contains(err.Error(), "c4nary") {
		t.Errorf("error = %v, want one without the password", err)
	}
	server.Close()
	for _, url := range []string{withPassword, "http://u:c4nary@%zz", "://"} {
		err := telemetry.CheckHealth(t.Context(), client(), url)
		if err == nil || !strings.HasPrefix(err.Error(), "checking health: ") || strings.Contains(err.Error(), "c4nary") {
			t.Errorf("%s: %v, want an error without the password", url, err)
		}
	}
}

// silent never answers.
type silent struct{}

func (silent) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestCheckHealthGivesUpAfterFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := telemetry.CheckHealth(t.Context(), &http.Client{Transport: silent{}}, "http://relay/livez")
		if got := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || got != 5*time.Second {
			t.Errorf("error %v after %s, want the deadline's after 5s", err, got)
		}
	})
}
