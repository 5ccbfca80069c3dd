package integration

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// The two requests the API's documentation shows, published by a bare NATS client without any header, arrive byte
// for byte.
func TestDocumentedExamplesArriveByteForByte(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{})
	s.serve()
	document := `{
  "filename": "testdokument.pdf",
  "base64Content": "JVBERi0xLjMKJcTl8uXrp"
}`
	comments := `["Testkommentar"]`
	s.publish("kex.vorgang.123456.dokument", document, nil)
	s.publish("kex.vorgang.123456.kommentare", comments, nil)
	s.drained(20 * time.Second)

	bookings := s.api.Bookings("123456")
	if len(bookings) != 2 || string(bookings[0].Body) != document || string(bookings[1].Body) != comments {
		t.Fatalf("booked %+v", bookings)
	}
	want := map[string]int{"dokument": 201, "kommentare": 200}
	events := s.results()
	if len(events) != 2 {
		t.Fatalf("%d result events, want 2", len(events))
	}
	for i, e := range events {
		if e.Data.Outcome != update.Delivered || e.Data.Status != want[string(e.Data.Kind)] ||
			e.Data.TraceID != bookings[i].TraceID || e.Data.Attempts != 1 {
			t.Errorf("result %+v, booked with trace ID %s", e.Data, bookings[i].TraceID)
		}
	}
}

// mixedFaults is 10 % of everything that can go wrong with a request.
func mixedFaults() []simulator.Fault {
	booked := true
	return []simulator.Fault{
		{Rate: 0.02, Answer: simulator.Answer{Status: 503}},
		{Rate: 0.01, Answer: simulator.Answer{Status: 500}},
		{Rate: 0.01, Answer: simulator.Answer{Status: 408}},
		{Rate: 0.01, Answer: simulator.Answer{Cut: simulator.CutBeforeBooking, Reset: true}},
		{Rate: 0.01, Answer: simulator.Answer{Cut: simulator.CutAfterBooking}},
		{Rate: 0.01, Answer: simulator.Answer{Status: 504, Book: &booked}},
		{Rate: 0.01, Answer: simulator.Answer{Status: 400, Echo: true}},
		{Rate: 0.005, Answer: simulator.Answer{Status: 409}},
		{Rate: 0.005, Answer: simulator.Answer{Status: 302}},
		{Rate: 0.005, Answer: simulator.Answer{Status: 401}},
		{Rate: 0.005, Answer: simulator.Answer{Status: 404}},
	}
}

