package deadletter

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

func TestAListTellsWhatTheHeadersDo(t *testing.T) {
	b := setUp(t)
	s := aDeadLetter(17, "123456")
	s.Update.Replay = &update.Replay{DeadLetterSeq: 1, Replays: 2}
	b.write(t, s)
	var got []Summary
	for summary, err := range b.store.List(t.Context(), Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if age := time.Since(summary.StoredAt); age < 0 || age > time.Minute {
			t.Errorf("stored %s ago", age)
		}
		summary.StoredAt = time.Time{}
		got = append(got, summary)
	}
	want := []Summary{{
		Seq: 1, Reason: fault.Gone, Vorgangsnummer: "123456", Kind: update.Comments, Subject: "kex.vorgang.123456.kommentare",
		UpdateID: "crm-17", UpdateSeq: 17, UpdateAt: storedAt, TraceID: "sys17", RequestID: "sys17-2", Status: 410,
		Detail: "the Vorgang is deleted", Attempts: 2, FirstAttemptAt: storedAt.Add(time.Second),
		DeadLetteredAt: storedAt.Add(2 * time.Second), Replays: 2, Size: int64(len(`["comment 17"]`)),
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
}

func TestDeadLettersAreListedByFilter(t *testing.T) {
	b := setUp(t)
	if got := b.letters(t); got != nil {
		t.Errorf("a new stream has %v", got)
	}
	document := aDeadLetter(2, "123456")
	document.Update.Kind, document.Reason = update.Document, fault.BadRequest
	invalid := aDeadLetter(3, update.NoVorgangsnummer)
	invalid.Update.Kind, invalid.Reason = update.Invalid, fault.Invalid
	b.write(t, aDeadLetter(1, "123456"), document, invalid, aDeadLetter(4, "ABC-1"))
	if _, err := b.js.Publish(t.Context(), "kex.deadletter.somebody.else", nil); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		filter Filter
		want   []uint64
	}{
		"a reason":           {Filter{Reasons: []fault.Reason{fault.Gone}}, []uint64{1, 4}},
		"reasons":            {Filter{Reasons: []fault.Reason{fault.Invalid, fault.BadRequest, fault.Exhausted}}, []uint64{2, 3}},
		"a kind":             {Filter{Kinds: []update.Kind{update.Document}}, []uint64{2}},
		"a Vorgang":          {Filter{Vorgangsnummer: "123456"}, []uint64{1, 2}},
		"no Vorgang":         {Filter{Vorgangsnummer: update.NoVorgangsnummer}, []uint64{3}},
		"a trace ID":         {Filter{TraceID: "sys4"}, []uint64{4}},
		"a request ID":       {Filter{TraceID: "sys2-2"}, []uint64{2}},
		"an update ID":       {Filter{UpdateID: "crm-1"}, []uint64{1}},
		"the first":          {Filter{Limit: 1}, []uint64{1}},
		"the first of many":  {Filter{Limit: 2, Reasons: []fault.Reason{fault.Gone, fault.Invalid}}, []uint64{1, 3}},
		"since the past":     {Filter{Since: time.Now().Add(-time.Hour), Kinds: []update.Kind{update.Document}}, []uint64{2}},
		"since the future":   {Filter{Since: time.Now().Add(time.Hour)}, nil},
		"until the past":     {Filter{Until: time.Now().Add(-time.Hour)}, nil},
		"until the future":   {Filter{Until: time.Now().Add(time.Hour), Kinds: []update.Kind{update.Document}}, []uint64{2}},
		"what is not there":  {Filter{UpdateID: "crm-9"}, nil},
		"several conditions": {Filter{Vorgangsnummer: "123456", Kinds: update.Kinds(), Reasons: []fault.Reason{fault.Gone}, UpdateID: "crm-1"}, []uint64{1}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var got []uint64
			for summary, err := range b.store.List(t.Context(), test.filter) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, summary.Seq)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("dead letters (-want +got):\n%s", diff)
			}
		})
	}
	if diff := cmp.Diff([]uint64{1, 2, 3, 4}, b.letters(t)); diff != "" {
		t.Errorf("all (-want +got):\n%s", diff)
	}
	for _, filter := range []Filter{{Vorgangsnummer: "1.*"}, {Reasons: []fault.Reason{">"}}, {Reasons: []fault.Reason{fault.Outage}}, {Kinds: []update.Kind{"x"}}} {
		for _, err := range b.store.List(t.Context(), filter) {
			if err == nil {
				t.Errorf("List takes %+v", filter)
			}
		}
	}
}

