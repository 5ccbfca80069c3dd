package simulator

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// statuses sends n comments of a Vorgang, one after the other.
func (c *client) statuses(vorgang string, n int) []int {
	c.t.Helper()
	got := make([]int, n)
	for i := range got {
		got[i] = c.comment(vorgang, "").status
	}
	return got
}

func TestScriptedAnswersPerVorgang(t *testing.T) {
	s := newSimulator(t, `
vorgaenge:
  - {match: [4100, 4101], always: {status: 410}}
  - {match: [5030], sequence: [{status: 503, times: 2}, {}, {status: 500}]}
  - {match: ["42*"], sequence: [{status: 422}], always: {status: 409}}
  - {match: ["*9"], kind: dokument, always: {status: 400}}
  - {match: [4299], always: {status: 418}}
faults: [{rate: 1, status: 599}]
`)
	c := listen(t, s)
	for _, test := range []struct {
		vorgang string
		want    []int
	}{
		{"4100", []int{410, 410, 410}},
		{"4101", []int{410}},
		{"5030", []int{503, 503, 200, 500, 599}}, // {} is success; behind the sequence the faults strike.
		{"4200", []int{422, 409, 409}},
		{"4201", []int{422, 409}}, // Each Vorgang goes through the sequence by itself.
		{"4299", []int{422, 409}}, // The first matching rule holds, exact or not.
		{"19", []int{599}},        // The rule is for documents only.
		{"untouched", []int{599}},
	} {
		if got := c.statuses(test.vorgang, len(test.want)); fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("Vorgang %s is answered %v, want %v", test.vorgang, got, test.want)
		}
	}
	c.wantStatus(c.post("19", KindDocument, "", exampleDocument), http.StatusBadRequest)
	if got := s.Counts().Booked; got != 1 {
		t.Errorf("booked %d, want 1: only 2xx is booked", got)
	}
}

func TestOneRuleForBothKindsIsOneSequence(t *testing.T) {
	s := newSimulator(t, `vorgaenge: [{match: ["1"], sequence: [{status: 500}, {status: 501}]}]`)
	c := listen(t, s)
	c.wantStatus(c.comment("1", ""), 500)
	c.wantStatus(c.post("1", KindDocument, "", exampleDocument), 501)
	c.wantStatus(c.comment("1", ""), 200)
}

func TestTheGlobalSequenceComesFirstAndAfterAuthentication(t *testing.T) {
	s := newSimulator(t, `
sequence: [{status: 401}, {status: 429, retry-after: 5s}]
vorgaenge: [{match: ["2"], always: {status: 410}}]
`)
	c := listen(t, s)
	good := c.token
	c.token = "unknown"
	c.wantStatus(c.comment("2", ""), 401) // Does not use the sequence up.
	c.token = good
	c.call(http.MethodGet, c.server.BaseURL(), "") // Neither does a probe.
	c.wantStatus(c.comment("2", ""), 401)
	got := c.comment("1", "")
	c.wantStatus(got, 429)
	if got.header.Get("Retry-After") != "5" {
		t.Errorf("Retry-After = %q", got.header.Get("Retry-After"))
	}
	c.wantStatus(c.comment("2", ""), 410)
	c.wantStatus(c.comment("1", ""), 200)
}

const manyFaults = `
latency: {uniform: {min: 1ms, max: 1s}}
faults:
  - {rate: 0.1, status: 500}
  - {rate: 0.2, status: 503}
  - {rate: 0.3, status: 422, kind: dokument}
`

// fates is what a plan holds for the first n comments of some Vorgänge, asked in an order given by stride.
func fates(t *testing.T, seed uint64, vorgaenge, n, stride int) map[string]string {
	t.Helper()
	script, err := ParseScript([]byte(manyFaults))
	if err != nil {
		t.Fatal(err)
	}
	p := newPlan(script, seed)
	got := map[string]string{}
	next := make([]int, vorgaenge)
	for i := range vorgaenge * n {
		v := i * stride % vorgaenge
		next[v]++
		f := p.update(KindComments, strconv.Itoa(v))
		status := 0
		if f.answer != nil {
			status = f.answer.Status
		}
		got[fmt.Sprintf("%d/%d", v, next[v])] = fmt.Sprint(status, script.Latency.draw(f.chance))
	}
	return got
}

