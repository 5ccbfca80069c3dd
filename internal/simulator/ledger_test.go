package simulator

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestLedgerKeepsTheOrderPerVorgangUnderLoad(t *testing.T) {
	const vorgaenge, each = 40, 60 // More than two chunks.
	s := newSimulator(t, `faults: [{rate: 0.1, status: 500}]`)
	c := listen(t, s)
	var all sync.WaitGroup
	refused := make([]int, vorgaenge)
	for v := range vorgaenge {
		all.Go(func() {
			for i := range each {
				if got := c.comment(fmt.Sprint("V", v), fmt.Sprintf("V%d-%04d", v, i)); got.status == 500 {
					refused[v]++
				}
			}
		})
	}
	all.Wait()
	if err := s.WaitFor(t.Context(), func(c Counts) bool { return c.Finished == vorgaenge*each }); err != nil {
		t.Fatal(err)
	}

	ledger := s.Ledger()
	perVorgang := map[string][]Booking{}
	for i, b := range ledger {
		if b.Seq != i+1 || (i > 0 && b.BookedAt.Before(ledger[i-1].BookedAt)) {
			t.Fatalf("booking %d is %+v", i, b)
		}
		perVorgang[b.Vorgangsnummer] = append(perVorgang[b.Vorgangsnummer], b)
	}
	total := 0
	for v := range vorgaenge {
		number := fmt.Sprint("V", v)
		bookings := s.Bookings(number)
		total += len(bookings)
		if len(bookings) != each-refused[v] || fmt.Sprint(bookings) != fmt.Sprint(perVorgang[number]) {
			t.Errorf("Vorgang %s: %d bookings, %d of them in the whole ledger, want %d", number, len(bookings), len(perVorgang[number]), each-refused[v])
		}
		for i := 1; i < len(bookings); i++ {
			if bookings[i].TraceID <= bookings[i-1].TraceID {
				t.Errorf("Vorgang %s: %s was booked behind %s", number, bookings[i].TraceID, bookings[i-1].TraceID)
			}
		}
	}
	stats := s.Stats()
	if total != len(ledger) || stats.Booked != total || stats.ByStatus[200] != total || stats.ByStatus[500] != vorgaenge*each-total ||
		stats.ByKind[KindComments] != vorgaenge*each || stats.Overlapping != 0 || stats.RepeatedTraceIDs != 0 || stats.MissingTraceIDs != 0 {
		t.Errorf("booked %d, ledger has %d, stats %+v", total, len(ledger), stats)
	}
	for i, r := range s.Requests() {
		if r.Seq != i+1 || r.AnsweredAt.Before(r.ReceivedAt) || r.ReceivedAt.IsZero() {
			t.Fatalf("request %d is %+v", i, r)
		}
	}
}

func TestRepeatedAndMissingTraceIDsAreCounted(t *testing.T) {
	s := newSimulator(t, "")
	c := listen(t, s)
	for _, traceID := range []string{"a", "b", "a", "", "a", "", "c"} {
		c.comment("1", traceID)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.server.BaseURL(), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-TraceId", "b")
	c.do(r)
	if got := s.RepeatedTraceIDs(); fmt.Sprint(got) != "map[a:3 b:2]" {
		t.Errorf("repeated: %v", got)
	}
	if counts := s.Counts(); counts.RepeatedTraceIDs != 3 || counts.MissingTraceIDs != 2 {
		t.Errorf("counts %+v", counts)
	}
	var flagged []int
	for _, r := range s.Requests() {
		if r.RepeatedTraceID {
			flagged = append(flagged, r.Seq)
		}
	}
	if fmt.Sprint(flagged) != "[3 5 8]" {
		t.Errorf("flagged are %v", flagged)
	}
}

func TestRequestsOfOneVorgangThatOverlapAreFlagged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulator(t, `latency: {fixed: 10s}`)
		token := s.tokens.issue([]string{ScopeWrite}, time.Hour)
		var all sync.WaitGroup
		start := func(ctx context.Context, vorgang string) {
			all.Go(func() { directUpdate(ctx, s, token, vorgang) })
			wait(time.Second)
		}
		start(t.Context(), "1")
		start(t.Context(), "2") // Another Vorgang may.
		start(t.Context(), "1") // Overlaps.
		wait(time.Minute)
		gaveUp, cancel := context.WithCancel(t.Context())
		start(gaveUp, "1")
		cancel()
		start(t.Context(), "1") // The other's client has given up: that is no overlap.
		all.Wait()
		var flagged []int
		for _, r := range s.Requests() {
			if r.Overlapping {
				flagged = append(flagged, r.Seq)
			}
		}
		if fmt.Sprint(flagged) != "[3]" || s.Counts().Overlapping != 1 {
			t.Errorf("flagged are %v, counts %+v", flagged, s.Counts())
		}
	})
}