func TestAListEndsWithWhatIsThereAtItsBeginning(t *testing.T) {
	b := setUp(t)
	fill(t, b.js, 1200) // More than is asked for at a time.
	listed := 0
	for _, err := range b.store.List(t.Context(), Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if listed++; listed == 1 {
			fill(t, b.js, 100)
		}
	}
	if listed != 1200 {
		t.Errorf("%d listed, want the 1200 of the beginning", listed)
	}
}

// A publisher's Status header with a client's control code must not end the list at its dead letter.
func TestAPublishersStatusHeaderHidesNothing(t *testing.T) {
	b := setUp(t)
	for seq, status := range []string{"409", "404", "408", "100", "503"} {
		s := aDeadLetter(uint64(seq+1), "123456")
		s.Update.Header = map[string][]string{"Status": {status}, "Description": {"Consumer Deleted"}}
		b.write(t, s)
	}
	if diff := cmp.Diff([]uint64{1, 2, 3, 4, 5}, b.letters(t)); diff != "" {
		t.Errorf("dead letters (-want +got):\n%s", diff)
	}
}

func TestCountsAreByReasonTheOldestFirst(t *testing.T) {
	b := setUp(t)
	counts, err := b.store.Counts(t.Context())
	if err != nil || len(counts) != 0 {
		t.Errorf("a new stream: %v, %v", counts, err)
	}
	rejected := aDeadLetter(1, "1")
	rejected.Reason = fault.Rejected
	b.write(t, rejected)
	for seq := uint64(2); seq < 12; seq++ {
		b.write(t, aDeadLetter(seq, strconv.FormatUint(seq, 10)))
	}
	counts, err = b.store.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first, err := b.store.Show(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.store.Show(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	want := []Count{{fault.Rejected, 1, first.StoredAt}, {fault.Gone, 10, second.StoredAt}}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

func TestShowTellsFactsAndNoContent(t *testing.T) {
	const canary = "CANARY"
	long := strings.Repeat("long", 10)
	tests := map[string]struct {
		body string
		want Content
	}{
		"a document": {
			`{"filename":"` + canary + `.pdf","base64Content":"` + canary + `","object":{"` + canary + `":1}}`,
			Content{JSON: "object", Fields: []string{"filename", "base64Content", "object"}},
		},
		"comments":         {` ["` + canary + `", ["` + canary + `"], 3]`, Content{JSON: "array", Elements: 3}},
		"no names":         {`{"a ` + canary + `":1,"":2,"ä` + canary + `":3,"` + long + canary + `":4,"9` + canary + `":5,"ok":6}`, Content{JSON: "object", Fields: []string{"ok"}, OtherFields: 5}},
		"an empty object":  {`{}`, Content{JSON: "object"}},
		"text":             {`"` + canary + `"`, Content{JSON: "string"}},
		"a number":         {`-1`, Content{JSON: "number"}},
		"a boolean":        {`true`, Content{JSON: "boolean"}},
		"null":             {`null`, Content{JSON: "null"}},
		"no JSON":          {`{"filename":"` + canary, Content{}},
		"nothing":          {``, Content{}},
		"only white space": {"  ", Content{}},
	}
	b := setUp(t)
	seq := uint64(0)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			seq++
			s := aDeadLetter(seq, "123456")
			s.Update.Body = []byte(test.body)
			b.write(t, s)
			got, err := b.store.Show(t.Context(), seq)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(got.Content.Digest, "SHA-256=") || got.UpdateID != s.Update.ID {
				t.Errorf("digest %q, update %q", got.Content.Digest, got.UpdateID)
			}
			test.want.Digest, test.want.Size = got.Content.Digest, int64(len(test.body))
			test.want.FieldSizes, test.want.ElementSizes = got.Content.FieldSizes, got.Content.ElementSizes
			if len(got.Content.FieldSizes) != len(got.Content.Fields) || len(got.Content.ElementSizes) != got.Content.Elements {
				t.Errorf("sizes of %+v", got.Content)
			}
			if diff := cmp.Diff(test.want, got.Content); diff != "" {
				t.Errorf("content (-want +got):\n%s", diff)
			}
			if !slices.Equal(got.Header["X-Tenant"], []string{"a", "b"}) || got.Header.Get("Kex-Reason") != "gone" {
				t.Errorf("headers %v", got.Header)
			}
			text, err := json.Marshal(got)
			if err != nil || strings.Contains(string(text), canary) {
				t.Errorf("%v, shown: %s", err, text)
			}
		})
	}
	if _, err := b.store.Show(t.Context(), seq+1); !errors.Is(err, ErrNotFound) {
		t.Errorf("one that is not there: %v", err)
	}
}