func TestTheSeedMakesChanceRepeatable(t *testing.T) {
	const vorgaenge, n = 101, 20
	first := fates(t, 7, vorgaenge, n, 1)
	// Another interleaving of the Vorgänge changes nothing for any of them.
	if again := fates(t, 7, vorgaenge, n, 37); fmt.Sprint(again) != fmt.Sprint(first) {
		t.Error("the same seed gave other fates")
	}
	if other := fates(t, 8, vorgaenge, n, 1); fmt.Sprint(other) == fmt.Sprint(first) {
		t.Error("another seed gave the same fates")
	}
}

func TestFaultsStrikeAtTheirRates(t *testing.T) {
	counts := map[string]int{}
	for _, fate := range fates(t, 7, 500, 40, 1) {
		status, _, _ := strings.Cut(fate, " ")
		counts[status]++
	}
	for status, share := range map[string]float64{"0": 0.7, "500": 0.1, "503": 0.2, "422": 0} {
		if got := float64(counts[status]) / 20000; got < share-0.012 || got > share+0.012 {
			t.Errorf("status %s has a share of %.4f, want %.2f", status, got, share)
		}
	}
}

func TestAFaultOfProbesLeavesUpdatesAlone(t *testing.T) {
	s := newSimulator(t, `faults: [{rate: 1, status: 502, kind: probe}]`)
	c := listen(t, s)
	c.wantStatus(c.call(http.MethodGet, c.server.BaseURL(), ""), 502)
	c.wantStatus(c.comment("1", ""), 200)
}

func TestThrottleAnswersWhatIsAboveTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulator(t, `throttle: {rate: 10, retry-after: 1500ms}`)
		token := s.tokens.issue([]string{ScopeWrite}, time.Hour)
		got := map[int]int{}
		var refused answer
		for range 100 { // 10 at once, then 100 ms for each.
			a := directUpdate(t.Context(), s, token, "1")
			got[a.status]++
			if a.status == http.StatusTooManyRequests {
				refused = a
			}
			wait(50 * time.Millisecond)
		}
		if got[200] < 58 || got[200] > 60 || got[200]+got[429] != 100 {
			t.Errorf("answered %v, want 59 of 100 in 5 s to pass", got)
		}
		if refused.header.Get("Retry-After") != "2" {
			t.Errorf("Retry-After = %q, want whole seconds, rounded up", refused.header.Get("Retry-After"))
		}
		if booked := len(s.Bookings("1")); booked != got[200] {
			t.Errorf("booked %d of %d", booked, got[200])
		}
	})
}

func TestThrottleCanAnswerOtherwise(t *testing.T) {
	s := newSimulator(t, `throttle: {rate: 0.001, burst: 2, status: 503, retry-after: 7s}`)
	c := listen(t, s)
	if got := c.statuses("1", 3); fmt.Sprint(got) != "[200 200 503]" {
		t.Errorf("answered %v", got)
	}
	c.wantStatus(c.call(http.MethodGet, c.server.BaseURL(), ""), 503)
}

func TestOutageWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulator(t, `
outages:
  - {from: 10s, for: 5s, every: 60s}
  - {from: 100s, status: 504, of: all}
`)
		token := s.tokens.issue([]string{ScopeWrite}, time.Hour)
		start := time.Now()
		for _, test := range []struct {
			at                      time.Duration
			update, probe, tokenEnd int
		}{
			{0, 200, 404, 200},
			{10*time.Second - 1, 200, 404, 200},
			{10 * time.Second, 503, 503, 200},
			{15*time.Second - 1, 503, 503, 200},
			{15 * time.Second, 200, 404, 200},
			{70 * time.Second, 503, 503, 200},
			{75 * time.Second, 200, 404, 200},
			{100 * time.Second, 504, 504, 504},
			{999 * time.Second, 504, 504, 504},
		} {
			wait(test.at - time.Since(start))
			update := directUpdate(t.Context(), s, token, "1").status
			probe := direct(s, newProbe(t.Context())).status
			tokenEnd := direct(s, tokenRequest(t.Context(), testSecret)).status
			if update != test.update || probe != test.probe || tokenEnd != test.tokenEnd {
				t.Errorf("at %v: update %d, probe %d, token %d, want %+v", test.at, update, probe, tokenEnd, test)
			}
		}
		// A reset begins the script anew.
		s.Reset()
		if got := directUpdate(t.Context(), s, token, "1").status; got != 200 {
			t.Errorf("after the reset: %d", got)
		}
	})
}

func newProbe(ctx context.Context) *http.Request {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, BasePath, http.NoBody)
	if err != nil {
		panic(err)
	}
	return r
}

