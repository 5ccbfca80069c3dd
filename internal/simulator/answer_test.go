package simulator

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestCutConnections(t *testing.T) {
	for name, test := range map[string]struct {
		answer string
		booked bool
		reset  bool
	}{
		"before booking":            {"{cut: before-booking}", false, false},
		"before booking, reset":     {"{cut: before-booking, reset: true}", false, true},
		"before booking, early":     {"{cut: before-booking, early: true, reset: true}", false, true},
		"after booking":             {"{cut: after-booking}", true, false},
		"after booking, reset":      {"{cut: after-booking, reset: true}", true, true},
		"after booking, any status": {"{cut: after-booking, status: 500}", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSimulator(t, "sequence: ["+test.answer+"]")
			c := listen(t, s)
			got := c.comment("1", "t1")
			if got.err == nil {
				t.Fatalf("answered %d %q", got.status, got.body)
			}
			if reset := strings.Contains(got.err.Error(), "reset by peer"); reset != test.reset {
				t.Errorf("the client got %v, reset = %v, want %v", got.err, reset, test.reset)
			}
			if err := s.WaitFor(t.Context(), func(c Counts) bool { return c.Finished == 1 }); err != nil {
				t.Fatal(err)
			}
			r := s.Requests()[0]
			if r.Status != 0 || r.Booked != test.booked {
				t.Errorf("recorded as %+v, want booked = %v", r, test.booked)
			}
			if stats := s.Stats(); stats.Cut != 1 || stats.ByStatus[0] != 1 {
				t.Errorf("stats %+v", stats)
			}
			c.wantStatus(c.comment("1", "t2"), http.StatusOK) // The server lives on.
		})
	}
}

func TestAnAnswerCutInTheMiddleHasItsStatus(t *testing.T) {
	s := newSimulator(t, "sequence: [{cut: mid-answer}, {cut: mid-answer, body-size: 100000}, {cut: mid-answer, status: 500, reset: true}]")
	c := listen(t, s)
	for i, want := range []int{200, 200, 500} {
		got := c.comment("1", fmt.Sprint("t", i))
		if got.status != want || got.err == nil || (i == 1 && len(got.body) != 50000) {
			t.Errorf("answer %d: %d with %d bytes, error %v, want %d and half a body", i, got.status, len(got.body), got.err, want)
		}
	}
	c.wantBooked("1", 2)
	if n := s.Counts().Overlapping; n != 0 {
		t.Errorf("%d requests seemed to overlap", n)
	}
}

func TestWhatIsBookedCanDifferFromTheStatus(t *testing.T) {
	s := newSimulator(t, "sequence: [{status: 504, book: true}, {status: 201, book: false}]")
	c := listen(t, s)
	c.wantStatus(c.comment("1", "booked"), 504)
	c.wantStatus(c.comment("1", "not booked"), 201)
	// A malformed body is never booked, whatever the script wants.
	if err := s.SetScript(Script{Sequence: []Step{{Answer: Answer{Cut: CutAfterBooking}}}}); err != nil {
		t.Fatal(err)
	}
	c.wantStatus(c.post("1", KindComments, "malformed", "[]"), 400)
	bookings := s.Bookings("1")
	if len(bookings) != 1 || bookings[0].TraceID != "booked" || bookings[0].Status != 504 {
		t.Errorf("booked %+v", bookings)
	}
}

func TestHugeAnswersHaveTheExactSize(t *testing.T) {
	for _, size := range []int{1, 11, 12, 13, 14, 15, 1000, fillSize + 13, fillSize + 14, fillSize + 15, 2*fillSize + 14, 5 << 20} {
		s := newSimulator(t, fmt.Sprintf("sequence: [{status: 500, body-size: %d}]", size))
		got := direct(s, update(t.Context(), BasePath, s.tokens.issue([]string{ScopeWrite}, time.Hour), "1", KindComments, "", exampleComments))
		if len(got.body) != size || got.header.Get("Content-Length") != strconv.Itoa(size) {
			t.Errorf("body-size %d gave %d bytes, Content-Length %s", size, len(got.body), got.header.Get("Content-Length"))
		}
		if size >= 14 {
			decode[map[string]string](t, got.body)
		}
	}
}

func TestSlowAnswersComeByteByByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulator(t, `sequence: [{status: 500, drip: 1s, body: "0123456789"}]`)
		start := time.Now()
		got := directUpdate(t.Context(), s, s.tokens.issue([]string{ScopeWrite}, time.Hour), "1")
		if took := time.Since(start); took != 10*time.Second || got.body != "0123456789" {
			t.Errorf("%q took %v", got.body, took)
		}
	})
}

func TestRedirects(t *testing.T) {
	s := newSimulator(t, "sequence: [{status: 302}, {status: 307, location: 'http://127.0.0.1:1/x'}]")
	c := listen(t, s)
	c.http.CheckRedirect = nil // A client that follows.
	if got := c.comment("1", "followed"); got.status != http.StatusNotFound {
		t.Errorf("followed to %d (error %v)", got.status, got.err)
	}
	requests := s.Requests()
	if len(requests) != 2 || requests[0].Status != 302 || requests[1].Kind != KindOther || requests[1].Method != http.MethodGet || requests[1].Path != redirectPath {
		t.Errorf("requests %+v", requests)
	}
	if n := s.Counts().RepeatedTraceIDs; n != 1 {
		t.Errorf("%d repeated trace IDs, want 1: the redirect repeats the header", n)
	}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if got := c.comment("1", ""); got.status != 307 || got.header.Get("Location") != "http://127.0.0.1:1/x" {
		t.Errorf("answered %d %v", got.status, got.header)
	}
	c.wantBooked("1", 0)
}

func TestScriptedHeadersAndBodies(t *testing.T) {
	s := newSimulator(t, `
sequence:
  - {status: 503, headers: {Retry-After: soon, Content-Type: text/html}, body: "<html>"}
  - {status: 204}
  - {status: 201, body: "{}"}
  - {status: 500}
`)
	c := listen(t, s)
	got := c.comment("1", "")
	if got.status != 503 || got.header.Get("Retry-After") != "soon" || got.header.Get("Content-Type") != "text/html" || got.body != "<html>" {
		t.Errorf("first answer %+v", got)
	}
	if got = c.comment("1", ""); got.status != 204 || got.body != "" {
		t.Errorf("second answer %+v", got)
	}
	if got = c.comment("1", ""); got.status != 201 || got.body != "{}" || got.header.Get("Content-Type") != "application/json" {
		t.Errorf("third answer %+v", got)
	}
	got = c.comment("1", "t4")
	if problem := decode[apiError](t, got.body); problem.Status != 500 || problem.TraceID != "t4" || problem.Input != "" || problem.Authorization != "" {
		t.Errorf("fourth answer %q", got.body)
	}
	c.wantBooked("1", 2)
}

func TestEchoQuotesTokenAndContent(t *testing.T) {
	s := newSimulator(t, "sequence: [{status: 500, echo: true}, {echo: true}]")
	c := listen(t, s)
	for range 2 {
		got := decode[apiError](t, c.comment("1", "").body)
		if got.Authorization != "Bearer "+c.token || got.Input != exampleComments {
			t.Errorf("echo %+v", got)
		}
	}
}

func TestAnEarlySuccessBooksNothing(t *testing.T) {
	s := newSimulator(t, "vorgaenge: [{match: ['1'], always: {early: true}}]")
	c := listen(t, s)
	c.wantStatus(c.comment("1", ""), http.StatusOK)
	c.wantBooked("1", 0)
}

// An early answer comes although most of the body is still on its way.
func TestEarlyAnswersDoNotReadTheBody(t *testing.T) {
	s := newSimulator(t, "vorgaenge: [{match: ['1'], always: {early: true, status: 500}}]")
	token := s.tokens.issue([]string{ScopeWrite}, time.Hour)
	body := &countingReader{Reader: strings.NewReader(strings.Repeat("x", 1<<20))}
	r := update(t.Context(), BasePath, token, "1", KindDocument, "", "")
	r.Body, r.ContentLength = body, 1<<20
	if got := direct(s, r); got.status != 500 || body.n != 0 {
		t.Errorf("answered %d after %d bytes", got.status, body.n)
	}
	if r := s.Requests()[0]; r.Digest != "" || r.Booked {
		t.Errorf("recorded as %+v", r)
	}
}

type countingReader struct {
	*strings.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

func (c *countingReader) Close() error { return nil }