func TestManyFieldsAreBounded(t *testing.T) {
	var fields []string
	for i := range 40 {
		fields = append(fields, fmt.Sprintf(`"f%d":[{"x":%d}]`, i, i))
	}
	got := describe([]byte("{" + strings.Join(fields, ",") + "}"))
	if got.FieldSizes[0] != len(`[{"x":0}]`) || got.FieldSizes[15] != len(`[{"x":15}]`) {
		t.Errorf("sizes %v", got.FieldSizes)
	}
	if len(got.Fields) != 16 || got.OtherFields != 24 || got.Fields[15] != "f15" {
		t.Errorf("%d fields and %d others: %v", len(got.Fields), got.OtherFields, got.Fields)
	}
}

func TestShowReadsTheBodyObject(t *testing.T) {
	b := setUp(t)
	s := aDeadLetter(1, "123456")
	s.Update.Header["X-Large"] = []string{strings.Repeat("v", 9000)}
	b.write(t, s)
	got, err := b.store.Show(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Header.Get("X-Large")) != 9000 || got.Content.Elements != 1 || got.Size != int64(len(s.Update.Body)) {
		t.Errorf("header of %d bytes, %+v, size %d", len(got.Header.Get("X-Large")), got.Content, got.Size)
	}
	b.removeObject(t, got.BodyObject)
	got, err = b.store.Show(t.Context(), 1)
	if err != nil || !got.Content.Missing || got.Content.Size != int64(len(s.Update.Body)) {
		t.Errorf("without the object: %+v, %v", got.Content, err)
	}
}

func (b *bench) removeObject(tb testing.TB, object string) {
	tb.Helper()
	bucket, err := b.js.ObjectStore(tb.Context(), topology.BucketDocuments)
	if err != nil {
		tb.Fatal(err)
	}
	if err := bucket.Delete(tb.Context(), strings.TrimPrefix(object, topology.BucketDocuments+"/")); err != nil {
		tb.Fatal(err)
	}
}

// fill publishes n dead letters as fast as the server takes them.
func fill(tb testing.TB, js jetstream.JetStream, n int) {
	tb.Helper()
	header := nats.Header{}
	for _, name := range []string{"Kex-Reason", "Kex-Status", "Kex-Detail", "Kex-Attempts", "Kex-Update-Id", "Kex-Update-Seq", "Kex-Update-Subject", "X-TraceId"} {
		header.Set(name, "123456")
	}
	for i := range n {
		msg := &nats.Msg{Subject: fmt.Sprintf("kex.deadletter.gone.%d.dokument", i%1000), Header: header, Data: make([]byte, 1000)}
		if _, err := js.PublishMsgAsync(msg, jetstream.WithStallWait(time.Minute)); err != nil {
			tb.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
}

func BenchmarkListOf100000(b *testing.B) {
	js := connect(b, embeddedtest.Run(b).URL())
	if _, err := topology.Setup(b.Context(), js, topology.Options{}); err != nil {
		b.Fatal(err)
	}
	fill(b, js, 100_000)
	store := newStore(b, js)
	for b.Loop() {
		n := 0
		for _, err := range store.List(b.Context(), Filter{}) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 100_000 {
			b.Fatalf("%d listed", n)
		}
	}
}
