package journal

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
	"kexrelay/schemas"
)

// validateHeaders holds a dead letter's headers against their schema.
func validateHeaders(t *testing.T, header nats.Header) {
	t.Helper()
	flat := map[string]string{}
	for name, values := range header {
		if len(values) != 1 {
			t.Errorf("header %s has %d values", name, len(values))
		}
		flat[name] = strings.Join(values, ",")
	}
	text, err := json.Marshal(flat)
	if err != nil {
		t.Fatal(err)
	}
	if err := schemas.Validate(schemas.DeadLetterHeaders, text); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestADeadLetterHasTheBodyAndExactlyTheseHeaders(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := anUpdate(20)
	u.Body = []byte("\x00\xff not JSON \r\n")
	u.Header = map[string][]string{
		"Nats-Msg-Id":                       {"crm-20"},
		"Nats-Expected-Stream":              {"KEX_UPDATES"},
		"nats-expected-last-sequence":       {"5"},
		"NATS-Rollup":                       {"all"},
		"Nats-TTL":                          {"1s"},
		"Kex-Replay-Of":                     {"1"},
		"kex-reason":                        {"made up"},
		"KEX-Body-Object":                   {"KEX_DOCUMENTS/x"},
		"Status":                            {"409"},
		"X-Traceid":                         {"spelt otherwise"},
		"traceparent":                       {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
		"Not A Name":                        {"the client would refuse the whole message"},
		"Ümlaut":                            {"likewise"},
		"":                                  {"likewise"},
		"X-Tenant":                          {"a", "b"},
		"Content-Type":                      {"application/json"},
		"Kexlike":                           {"kept"},
		"X-" + strings.Repeat("long", 1000): {"kept"},
	}
	settle(t, newJournal(t, js), deadLettered(u))

	msg := only(t, js, topology.StreamDeadLetters)
	if got, want := msg.Subject(), "kex.deadletter.gone.123456.kommentare"; got != want {
		t.Errorf("subject %s, want %s", got, want)
	}
	if string(msg.Data()) != string(u.Body) {
		t.Errorf("body %q, want %q", msg.Data(), u.Body)
	}
	want := nats.Header{
		"Nats-Msg-Id":  {"deadletter-20-1795356306123456789"},
		"X-TraceId":    {"sys12345678"},
		"Kex-Reason":   {"gone"},
		"Kex-Status":   {"410"},
		"Kex-Detail":   {"the Vorgang is deleted"},
		"Kex-Attempts": {"2"},
		"Kex-Answers": {"1 2026-11-22T14:05:07.123456789Z 20 503 outage; " +
			"2 2026-11-22T14:05:07.603456789Z 19 410 gone"},
		"Kex-Update-Id":                     {"crm-20"},
		"Kex-Update-Seq":                    {"20"},
		"Kex-Update-At":                     {"2026-11-22T14:05:06.123456789Z"},
		"Kex-Update-Subject":                {"kex.vorgang.123456.kommentare"},
		"Kex-Request-Id":                    {"sys12345678-2"},
		"Kex-First-Attempt-At":              {"2026-11-22T14:05:07.123456789Z"},
		"Kex-Dead-Lettered-At":              {"2026-11-22T14:05:07.623456789Z"},
		"Kex-Replays":                       {"0"},
		"traceparent":                       {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
		"X-Tenant":                          {"a", "b"},
		"Content-Type":                      {"application/json"},
		"Kexlike":                           {"kept"},
		"X-" + strings.Repeat("long", 1000): {"kept"},
	}
	if diff := cmp.Diff(want, msg.Headers()); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	event := decoded(t, only(t, js, topology.StreamResults))
	if event.Data.DeadLetterSeq != 1 || event.Data.Outcome != update.DeadLettered || event.Data.Reason != fault.Gone {
		t.Errorf("the result tells of dead letter %d, %s, %s", event.Data.DeadLetterSeq, event.Data.Outcome, event.Data.Reason)
	}
}

func TestWhatOthersWroteIsMadeSafeForHeaders(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := anUpdate(21)
	u.Vorgangsnummer, u.Kind = update.NoVorgangsnummer, update.Invalid
	u.Subject = "kex.vorgang.Ä\x07" + strings.Repeat("x", 4000) + ".kommentare"
	s := deadLettered(u)
	s.Detail = "line one\r\nKex-Reason: forged\x00" + strings.Repeat("ä", 2000)
	settle(t, newJournal(t, js), s)

	header := only(t, js, topology.StreamDeadLetters).Headers()
	validateHeaders(t, header)
	if got := header.Get("Kex-Update-Subject"); len(got) != 256 || !strings.HasPrefix(got, "kex.vorgang.Ä?xxx") {
		t.Errorf("subject of %d bytes: %.40s", len(got), got)
	}
	detail := header.Get("Kex-Detail")
	if !strings.HasPrefix(detail, "line one  Kex-Reason: forged?ää") || len(detail) > 1024 || len(detail) < 1020 {
		t.Errorf("detail of %d bytes: %.60s", len(detail), detail)
	}
	if event := decoded(t, only(t, js, topology.StreamResults)); event.Data.Detail != detail {
		t.Errorf("the result's detail is not the dead letter's: %.60q", event.Data.Detail)
	}
}

func TestASettlementOfAReplaySaysSo(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := anUpdate(22)
	u.Replay = &update.Replay{DeadLetterSeq: 7, UpdateID: u.ID, TraceID: u.TraceID, Replays: 3}
	settle(t, newJournal(t, js), deadLettered(u))

	if got := only(t, js, topology.StreamDeadLetters).Headers().Get("Kex-Replays"); got != "3" {
		t.Errorf("Kex-Replays %q, want 3", got)
	}
	if got := decoded(t, only(t, js, topology.StreamResults)).Data.ReplayOf; got != 7 {
		t.Errorf("replayOf %d, want 7", got)
	}
}

// The first half of a settlement may have been written before a crash: the dead letter is then a duplicate, and its
// sequence has to come from there.
func TestAResultNamesTheDeadLetterThatWasThereBefore(t *testing.T) {
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	s := deadLettered(anUpdate(30))
	if _, err := j.writeDeadLetter(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	settle(t, j, deadLettered(anUpdate(31)))
	settle(t, j, s)
	results := messages(t, js, topology.StreamResults)
	if got := decoded(t, results[1]).Data.DeadLetterSeq; got != 1 {
		t.Errorf("the result names dead letter %d, want 1", got)
	}
}

func TestADeadLetterTellsThatItMayBeBooked(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*update.Settlement)
		want   string
	}{
		"answered":               {func(*update.Settlement) {}, ""},
		"the last one unknown":   {func(s *update.Settlement) { s.MayBeBooked = true }, "true"},
		"an earlier one unknown": {func(s *update.Settlement) { s.PossibleDuplicate = true }, "true"},
	} {
		t.Run(name, func(t *testing.T) {
			s := deadLettered(anUpdate(40))
			test.change(s)
			msg, _ := deadLetterMessage(s)
			if got := msg.Header.Get("Kex-May-Be-Booked"); got != test.want {
				t.Errorf("Kex-May-Be-Booked %q, want %q", got, test.want)
			}
		})
	}
}
