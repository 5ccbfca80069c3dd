package simulator

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestURLsOfAServer(t *testing.T) {
	s := newSimulator(t, "")
	server, err := s.Start(t.Context(), ":0") // All addresses.
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	host := "http://" + server.Addr()
	if !strings.HasPrefix(host, "http://127.0.0.1:") || server.BaseURL() != host+"/kreditsmart/kex" ||
		server.TokenURL() != host+"/auth/token" || server.AdminURL() != host+"/admin" {
		t.Errorf("URLs %s %s %s", server.BaseURL(), server.TokenURL(), server.AdminURL())
	}
}

func TestAnAddressInUseIsAnError(t *testing.T) {
	s := newSimulator(t, "")
	c := listen(t, s)
	if _, err := s.Start(t.Context(), c.server.Addr()); !contains(err, "starting the simulator") {
		t.Errorf("error %v", err)
	}
}

func TestTheServerStopsWithItsContext(t *testing.T) {
	s := newSimulator(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	server, err := s.Start(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := server.Wait(); err != nil {
		t.Error(err)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
}

// Closing is what a kill is: connections end at once and what was not booked is not booked later. Then the API comes
// back on the same address and its ledger goes on.
func TestCloseCutsWhatIsWaitingAndTheLedgerGoesOn(t *testing.T) {
	s := newSimulator(t, "vorgaenge: [{match: ['1'], always: {latency: {fixed: 1h}}}]")
	c := listen(t, s)
	c.wantStatus(c.comment("2", ""), http.StatusOK)
	got := make(chan answer)
	go func() { got <- c.comment("1", "") }()
	if err := s.WaitFor(t.Context(), func(c Counts) bool { return c.Requests == 2 }); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.server.Close(); err != nil {
			t.Error(err)
		}
	}
	if a := <-got; a.err == nil {
		t.Errorf("answered %d", a.status)
	}
	if counts := s.Counts(); counts.Finished != 2 || counts.Booked != 1 || counts.Cut != 1 {
		t.Errorf("counts %+v", counts)
	}
	if a := c.comment("2", ""); a.err == nil {
		t.Error("the closed server answers")
	}

	server, err := s.Start(t.Context(), c.server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	c.wantStatus(c.comment("2", ""), http.StatusOK)
	c.wantBooked("2", 2)
	c.http.CloseIdleConnections()
}

func TestCloseWaitsForWhatIsStillAtWork(t *testing.T) {
	s := newSimulator(t, "latency: {fixed: 1h}")
	c := listen(t, s)
	got := make(chan answer)
	go func() { got <- c.comment("1", "") }()
	if err := s.WaitFor(t.Context(), func(c Counts) bool { return c.Requests == 1 }); err != nil {
		t.Fatal(err)
	}
	s.ledger.mu.Lock() // The request cannot end.
	closed := make(chan error)
	go func() { closed <- c.server.Close() }()
	<-got // By now its connection is closed.
	select {
	case err := <-closed:
		s.ledger.mu.Unlock()
		t.Fatalf("Close returned before the request had ended (error %v)", err)
	case <-time.After(100 * time.Millisecond):
	}
	s.ledger.mu.Unlock()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestCloseOfTheSimulatorEndsWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulator(t, "latency: {fixed: 1h}")
		token := s.tokens.issue([]string{ScopeWrite}, 2*time.Hour)
		got := make(chan answer)
		go func() { got <- directUpdate(t.Context(), s, token, "1") }()
		wait(time.Minute)
		start := time.Now()
		s.Close()
		s.Close()
		if a := <-got; a.status != 0 || time.Since(start) != 0 || len(s.Ledger()) != 0 {
			t.Errorf("answered %d after %v, booked %d", a.status, time.Since(start), len(s.Ledger()))
		}
	})
}

func TestAdminEndpoints(t *testing.T) {
	s := newSimulator(t, "")
	c := listen(t, s)
	admin := c.server.AdminURL()
	get := func(path string) string {
		t.Helper()
		got := c.call(http.MethodGet, admin+path, "")
		c.wantStatus(got, http.StatusOK)
		return got.body
	}
	change := func(method, path, body string) {
		t.Helper()
		c.wantStatus(c.call(method, admin+path, body), http.StatusNoContent)
	}
	c.comment("1", "a")
	c.comment("2", "b")
	c.comment("1", "a")
	c.fetchToken(testClient, "wrong", nil)
	if err := s.WaitFor(t.Context(), func(c Counts) bool { return c.Finished == 3 && c.TokenRequestsFinished == 1 }); err != nil {
		t.Fatal(err)
	}

	for _, path := range []string{"", "/"} {
		if !strings.Contains(get(path), "/admin/ledger") {
			t.Errorf("GET /admin%s does not help", path)
		}
	}
	lines := strings.Split(strings.TrimSpace(get("/ledger")), "\n")
	if len(lines) != 3 || decode[Booking](t, lines[1]).TraceID != "b" || decode[Booking](t, lines[2]).Seq != 3 {
		t.Errorf("ledger %q", lines)
	}
	lines = strings.Split(strings.TrimSpace(get("/ledger?vorgang=1")), "\n")
	if len(lines) != 2 || decode[Booking](t, lines[1]).Vorgangsnummer != "1" {
		t.Errorf("ledger of one Vorgang %q", lines)
	}
	if got := get("/ledger?vorgang=none"); got != "" {
		t.Errorf("ledger of an unknown Vorgang %q", got)
	}
	lines = strings.Split(strings.TrimSpace(get("/requests")), "\n")
	if len(lines) != 3 || !decode[Request](t, lines[2]).RepeatedTraceID {
		t.Errorf("requests %q", lines)
	}
	if lines = strings.Split(strings.TrimSpace(get("/requests?vorgang=2")), "\n"); len(lines) != 1 || decode[Request](t, lines[0]).TraceID != "b" {
		t.Errorf("requests of one Vorgang %q", lines)
	}
	if got := decode[TokenRequest](t, get("/token-requests")); got.Status != 401 || got.Error != "invalid_client" {
		t.Errorf("token requests %+v", got)
	}
	if got := decode[map[string]int](t, get("/repeated")); got["a"] != 2 || len(got) != 1 {
		t.Errorf("repeated %v", got)
	}
	if got := decode[Stats](t, get("/stats")); got.Booked != 3 || got.ByStatus[200] != 3 || got.TokenByStatus[401] != 1 {
		t.Errorf("stats %+v", got)
	}

	change(http.MethodPut, "/script", `{"vorgaenge": [{"match": ["1"], "always": {"status": 410}}]}`)
	c.wantStatus(c.comment("1", "c"), 410)
	if got := get("/script"); !strings.Contains(got, "status: 410") {
		t.Errorf("script %q", got)
	}
	if got := c.call(http.MethodPut, admin+"/script", "vorgange: []"); got.status != 400 || !strings.Contains(got.body, `unknown key "vorgange"`) {
		t.Errorf("a wrong script is answered %d %q", got.status, got.body)
	}
	c.wantStatus(c.comment("1", "d"), 410) // The old script stays.

	change(http.MethodPut, "/outage", `{"status": 504, "retry-after": "5s", "of": "all"}`)
	c.wantStatus(c.comment("2", "e"), 504)
	c.wantStatus(c.fetchToken(testClient, testSecret, nil), 504)
	change(http.MethodDelete, "/outage", "")
	c.wantStatus(c.comment("2", "f"), 200)
	change(http.MethodPut, "/outage", "")
	c.wantStatus(c.comment("2", "g"), 503)
	for _, wrong := range []string{`{"status": 1}`, `{"sttus": 500}`} {
		c.wantStatus(c.call(http.MethodPut, admin+"/outage", wrong), 400)
	}

	change(http.MethodPut, "/secret", `{"clientSecret": "new"}`)
	if got := direct(s, tokenRequest(t.Context(), testSecret)); got.status != 503 && got.status != 401 {
		t.Errorf("the old secret is answered %d", got.status)
	}
	for _, wrong := range []string{``, `{"clientSecret": ""}`, `{"secret": "canary"}`, `canary`, `{"clientSecret": ["canary"]}`} {
		if got := c.call(http.MethodPut, admin+"/secret", wrong); got.status != 400 || strings.Contains(got.body, "canary") {
			t.Errorf("secret %q is answered %d %q", wrong, got.status, got.body)
		}
	}

	change(http.MethodPost, "/reset", "")
	if got := decode[Stats](t, get("/stats")); got.Requests != 0 || got.Booked != 0 {
		t.Errorf("stats after the reset %+v", got)
	}
	c.wantStatus(c.comment("2", "h"), 200) // The outage by hand is over too.
	change(http.MethodPost, "/revoke", "")
	c.wantStatus(c.comment("2", "i"), 401)
	c.wantStatus(c.call(http.MethodGet, admin+"/nothing", ""), 404)
}

func TestAdminWait(t *testing.T) {
	s := newSimulator(t, "")
	c := listen(t, s)
	admin := c.server.AdminURL()
	got := make(chan answer)
	go func() { got <- c.call(http.MethodGet, admin+"/wait?vorgang=7&booked=2&requests=3&finished=3", "") }()
	for _, vorgang := range []string{"7", "8", "7"} {
		c.comment(vorgang, "")
	}
	a := <-got
	c.wantStatus(a, 200)
	if counts := decode[Counts](t, a.body); counts.Booked != 3 || counts.Finished != 3 {
		t.Errorf("counts %+v", counts)
	}
	a = c.call(http.MethodGet, admin+"/wait?booked=4&timeout=20ms", "")
	if a.status != 408 || decode[Counts](t, a.body).Booked != 3 {
		t.Errorf("a wait in vain is answered %d %q", a.status, a.body)
	}
	a = c.call(http.MethodGet, admin+"/wait?vorgang=8&booked=2&timeout=20ms", "")
	c.wantStatus(a, 408)
	for _, vain := range []string{"token-requests=1", "requests=4", "finished=4"} {
		c.wantStatus(c.call(http.MethodGet, admin+"/wait?timeout=20ms&"+vain, ""), 408)
	}
	for _, wrong := range []string{"booked=x", "requests=-1", "timeout=1", "timeout=1h", "timeout=-1s"} {
		c.wantStatus(c.call(http.MethodGet, admin+"/wait?"+wrong, ""), 400)
	}

	go func() { got <- c.call(http.MethodGet, admin+"/wait?booked=100", "") }()
	s.Close()
	c.wantStatus(<-got, 408)
}

// A connection that never sends anything must not hold up Close.
func TestCloseDoesNotWaitForIdleConnections(t *testing.T) {
	s := newSimulator(t, "")
	c := listen(t, s)
	r := update(t.Context(), c.server.BaseURL(), c.token, "1", KindComments, "", "")
	reader, writer := io.Pipe()
	defer func() { _ = writer.Close() }()
	r.Body, r.ContentLength = reader, 100
	got := make(chan answer)
	go func() { got <- c.do(r) }()
	if err := s.WaitFor(t.Context(), func(c Counts) bool { return c.Requests == 1 }); err != nil {
		t.Fatal(err)
	}
	if err := c.server.Close(); err != nil {
		t.Error(err)
	}
	_ = writer.Close()
	<-got
	c.wantBooked("1", 0)
}
