package simulator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestNewNamesEverythingThatIsWrong(t *testing.T) {
	_, err := New(Config{TokenTTL: -1, MaxBody: -1, Script: Script{Faults: []Fault{{Rate: 2}}}})
	if err == nil {
		t.Fatal("a wrong config was taken")
	}
	for _, want := range []string{"ClientID", "ClientSecret", "TokenTTL", "MaxBody", "faults[0].rate"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %s", err, want)
		}
	}
}

func TestTheDocumentedExamplesAreBookedByteForByte(t *testing.T) {
	s := newSimulator(t, "", func(c *Config) { c.KeepBodies = true })
	c := listen(t, s)
	c.wantStatus(c.post("123456", KindDocument, "sys12345678", exampleDocument), http.StatusCreated)
	c.wantStatus(c.post("123456", KindComments, "sys12345679", exampleComments), http.StatusOK)

	bookings := s.Bookings("123456")
	if len(bookings) != 2 {
		t.Fatalf("booked %d, want 2", len(bookings))
	}
	for i, want := range []struct {
		kind, traceID, body string
		status              int
	}{
		{KindDocument, "sys12345678", exampleDocument, http.StatusCreated},
		{KindComments, "sys12345679", exampleComments, http.StatusOK},
	} {
		got := bookings[i]
		sum := sha256.Sum256([]byte(want.body))
		if got.Kind != want.kind || got.TraceID != want.traceID || got.Status != want.status || string(got.Body) != want.body ||
			got.Digest != hex.EncodeToString(sum[:]) || got.Size != int64(len(want.body)) || got.Seq != i+1 || got.Request != i+1 {
			t.Errorf("booking %d = %+v, want %+v", i, got, want)
		}
		if got.BookedAt.IsZero() || time.Since(got.BookedAt) > time.Minute {
			t.Errorf("booking %d was booked at %v", i, got.BookedAt)
		}
	}
	if s.Ledger()[0].Body == nil {
		t.Error("the ledger lacks the bodies")
	}
}

func TestBodiesAreNotKeptByDefault(t *testing.T) {
	s := newSimulator(t, "")
	c := listen(t, s)
	c.wantStatus(c.comment("1", ""), http.StatusOK)
	if s.Ledger()[0].Body != nil {
		t.Error("a body was kept")
	}
}

func TestMalformedUpdatesAreRefusedAndNeverBooked(t *testing.T) {
	const long = "canary-of-the-content"
	for name, test := range map[string]struct {
		kind, body string
		echoed     string
	}{
		"document truncated":                {KindDocument, `{"filename": "a.pdf", "base64Content": "` + long, long},
		"document an array":                 {KindDocument, `["a"]`, `a`},
		"document null":                     {KindDocument, `null`, "null"},
		"document without filename":         {KindDocument, `{"base64Content": "AAAA"}`, "AAAA"},
		"document with empty filename":      {KindDocument, `{"filename": "", "base64Content": "AAAA"}`, "AAAA"},
		"document without content":          {KindDocument, `{"filename": "` + long + `"}`, long},
		"document with empty content":       {KindDocument, `{"filename": "` + long + `", "base64Content": ""}`, long},
		"document with null content":        {KindDocument, `{"filename": "a", "base64Content": null}`, "filename"},
		"document with a number":            {KindDocument, `{"filename": 12345, "base64Content": "AAAA"}`, "12345"},
		"document with url-safe base64":     {KindDocument, `{"filename": "a", "base64Content": "AA-_"}`, "AA-_"},
		"document with padding inside":      {KindDocument, `{"filename": "a", "base64Content": "A=AA"}`, "A=AA"},
		"document with names in wrong case": {KindDocument, `{"Filename": "a", "Base64Content": "AAAA"}`, "AAAA"},
		"document with trailing garbage":    {KindDocument, `{"filename": "a", "base64Content": "AAAA"} x`, "AAAA"},
		"document with a raw newline":       {KindDocument, "{\"filename\": \"a\nb\", \"base64Content\": \"AAAA\"}", "AAAA"},
		"document not UTF-8":                {KindDocument, "{\"filename\": \"a\xff\", \"base64Content\": \"AAAA\"}", "AAAA"},
		"comments an object":                {KindComments, `{"a": "b"}`, "b"},
		"comments a string":                 {KindComments, `"` + long + `"`, long},
		"comments empty":                    {KindComments, `[]`, "[]"},
		"comments with null":                {KindComments, `[null]`, "null"},
		"comments with a number":            {KindComments, `[17]`, "17"},
		"comments not UTF-8":                {KindComments, "[\"a\xff\"]", "a"},
		"comments truncated":                {KindComments, `["` + long, long},
		"nothing":                           {KindComments, ``, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSimulator(t, "")
			c := listen(t, s)
			got := c.post("1", test.kind, "t1", test.body)
			c.wantStatus(got, http.StatusBadRequest)
			problem := decode[apiError](t, got.body)
			if !strings.Contains(problem.Message, test.echoed) || problem.Status != http.StatusBadRequest || problem.TraceID != "t1" {
				t.Errorf("error %+v does not quote %q", problem, test.echoed)
			}
			c.wantBooked("1", 0)
			if r := s.Requests()[0]; r.Booked || r.Status != http.StatusBadRequest {
				t.Errorf("recorded as %+v", r)
			}
		})
	}
}