// 5,000 mixed updates over 500 Vorgänge, one request in ten fails in some way: every update ends exactly once, each
// Vorgang in publish order.
func TestEveryUpdateEndsExactlyOnceInOrder(t *testing.T) {
	t.Parallel()
	const updates, vorgaenge = 5000, 500
	s := newSystem(t, simulator.Script{
		Faults:    mixedFaults(),
		Vorgaenge: []simulator.VorgangRule{{Match: []string{"100007"}, Always: &simulator.Answer{Status: 410}}},
	})
	s.serve("KEXRELAY_LOG_LEVEL=info", "KEXRELAY_RETRY_INITIAL=50ms", "KEXRELAY_RETRY_MAX_INTERVAL=1s")
	type published struct{ vorgang, traceID, body string }
	bySeq := make(map[uint64]published, updates)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range updates {
		p := published{vorgang: strconv.Itoa(100000 + random.IntN(vorgaenge)), traceID: fmt.Sprintf("crm%06d", i)}
		kind := update.Comments
		p.body = fmt.Sprintf(`["update %d"]`, i)
		if i%5 == 0 {
			kind = update.Document
			p.body = fmt.Sprintf(`{"filename":"scan-%d.pdf","base64Content":"JVBERi0xLjMKJcTl8uXrp"}`, i)
		}
		ack := s.publish(update.SubjectPrefix+p.vorgang+"."+string(kind), p.body, map[string]string{
			"Nats-Msg-Id": fmt.Sprintf("mixed-%d", i), "X-TraceId": p.traceID,
		})
		bySeq[ack.Sequence] = p
	}
	s.drained(4 * time.Minute)

	ended := make(map[uint64]update.Outcome, updates)
	flagged := make(map[string]bool)
	dead := 0
	for _, e := range s.results() {
		d := e.Data
		p, ok := bySeq[d.UpdateSeq]
		if !ok || d.TraceID != p.traceID || e.TraceID != p.traceID || d.Vorgangsnummer != p.vorgang {
			t.Fatalf("result %+v does not belong to %+v", d, p)
		}
		if d.Outcome == update.DoubleBooked {
			continue
		}
		if before, twice := ended[d.UpdateSeq]; twice {
			t.Fatalf("update %d ended twice: %s and %s", d.UpdateSeq, before, d.Outcome)
		}
		ended[d.UpdateSeq] = d.Outcome
		if d.PossibleDuplicate || d.Reason == fault.UnknownOutcome {
			flagged[p.body] = true
		}
		if d.Outcome == update.DeadLettered {
			dead++
		}
	}
	if len(ended) != updates {
		t.Fatalf("%d updates have a result, want %d", len(ended), updates)
	}
	if n := s.count(topology.StreamDeadLetters); n != dead {
		t.Errorf("%d dead letters, but %d results say so", n, dead)
	}

	bookedOnce := s.checkLedger(flagged)
	if unflaggedDead := updates - dead; bookedOnce < unflaggedDead {
		t.Errorf("%d different updates booked, %d delivered", bookedOnce, unflaggedDead)
	}
	// Order: the simulator's ledger shows each Vorgang in publish order.
	order := make(map[string]uint64, updates)
	for seq, p := range bySeq {
		order[p.body] = seq
	}
	last := make(map[string]uint64)
	for _, b := range s.api.Ledger() {
		seq := order[string(b.Body)]
		if seq < last[b.Vorgangsnummer] {
			t.Fatalf("Vorgang %s: update %d was booked after %d", b.Vorgangsnummer, seq, last[b.Vorgangsnummer])
		}
		last[b.Vorgangsnummer] = seq
	}
	counts := s.api.Counts()
	if counts.Overlapping != 0 || counts.RepeatedTraceIDs != 0 || counts.MissingTraceIDs != 0 {
		t.Errorf("requests overlapping %d, with a repeated trace ID %d, without one %d",
			counts.Overlapping, counts.RepeatedTraceIDs, counts.MissingTraceIDs)
	}
	t.Logf("%d updates, %d requests, %d booked, %d dead letters, %d flagged", updates, counts.Requests, counts.Booked, dead, len(flagged))
}

// checkLedger fails for every update that was booked more than once without a flag, and gives the number of
// different bodies booked.
func (s *system) checkLedger(flagged map[string]bool) int {
	s.t.Helper()
	times := make(map[string]int)
	for _, b := range s.api.Ledger() {
		times[string(b.Body)]++
	}
	for body, n := range times {
		if n > 1 && !flagged[body] {
			s.t.Errorf("booked %d times without a flag: %.60s", n, body)
		}
	}
	return len(times)
}

// 1,000 updates of one Vorgang that always gets 500, in front of 500 others: the others are delivered meanwhile.
func TestStuckVorgangKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{
		Vorgaenge: []simulator.VorgangRule{{Match: []string{"500500"}, Always: &simulator.Answer{Status: 500}}},
	})
	for i := range 1000 {
		s.publish("kex.vorgang.500500.kommentare", fmt.Sprintf(`["stuck %d"]`, i), nil)
	}
	for i := range 500 {
		s.publish(fmt.Sprintf("kex.vorgang.%d.kommentare", 200000+i), fmt.Sprintf(`["good %d"]`, i), nil)
	}
	begin := time.Now()
	s.serve("KEXRELAY_LOG_LEVEL=info")
	eventually(t, 20*time.Second, "the 500 others are booked", func() bool { return s.api.Counts().Booked == 500 })
	t.Logf("500 others behind 1,000 stuck ones were delivered %v after the start of the process", time.Since(begin))
	if n := s.count(topology.StreamDeadLetters); n != 0 {
		t.Errorf("%d dead letters", n)
	}
	eventually(t, 5*time.Second, "only the 1,000 stuck ones wait", func() bool { return s.count(topology.StreamUpdates) == 1000 })
	if rss := s.relay.residentBytes(t); rss > memoryLimit(100<<20) {
		t.Errorf("resident memory %d MiB", rss>>20)
	}
}
