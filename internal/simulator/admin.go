package simulator

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// How long GET /admin/wait waits.
const (
	defaultAdminWait = 30 * time.Second
	maxAdminWait     = 10 * time.Minute
)

// adminHelp is the answer to GET /admin.
const adminHelp = `KEX API simulator: admin endpoints

GET    /admin/ledger[?vorgang=N]      bookings in the order they were made, one JSON object per line
GET    /admin/requests[?vorgang=N]    all requests to the API in the order of arrival, likewise
GET    /admin/token-requests          all requests to the token endpoint, likewise
GET    /admin/repeated                X-TraceIds that more than one request had, with their number
GET    /admin/stats                   counts, by status and kind
GET    /admin/wait?booked=N           waits until so many are there; also requests=, finished=, token-requests=,
                                      vorgang= (for booked), timeout= (30s); 408 if it takes longer
GET    /admin/script                  the script in force, as YAML
PUT    /admin/script                  replaces it, YAML or JSON
PUT    /admin/outage                  starts an outage: {"status": 503, "retry-after": "5s", "of": "api"}, or nothing
DELETE /admin/outage                  ends it
PUT    /admin/secret                  changes the client's secret: {"clientSecret": "…"}
POST   /admin/revoke                  makes all tokens issued so far unknown
POST   /admin/reset                   forgets all requests and bookings and begins the script anew
`

// adminHandler serves the admin endpoints.
func (s *Simulator) adminHandler() http.Handler {
	mux := http.NewServeMux()
	help := func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, "text/plain; charset=utf-8", adminHelp)
	}
	mux.HandleFunc("GET /admin", help)
	mux.HandleFunc("GET /admin/{$}", help)
	mux.HandleFunc("GET /admin/ledger", func(w http.ResponseWriter, r *http.Request) {
		bookings := s.Ledger
		if vorgang := r.URL.Query().Get("vorgang"); vorgang != "" {
			bookings = func() []Booking { return s.Bookings(vorgang) }
		}
		jsonLines(w, bookings(), func(Booking) bool { return true })
	})
	mux.HandleFunc("GET /admin/requests", func(w http.ResponseWriter, r *http.Request) {
		vorgang := r.URL.Query().Get("vorgang")
		jsonLines(w, s.Requests(), func(r Request) bool { return vorgang == "" || r.Vorgangsnummer == vorgang })
	})
	mux.HandleFunc("GET /admin/token-requests", func(w http.ResponseWriter, _ *http.Request) {
		jsonLines(w, s.TokenRequests(), func(TokenRequest) bool { return true })
	})
	mux.HandleFunc("GET /admin/repeated", func(w http.ResponseWriter, _ *http.Request) { replyJSON(w, s.RepeatedTraceIDs()) })
	mux.HandleFunc("GET /admin/stats", func(w http.ResponseWriter, _ *http.Request) { replyJSON(w, s.Stats()) })
	mux.HandleFunc("GET /admin/wait", s.adminWait)
	mux.HandleFunc("GET /admin/script", s.adminScript)
	mux.HandleFunc("PUT /admin/script", change(func(body []byte) error {
		script, err := ParseScript(body)
		if err != nil {
			return err
		}
		return s.SetScript(script)
	}))
	mux.HandleFunc("PUT /admin/outage", change(func(body []byte) error {
		var outage Outage
		if err := decodeStrict(body, &outage); err != nil {
			return fmt.Errorf("reading the outage: %w", err)
		}
		return s.StartOutage(outage)
	}))
	mux.HandleFunc("DELETE /admin/outage", change(func([]byte) error { s.EndOutage(); return nil }))
	mux.HandleFunc("PUT /admin/secret", change(s.adminSecret))
	mux.HandleFunc("POST /admin/revoke", change(func([]byte) error { s.RevokeTokens(); return nil }))
	mux.HandleFunc("POST /admin/reset", change(func([]byte) error { s.Reset(); return nil }))
	return mux
}