// A client that has its status may send the next update at once, although the answer's body is still on its way.
func TestTheNextUpdateAfterTheStatusLineDoesNotOverlap(t *testing.T) {
	s := newSimulator(t, `sequence: [{status: 500, body: xx, drip: 1h}]`)
	c := listen(t, s)
	response, err := c.http.Do(update(t.Context(), c.server.BaseURL(), c.token, "1", KindComments, "t1", exampleComments))
	if err != nil {
		t.Fatal(err)
	}
	c.wantStatus(c.comment("1", "t2"), http.StatusOK)
	if n := s.Counts().Overlapping; n != 0 {
		t.Errorf("%d requests seemed to overlap", n)
	}
	_ = response.Body.Close()
}

// cutWriter sees the moment in which the connection is cut.
type cutWriter struct {
	http.ResponseWriter
	onCut func()
}

func (w *cutWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.onCut()
	return nil, nil, http.ErrNotSupported
}

// Likewise a client whose connection was cut, although the server is not done with the request yet.
func TestTheNextUpdateAfterACutDoesNotOverlap(t *testing.T) {
	for _, cut := range []string{CutBeforeBooking, CutAfterBooking, CutMidAnswer} {
		s := newSimulator(t, "sequence: [{cut: "+cut+"}]")
		token := s.tokens.issue([]string{ScopeWrite}, time.Hour)
		next := 0
		w := &cutWriter{httptest.NewRecorder(), func() { next = directUpdate(t.Context(), s, token, "1").status }}
		func() {
			defer func() { _ = recover() }() // The cut.
			s.Handler().ServeHTTP(w, update(t.Context(), BasePath, token, "1", KindComments, "", exampleComments))
		}()
		if n := s.Counts().Overlapping; n != 0 || next != http.StatusOK {
			t.Errorf("%s: %d requests seemed to overlap, the next was answered %d", cut, n, next)
		}
	}
}

func TestWaitingForBookings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulator(t, "")
		token := s.tokens.issue([]string{ScopeWrite}, time.Hour)
		go func() {
			for i := range 10 {
				wait(time.Second)
				directUpdate(t.Context(), s, token, strconv.Itoa(i%2))
			}
		}()
		start := time.Now()
		at := func(want time.Duration, err error) {
			t.Helper()
			if took := time.Since(start); err != nil || took != want {
				t.Errorf("waited until %v (error %v), want %v", took, err, want)
			}
		}
		at(0, s.WaitBooked(t.Context(), 0))
		at(3*time.Second, s.WaitBooked(t.Context(), 3))
		at(3*time.Second, s.WaitBooked(t.Context(), 2))
		at(6*time.Second, s.WaitBookedFor(t.Context(), "1", 3))
		at(7*time.Second, s.WaitFor(t.Context(), func(c Counts) bool { return c.Requests == 7 }))

		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		err := s.WaitBooked(ctx, 100)
		if !errors.Is(err, context.DeadlineExceeded) || !contains(err, "booking 100", "7 were made") {
			t.Errorf("error %v", err)
		}
		err = s.WaitBookedFor(ctx, "none", 1)
		if !errors.Is(err, context.DeadlineExceeded) || !contains(err, "Vorgang none", "0 were made") {
			t.Errorf("error %v", err)
		}
		if n := len(s.ledger.waiters); n != 0 {
			t.Errorf("%d waiters are left behind", n)
		}
		at(10*time.Second, s.WaitBooked(t.Context(), 10))
	})
}

func TestResetForgetsAllButScriptAndTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulator(t, `sequence: [{status: 500}, {latency: {fixed: 10s}}, {latency: {fixed: 20s}}]`)
		token := s.tokens.issue([]string{ScopeWrite}, time.Hour)
		send := func() int { return directUpdate(t.Context(), s, token, "1").status }
		var all sync.WaitGroup
		send()
		all.Go(func() { send() })
		wait(time.Second)
		if err := s.StartOutage(Outage{}); err != nil {
			t.Fatal(err)
		}
		s.Reset() // With a request in flight.
		if counts := s.Counts(); counts != (Counts{}) {
			t.Errorf("counts after the reset: %+v", counts)
		}
		if got := send(); got != 500 {
			t.Errorf("the sequence does not begin anew: %d", got)
		}
		all.Wait()
		if got := s.Stats(); got.Booked != 0 || got.Requests != 1 || got.Finished != 1 || got.ByStatus[200] != 0 {
			t.Errorf("a request from before the reset was recorded: %+v", got)
		}
		if len(s.Ledger()) != 0 || len(s.Requests()) != 1 || len(s.TokenRequests()) != 0 || len(s.RepeatedTraceIDs()) != 0 {
			t.Error("something was not forgotten")
		}
		if got := send(); got != 200 || len(s.Bookings("1")) != 1 {
			t.Errorf("after the reset: %d, %d bookings", got, len(s.Bookings("1")))
		}
	})
}

func TestChunkedListKeepsItsElementsInPlace(t *testing.T) {
	var list chunked[int]
	var pointers []*int
	for i := range 3*chunkSize + 5 {
		pointers = append(pointers, list.add(i))
	}
	n := 0
	for i := 0; list.chunk(i) != nil; i++ {
		for j := range list.chunk(i) {
			if pointers[n] != &list.chunk(i)[j] || *pointers[n] != n {
				t.Fatalf("element %d has moved", n)
			}
			n++
		}
	}
	if n != len(pointers) {
		t.Errorf("%d elements, want %d", n, len(pointers))
	}
}
