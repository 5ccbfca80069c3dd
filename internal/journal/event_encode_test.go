package journal

import (
	"encoding/json"
	"math"
	"reflect"
	"testing"
	"time"

	"kexrelay/internal/update"
)

func usualEvent(tb testing.TB) Event {
	tb.Helper()
	j := &Journal{cfg: Config{Source: source}}
	return j.settlementEvent(delivered(anUpdate(7)), 0)
}

func sameBytes(t *testing.T, e Event) {
	t.Helper()
	got, err := e.encode()
	if err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(&e)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("encoded as\n%s\nwant\n%s", got, want)
	}
}

// Every member of an event, set alone to something and to nothing, is encoded as encoding/json would: a member that is
// new cannot be forgotten.
func TestEveryMemberIsEncodedAsItsTagSays(t *testing.T) {
	if e := usualEvent(t); !e.usual() {
		t.Fatal("a delivery at once is not the usual event")
	}
	sameBytes(t, usualEvent(t))
	for i := range reflect.TypeFor[Event]().NumField() {
		for _, v := range samples(t, reflect.TypeFor[Event]().Field(i).Type) {
			e := usualEvent(t)
			reflect.ValueOf(&e).Elem().Field(i).Set(v)
			sameBytes(t, e)
		}
	}
	for i := range reflect.TypeFor[EventData]().NumField() {
		for _, v := range samples(t, reflect.TypeFor[EventData]().Field(i).Type) {
			e := usualEvent(t)
			reflect.ValueOf(&e.Data).Elem().Field(i).Set(v)
			sameBytes(t, e)
		}
	}
}

// samples are values of a type: nothing, something, and what needs care.
func samples(t *testing.T, of reflect.Type) []reflect.Value {
	t.Helper()
	all := []reflect.Value{reflect.Zero(of)}
	add := func(values ...any) {
		for _, v := range values {
			all = append(all, reflect.ValueOf(v).Convert(of))
		}
	}
	switch of {
	case reflect.TypeFor[time.Time]():
		add(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("x", 3600)))
		return all
	case reflect.TypeFor[update.Answers]():
		add(update.Answers{{Attempt: 2, RequestID: "sys1-2", At: storedAt, Status: 200}})
		return all
	case reflect.TypeFor[EventData]():
		return nil // Member by member.
	}
	switch of.Kind() { //nolint:exhaustive // The default fails the test.
	case reflect.String:
		add("plain", `"quoted\`, "<&>", "\u2028ä\x01", "\xff")
	case reflect.Int, reflect.Int64:
		add(1, -5, math.MaxInt32)
	case reflect.Uint64:
		add(uint64(math.MaxUint64))
	case reflect.Bool:
		add(true)
	case reflect.Pointer:
		add(new(int64(42)))
	default:
		if of.Kind() == reflect.Slice || of.Kind() == reflect.Struct {
			return all
		}
		t.Fatalf("no samples of %v", of)
	}
	return all
}

func FuzzUsualEvents(f *testing.F) {
	f.Add("id", "12345", "sys1", "00-ab-cd-01", int64(1), 200, uint64(3), true)
	f.Fuzz(func(t *testing.T, id, vorgang, trace, parent string, at int64, status int, seq uint64, duplicate bool) {
		e := usualEvent(t)
		e.ID, e.TraceID, e.Traceparent, e.Subject = id, trace, parent, vorgang
		e.Data.Vorgangsnummer, e.Data.TraceID, e.Data.RequestID = vorgang, trace, id
		e.Data.Status, e.Data.UpdateSeq, e.Data.PossibleDuplicate = status, seq, duplicate
		e.Data.SettledAt = time.Unix(0, at).UTC()
		sameBytes(t, e)
	})
}

func BenchmarkEncodeEvent(b *testing.B) {
	b.ReportAllocs()
	e := usualEvent(b)
	for b.Loop() {
		if body, err := e.encode(); err != nil || len(body) == 0 {
			b.Fatal(err)
		}
	}
}