// change serves an endpoint that changes something: 204, or 400 with the reason.
func change(apply func(body []byte) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxScript))
		if err == nil {
			err = apply(body)
		}
		if err != nil {
			reply(w, http.StatusBadRequest, "text/plain; charset=utf-8", err.Error()+"\n")
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *Simulator) adminSecret(body []byte) error {
	var request struct {
		ClientSecret string `yaml:"clientSecret"`
	}
	if err := decodeStrict(body, &request); err != nil {
		return errors.New(`reading the secret: it must be {"clientSecret": "…"}`) // The error could quote the secret.
	}
	return s.SetClientSecret(request.ClientSecret)
}

func (s *Simulator) adminScript(w http.ResponseWriter, _ *http.Request) {
	text, err := yaml.Marshal(s.Script())
	if err != nil {
		reply(w, http.StatusInternalServerError, "text/plain; charset=utf-8", err.Error()+"\n")
		return
	}
	reply(w, http.StatusOK, "application/yaml", string(text))
}

// adminWait holds the request until the counts are reached.
func (s *Simulator) adminWait(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	timeout := defaultAdminWait
	var errs []error
	if text := query.Get("timeout"); text != "" {
		var err error
		if timeout, err = time.ParseDuration(text); err != nil || timeout < 0 || timeout > maxAdminWait {
			errs = append(errs, fmt.Errorf("timeout: %q is no duration up to %v", text, maxAdminWait))
		}
	}
	var want Counts
	errs = append(errs,
		atLeast(query, "booked", &want.Booked), atLeast(query, "requests", &want.Requests),
		atLeast(query, "finished", &want.Finished), atLeast(query, "token-requests", &want.TokenRequests))
	if err := errors.Join(errs...); err != nil {
		reply(w, http.StatusBadRequest, "text/plain; charset=utf-8", err.Error()+"\n")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	defer s.untilClosed(cancel)()
	vorgang := query.Get("vorgang")
	err := s.WaitFor(ctx, func(c Counts) bool {
		return (vorgang != "" || c.Booked >= want.Booked) && c.Requests >= want.Requests &&
			c.Finished >= want.Finished && c.TokenRequests >= want.TokenRequests
	})
	if err == nil && vorgang != "" {
		err = s.WaitBookedFor(ctx, vorgang, want.Booked)
	}
	if err != nil {
		replyJSONStatus(w, http.StatusRequestTimeout, s.Counts())
		return
	}
	replyJSON(w, s.Counts())
}

// untilClosed cancels a wait when the simulator is closed. The function it returns ends its watch.
func (s *Simulator) untilClosed(cancel func()) func() {
	done := make(chan struct{})
	go func() {
		select {
		case <-s.closed:
			cancel()
		case <-done:
		}
	}()
	return func() { close(done) }
}

// atLeast reads a count of the query, 0 if it is not there.
func atLeast(query url.Values, name string, into *int) error {
	text := query.Get(name)
	if text == "" {
		return nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return fmt.Errorf("%s: %q is no number", name, text)
	}
	*into = n
	return nil
}

// reply answers an admin request. A client that has left does not matter.
func reply(w http.ResponseWriter, status int, contentType, text string) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) //nolint:gosec // Plain text or JSON, no browser takes it for HTML.
}

func replyJSON(w http.ResponseWriter, value any) { replyJSONStatus(w, http.StatusOK, value) }

func replyJSONStatus(w http.ResponseWriter, status int, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		reply(w, http.StatusInternalServerError, "text/plain; charset=utf-8", err.Error()+"\n")
		return
	}
	reply(w, status, "application/json", string(text)+"\n")
}

// jsonLines writes those values that are wanted, one JSON object per line.
func jsonLines[T any](w http.ResponseWriter, values []T, wanted func(T) bool) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	buffered := bufio.NewWriter(w)
	encoder := json.NewEncoder(buffered)
	for _, value := range values {
		if !wanted(value) {
			continue
		}
		if err := encoder.Encode(value); err != nil {
			return // The client has left.
		}
	}
	_ = buffered.Flush()
}