func TestUnusualButRightUpdatesAreBooked(t *testing.T) {
	for name, test := range map[string]struct{ kind, body string }{
		"members in the other order": {KindDocument, `{"base64Content":"AAA=","filename":"a"}`},
		"further members":            {KindDocument, `{"filename":"a","category":{"x":[1]},"base64Content":"AAAA"}`},
		"escapes":                    {KindDocument, `{"filename":"a\"\u00e4","base64Content":"AA\/A"}`},
		"umlauts":                    {KindDocument, `{"filename":"Gehälter.pdf","base64Content":"AAAA"}`},
		"white space":                {KindDocument, " \r\n{ \"filename\" :\t\"a\" , \"base64Content\" : \"AAAA\" }\n"},
		"several comments":           {KindComments, `["a", "", "ä\n"]`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := checkBody(test.kind, "application/json; charset=UTF-8", []byte(test.body)); got != nil {
				t.Errorf("refused with %d %s", got.Status, got.message)
			}
		})
	}
}

// The quick check must never take what the thorough one refuses.
func FuzzQuickCheckIsNeverMoreGenerous(f *testing.F) {
	for _, seed := range []string{
		exampleDocument, `{"base64Content":"AAA=","filename":"a"}`, `{"filename":"a","filename":"b"}`,
		`{"filename":"a\","base64Content":"AAAA"}`, `{"filename":"a","base64Content":"A\u0041"}`,
		`{"filename":"a","base64Content":"A=A"}`, `{"file\name":"a","base64Content":"AA"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if scanDocument(body) && checkDocument(body) != nil {
			t.Errorf("the quick check takes %q", body)
		}
	})
}

func TestContentTypeMustBeJSON(t *testing.T) {
	for contentType, want := range map[string]int{
		"application/json":                  http.StatusOK,
		"application/json; charset=utf-8":   http.StatusOK,
		"application/json;charset=ISO-8859": http.StatusUnsupportedMediaType,
		"text/plain":                        http.StatusUnsupportedMediaType,
		"":                                  http.StatusUnsupportedMediaType,
	} {
		s := newSimulator(t, "")
		r := update(t.Context(), BasePath, s.tokens.issue([]string{ScopeWrite}, time.Hour), "1", KindComments, "", exampleComments)
		r.Header.Set("Content-Type", contentType)
		if got := direct(s, r); got.status != want {
			t.Errorf("Content-Type %q is answered %d, want %d", contentType, got.status, want)
		}
	}
}

func TestABodyAboveTheLimitIsRefused(t *testing.T) {
	s := newSimulator(t, "", func(c *Config) { c.MaxBody = 10 })
	c := listen(t, s)
	c.wantStatus(c.comment("1", ""), http.StatusRequestEntityTooLarge)
	c.wantBooked("1", 0)
}

func TestOtherPathsAndMethodsAreRecordedAndRefused(t *testing.T) {
	s := newSimulator(t, "")
	c := listen(t, s)
	base := c.server.BaseURL()
	for _, test := range []struct {
		method, path string
		want         int
	}{
		{http.MethodGet, "/vorgang/1/dokument", http.StatusMethodNotAllowed},
		{http.MethodPut, "/vorgang/1/kommentare", http.StatusMethodNotAllowed},
		{http.MethodPost, "/vorgang/1/unterlagen", http.StatusNotFound},
		{http.MethodPost, "/vorgang//dokument", http.StatusNotFound},
		{http.MethodPost, "/vorgang/1/2/dokument", http.StatusNotFound},
		{http.MethodPost, "/vorgang/../dokument", http.StatusNotFound},
		{http.MethodPost, "/vorgang/1", http.StatusNotFound},
		{http.MethodPost, "", http.StatusMethodNotAllowed},
		{http.MethodGet, "x", http.StatusNotFound},
	} {
		got := c.call(test.method, base+test.path, "")
		if got.status != test.want {
			t.Errorf("%s %s is answered %d, want %d", test.method, test.path, got.status, test.want)
		}
		requests := s.Requests()
		last := requests[len(requests)-1]
		if last.Kind != KindOther || last.Method != test.method || !strings.HasSuffix(last.Path, test.path) || last.Vorgangsnummer != "" {
			t.Errorf("%s %s is recorded as %+v", test.method, test.path, last)
		}
	}
	if n := s.Counts().Booked; n != 0 {
		t.Errorf("booked %d", n)
	}
}

func TestAnEscapedSlashBelongsToTheVorgangsnummer(t *testing.T) {
	s := newSimulator(t, "")
	c := listen(t, s)
	c.wantStatus(c.comment("12/../3", ""), http.StatusOK)
	c.wantBooked("12/../3", 1)
}

func TestAHealthyProbeIsAnswered404WithoutAToken(t *testing.T) {
	s := newSimulator(t, "")
	c := listen(t, s)
	got := c.call(http.MethodGet, c.server.BaseURL(), "")
	c.wantStatus(got, http.StatusNotFound)
	if problem := decode[apiError](t, got.body); problem.Status != http.StatusNotFound {
		t.Errorf("body %q", got.body)
	}
	if r := s.Requests()[0]; r.Kind != KindProbe || r.Booked {
		t.Errorf("recorded as %+v", r)
	}
}

// A client that gives up while the API works is booked all the same: this is what an unknown outcome is.
func TestAClientThatLeavesIsBookedAllTheSame(t *testing.T) {
	s := newSimulator(t, `latency: {fixed: 150ms}`)
	c := listen(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan answer)
	go func() {
		gone <- c.do(update(ctx, c.server.BaseURL(), c.token, "1", KindComments, "t1", exampleComments))
	}()
	if err := s.WaitFor(t.Context(), func(c Counts) bool { return c.Requests == 1 }); err != nil {
		t.Fatal(err)
	}
	cancel()
	if got := <-gone; got.err == nil {
		t.Errorf("the client got %d", got.status)
	}
	if err := s.WaitFor(t.Context(), func(c Counts) bool { return c.Finished == 1 }); err != nil {
		t.Fatal(err)
	}
	c.wantBooked("1", 1)
	if r := s.Requests()[0]; !r.ClientGone || !r.Booked {
		t.Errorf("recorded as %+v", r)
	}
}

func TestAnUpdateThatDoesNotArriveAsAWholeIsNotBooked(t *testing.T) {
	s := newSimulator(t, "")
	c := listen(t, s)
	reader, writer := io.Pipe()
	r := update(t.Context(), c.server.BaseURL(), c.token, "1", KindComments, "t1", "")
	r.Body, r.ContentLength = reader, 100
	go func() {
		_, _ = writer.Write([]byte(exampleComments))
		_ = writer.CloseWithError(io.ErrUnexpectedEOF)
	}()
	if got := c.do(r); got.err == nil {
		t.Errorf("the client got %d", got.status)
	}
	if err := s.WaitFor(t.Context(), func(c Counts) bool { return c.Finished == 1 }); err != nil {
		t.Fatal(err)
	}
	c.wantBooked("1", 0)
	if r := s.Requests()[0]; r.Status != 0 || r.Digest != "" {
		t.Errorf("recorded as %+v", r)
	}
}

func TestLogsHoldNoContent(t *testing.T) {
	var logs bytes.Buffer
	s := newSimulator(t, `vorgaenge: [{match: ["2"], always: {status: 400, echo: true}}]`, func(c *Config) {
		c.Logger = slog.New(slog.NewJSONHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	c := listen(t, s)
	c.post("1", KindComments, "trace-1", `["canary-comment"]`)
	c.post("2", KindDocument, "trace-2", `{"filename": "canary-name", "base64Content": "canary00"}`)
	c.fetchToken(testClient, "canary-secret", nil)
	if err := s.SetClientSecret("canary-new-secret"); err != nil {
		t.Fatal(err)
	}
	if err := c.server.Close(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"trace-1", "trace-2", `"booked":true`, `"status":400`} {
		if !strings.Contains(logs.String(), want) {
			t.Errorf("the logs lack %s:\n%s", want, &logs)
		}
	}
	for _, canary := range []string{"canary", c.token, testSecret} {
		if strings.Contains(logs.String(), canary) {
			t.Errorf("the logs hold %q:\n%s", canary, &logs)
		}
	}
}

// The handler also works behind another server, with TLS and HTTP/2.
func TestHandlerBehindHTTP2(t *testing.T) {
	s := newSimulator(t, `vorgaenge: [{match: ["2"], always: {cut: after-booking}}]`)
	server := httptest.NewUnstartedServer(s.Handler())
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	defer s.Close()
	c := &client{t: t, sim: s, http: server.Client(), token: s.tokens.issue([]string{ScopeWrite}, time.Hour)}
	c.wantStatus(c.do(update(t.Context(), server.URL+BasePath, c.token, "1", KindComments, "", exampleComments)), http.StatusOK)
	if got := c.do(update(t.Context(), server.URL+BasePath, c.token, "2", KindComments, "", exampleComments)); got.err == nil {
		t.Errorf("a cut request was answered %d", got.status)
	}
	c.wantBooked("2", 1)
}