func TestAnOutageByHand(t *testing.T) {
	s := newSimulator(t, "")
	c := listen(t, s)
	if err := s.StartOutage(Outage{}); err != nil {
		t.Fatal(err)
	}
	c.wantStatus(c.comment("1", ""), 503)
	c.token, _ = "unknown", c.token
	c.wantStatus(c.comment("1", ""), 503) // Nothing works, not even the check of the token.
	c.token = s.tokens.issue([]string{ScopeWrite}, time.Hour)
	if err := s.StartOutage(Outage{Answer: Answer{Cut: CutBeforeBooking, Early: true, Reset: true}, For: time.Nanosecond}); err != nil {
		t.Fatal(err)
	}
	if got := c.comment("1", ""); got.err == nil {
		t.Errorf("answered %d", got.status)
	}
	s.EndOutage()
	c.wantStatus(c.comment("1", ""), 200)
	c.wantBooked("1", 1)
	if err := s.StartOutage(Outage{From: -1, For: time.Minute, Every: time.Second}); err != nil {
		t.Errorf("times do not matter for an outage by hand: %v", err)
	}
	if s.StartOutage(Outage{Of: "everything"}) == nil {
		t.Error("a wrong outage was taken")
	}
}

func TestRetryAfterAsDate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulator(t, `sequence: [{status: 503, retry-after: 90s, retry-after-form: date}]`)
		wait(300 * time.Millisecond)
		got := directUpdate(t.Context(), s, s.tokens.issue([]string{ScopeWrite}, time.Hour), "1")
		until, err := http.ParseTime(got.header.Get("Retry-After"))
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Until(until); d < 90*time.Second || d > 91*time.Second {
			t.Errorf("Retry-After is %v away, want 90 s rounded up to a full second", d)
		}
	})
}

func TestLatencyComesBeforeTheBookingAndAnswerLatencyBehindIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulator(t, `
latency: {fixed: 1s}
sequence:
  - {answer-latency: {fixed: 5s}}
  - {latency: {fixed: 3s}, status: 500}
`)
		token := s.tokens.issue([]string{ScopeWrite}, time.Hour)
		for range 3 {
			directUpdate(t.Context(), s, token, "1")
		}
		var got []time.Duration
		for _, r := range s.Requests() {
			booked := time.Duration(-1)
			if r.Booked {
				booked = r.BookedAt.Sub(r.ReceivedAt)
			}
			got = append(got, booked, r.AnsweredAt.Sub(r.ReceivedAt))
		}
		want := []time.Duration{time.Second, 6 * time.Second, -1, 3 * time.Second, time.Second, time.Second}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("booked and answered after %v, want %v", got, want)
		}
	})
}

// A client that gives up behind the booking was booked; one that waits for a refusal does not keep the server busy.
func TestGivingUpDuringTheLatencies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulator(t, `
vorgaenge:
  - {match: [booked], always: {answer-latency: {fixed: 1h}}}
  - {match: [refused], always: {status: 500, latency: {fixed: 1h}}}
  - {match: [late], always: {latency: {fixed: 1h}}}
`)
		token := s.tokens.issue([]string{ScopeWrite}, 2*time.Hour)
		for vorgang, want := range map[string]struct {
			booked int
			took   time.Duration
		}{
			"booked":  {1, 30 * time.Second},
			"refused": {0, 30 * time.Second},
			"late":    {1, time.Hour},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			start := time.Now()
			got := directUpdate(ctx, s, token, vorgang)
			cancel()
			if took := time.Since(start); len(s.Bookings(vorgang)) != want.booked || took != want.took {
				t.Errorf("%s: booked %d after %v, want %+v", vorgang, len(s.Bookings(vorgang)), took, want)
			}
			if vorgang != "late" && got.status != 0 {
				t.Errorf("%s: answered %d", vorgang, got.status)
			}
		}
		for _, r := range s.Requests() {
			if !r.ClientGone {
				t.Errorf("the client of %s is not known to have gone", r.Vorgangsnummer)
			}
		}
	})
}

func TestWaitingForOneVorgangHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulator(t, `latency: {fixed: 1s}`)
		token := s.tokens.issue([]string{ScopeWrite}, time.Hour)
		start := time.Now()
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() { directUpdate(t.Context(), s, token, strconv.Itoa(i)) })
		}
		all.Wait()
		if took := time.Since(start); took != time.Second {
			t.Errorf("100 requests of 1 s took %v", took)
		}
	})
}
