package journal

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
	"kexrelay/schemas"
)

func TestADeliveredUpdateGivesOneResultEvent(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := anUpdate(17)
	u.Traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	s := delivered(u)
	s.Attempts, s.RequestID, s.PossibleDuplicate = 2, "sys12345678-2", true
	settle(t, newJournal(t, js), s)

	msg := only(t, js, topology.StreamResults)
	if got, want := msg.Subject(), "kex.result.delivered.123456.kommentare"; got != want {
		t.Errorf("subject %s, want %s", got, want)
	}
	wantHeader := nats.Header{
		"Nats-Msg-Id":    {"result-17-1795356306123456789"},
		"Content-Type":   {"application/cloudevents+json"},
		"X-TraceId":      {"sys12345678"},
		"traceparent":    {u.Traceparent},
		"Kex-Outcome":    {"delivered"},
		"Kex-Update-Id":  {"crm-17"},
		"Kex-Update-Seq": {"17"},
		"Kex-Update-At":  {"2026-11-22T14:05:06.123456789Z"},
	}
	if diff := cmp.Diff(wantHeader, msg.Headers()); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if err := schemas.Validate(schemas.Result, msg.Data()); err != nil {
		t.Errorf("schema: %v", err)
	}
	var got map[string]any
	if err := json.Unmarshal(msg.Data(), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"specversion": "1.0", "id": "result-17-1795356306123456789", "source": source,
		"type": "kexrelay.update.delivered.v1", "subject": "123456/kommentare", "time": "2026-11-22T14:05:07.623456789Z",
		"datacontenttype": "application/json", "dataschema": schemas.ResultDataID,
		"traceid": "sys12345678", "traceparent": u.Traceparent,
		"data": map[string]any{
			"updateId": "crm-17", "vorgangsnummer": "123456", "kind": "kommentare", "outcome": "delivered",
			"traceId": "sys12345678", "requestId": "sys12345678-2", "status": 200.0, "attempts": 2.0,
			"possibleDuplicate": true, "updateSeq": 17.0, "receivedAt": "2026-11-22T14:05:06.123456789Z",
			"settledAt": "2026-11-22T14:05:07.623456789Z", "durationMs": 1500.0,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
}

func TestEveryResultFollowsItsSchema(t *testing.T) {
	replay := anUpdate(3)
	replay.Replay = &update.Replay{DeadLetterSeq: 4, UpdateID: "crm-1", TraceID: "sys1", Replays: 2}
	invalid := anUpdate(4)
	invalid.ID, invalid.Vorgangsnummer, invalid.Kind = "KEX_UPDATES-4", update.NoVorgangsnummer, update.Invalid
	invalid.PublisherTraceID = "t?t"
	noCall := &update.Settlement{
		Update: invalid, Outcome: update.DeadLettered, Reason: fault.Invalid,
		Detail: "subject: has 5 tokens", SettledAt: storedAt,
	}
	tests := map[string]*update.Settlement{
		"delivered":             delivered(anUpdate(1)),
		"dead-lettered":         deadLettered(anUpdate(2)),
		"delivered replay":      delivered(replay),
		"after many requests":   afterMany(anUpdate(7)),
		"invalid without call":  noCall,
		"detail from elsewhere": {Update: anUpdate(5), Outcome: update.DeadLettered, Reason: fault.Rejected, Detail: "a\r\nb\x00\xff<ü>", SettledAt: storedAt},
		"clocks that disagree":  {Update: anUpdate(6), Outcome: update.DeadLettered, Reason: fault.Exhausted, SettledAt: storedAt.Add(-time.Hour)},
	}
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	for name, s := range tests {
		t.Run(name, func(t *testing.T) {
			settle(t, j, s)
			all := messages(t, js, topology.StreamResults)
			if err := schemas.Validate(schemas.Result, all[len(all)-1].Data()); err != nil {
				t.Errorf("%v\n%s", err, all[len(all)-1].Data())
			}
			if s.Outcome == update.DeadLettered {
				letters := messages(t, js, topology.StreamDeadLetters)
				validateHeaders(t, letters[len(letters)-1].Headers())
			}
		})
	}
}

// afterMany is a settlement after 1,000 requests, of which the first of this process was the third.
func afterMany(u *update.Update) *update.Settlement {
	s := deadLettered(u)
	s.Reason, s.Status, s.Attempts, s.Answers = fault.Exhausted, 503, 1000, nil
	s.RequestID = u.RequestTraceID(s.Attempts)
	for n := 3; n <= s.Attempts; n++ {
		s.Answers = s.Answers.With(update.PastAnswer{
			Attempt: n, RequestID: u.RequestTraceID(n), At: storedAt.Add(time.Duration(n) * time.Second), DurationMs: 30_000,
			Reason: fault.Outage, Unknown: true,
		})
	}
	return s
}

func TestARepeatedSettlementStoresNothingTwice(t *testing.T) {
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	settle(t, j, deadLettered(anUpdate(1))) // So that sequences differ from 1.
	s := deadLettered(anUpdate(30))
	for range 3 {
		settle(t, j, s)
	}
	d := delivered(anUpdate(31))
	settle(t, j, d)
	settle(t, j, d)

	if n := len(messages(t, js, topology.StreamDeadLetters)); n != 2 {
		t.Errorf("%d dead letters, want 2", n)
	}
	results := messages(t, js, topology.StreamResults)
	if len(results) != 3 {
		t.Fatalf("%d results, want 3", len(results))
	}
	if got := decoded(t, results[1]).Data.DeadLetterSeq; got != 2 {
		t.Errorf("the result names dead letter %d, want 2", got)
	}
}

func TestTheSameSequenceOfAnotherStreamIsAnotherUpdate(t *testing.T) {
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	settle(t, j, delivered(anUpdate(1)))
	again := anUpdate(1)
	again.StoredAt = storedAt.Add(time.Nanosecond)
	settle(t, j, delivered(again))
	if n := len(messages(t, js, topology.StreamResults)); n != 2 {
		t.Errorf("%d results, want 2", n)
	}
}

func TestASecondBookingIsTold(t *testing.T) {
	later := func(s *update.Settlement) *update.Settlement {
		s.SettledAt = s.SettledAt.Add(time.Minute)
		return s
	}
	tests := map[string]struct {
		first, second *update.Settlement
		want          string // Detail of the double_booked event, "" for none.
	}{
		"the same request": {delivered(anUpdate(1)), delivered(anUpdate(1)), ""},
		"booked twice": {
			delivered(anUpdate(1)), later(delivered(anUpdate(1))),
			"booked by request sys12345678 and again by request sys12345678",
		},
		"booked after its dead letter": {
			deadLettered(anUpdate(1)), later(delivered(anUpdate(1))),
			"booked by request sys12345678 although settled before as dead letter 1 (gone): discard that one, do not replay it",
		},
		"refused after it was booked": {delivered(anUpdate(1)), later(deadLettered(anUpdate(1))), ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			js := setUp(t, topology.Options{})
			told := 0
			j := New(js, Config{Source: source, OnDoubleBooked: func(kind update.Kind) {
				if told++; kind != update.Comments {
					t.Errorf("kind %s", kind)
				}
			}})
			t.Cleanup(j.Close)
			settle(t, j, test.first)
			settle(t, j, test.second)
			settle(t, j, test.second)
			if want := min(len(test.want), 1); told != want {
				t.Errorf("heard of %d double bookings, want %d", told, want)
			}
			results := messages(t, js, topology.StreamResults)
			if test.want == "" {
				if len(results) != 1 {
					t.Errorf("%d events, want only the result", len(results))
				}
				return
			}
			if len(results) != 2 {
				t.Fatalf("%d events, want the result and one double_booked", len(results))
			}
			event := decoded(t, results[1])
			if event.Data.Outcome != update.DoubleBooked || event.Data.Detail != test.want {
				t.Errorf("got %s %q, want %q", event.Data.Outcome, event.Data.Detail, test.want)
			}
			if results[1].Subject() != "kex.result.double_booked.123456.kommentare" {
				t.Errorf("subject %s", results[1].Subject())
			}
			if err := schemas.Validate(schemas.Result, results[1].Data()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSettlementsAtTheSameTimeAreAllWritten(t *testing.T) {
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			for n := range 20 {
				seq := uint64(i*20 + n + 1)
				s := delivered(anUpdate(seq))
				if n%4 == 0 {
					s = deadLettered(anUpdate(seq))
				}
				if err := j.Settle(t.Context(), s); err != nil {
					t.Errorf("update %d: %v", seq, err)
				}
			}
		})
	}
	all.Wait()
	letters := map[uint64]string{}
	for i, msg := range messages(t, js, topology.StreamDeadLetters) {
		letters[uint64(i+1)] = msg.Headers().Get("Kex-Update-Seq")
	}
	if len(letters) != 64*5 {
		t.Errorf("%d dead letters, want %d", len(letters), 64*5)
	}
	seen := map[uint64]bool{}
	for _, msg := range messages(t, js, topology.StreamResults) {
		event := decoded(t, msg)
		seen[event.Data.UpdateSeq] = true
		if seq := event.Data.DeadLetterSeq; seq != 0 && letters[seq] != strconv.FormatUint(event.Data.UpdateSeq, 10) {
			t.Errorf("the result of %d names dead letter %d, which is that of %s", event.Data.UpdateSeq, seq, letters[seq])
		}
	}
	if len(seen) != 64*20 {
		t.Errorf("%d updates have results, want %d", len(seen), 64*20)
	}
}

func TestANoticeIsAnEventOfTheSameForm(t *testing.T) {
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	for range 2 {
		err := j.Notice(t.Context(), Notice{Outcome: update.Replayed, Key: Identity(3, storedAt), Data: EventData{
			UpdateID: "crm-1", Vorgangsnummer: "123456", Kind: update.Document, TraceID: "sys1", Attempts: 2,
			UpdateSeq: 19, DeadLetterSeq: 3, ReplayOf: 3,
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	msg := only(t, js, topology.StreamResults)
	if err := schemas.Validate(schemas.Result, msg.Data()); err != nil {
		t.Error(err)
	}
	event := decoded(t, msg)
	if event.ID != "replayed-3-1795356306123456789" || event.Type != "kexrelay.update.replayed.v1" {
		t.Errorf("id %s, type %s", event.ID, event.Type)
	}
	if age := time.Since(event.Data.SettledAt); age < 0 || age > time.Minute {
		t.Errorf("it happened %s ago, want now", age)
	}
}

func TestResultsAndErrorsHoldNothingOfTheContent(t *testing.T) {
	const canary = "CANARY"
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	u := anUpdate(1)
	u.Body = []byte(`{"filename":"` + canary + `.pdf","base64Content":"` + canary + `","comment":"` + canary + `"}`)
	u.Header = map[string][]string{"X-File": {canary + ".pdf"}}
	settle(t, j, delivered(u))
	v := *u
	v.Seq = 2
	settle(t, j, deadLettered(&v))
	for _, msg := range messages(t, js, topology.StreamResults) {
		if strings.Contains(string(msg.Data()), canary) || strings.Contains(fmt.Sprint(msg.Headers()), canary) {
			t.Errorf("a result event holds content: %s %v", msg.Data(), msg.Headers())
		}
	}
	updateStream(t, js, topology.StreamDeadLetters, sealed)
	w := *u
	w.Seq = 3
	if err := j.Settle(t.Context(), deadLettered(&w)); err == nil || strings.Contains(err.Error(), canary) {
		t.Errorf("error %v", err)
	}
}
