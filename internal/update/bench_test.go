package update_test

import (
	"strings"
	"testing"

	"kexrelay/internal/update"
)

// tracedHeader is what a careful publisher sends: nothing has to be made for it.
var tracedHeader = map[string][]string{
	"Nats-Msg-Id": {"crm-4711"},
	"X-TraceId":   {"sys12345678"},
	"traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
}

func commentsOf(size int) string {
	return `["` + strings.Repeat("Der Kunde bittet um Rückruf. ", size/29) + `"]`
}

func documentOf(size int, block string) string {
	return `{"filename":"Gehaltsnachweis Müller.pdf","base64Content":"` + strings.Repeat(block, size/len(block)) + `"}`
}

const (
	base64Block = "JVBERi0xLjcKJeLjz9MKMSAwIG9iago8PC9UeXBlL0NhdGFsb2cvUGFnZXMgMiAw"  // 64 characters.
	phpBlock    = `JVBERi0xLjcKJeLjz9MKMSAwIG9iag\/o8PC9UeXBlL0NhdGFsb2cvUGFnZXMgMiA` // With the one / of 64 escaped.
)

func TestDecodingDoesNotCopyTheContent(t *testing.T) {
	for name, c := range map[string]struct{ subject, body string }{
		"comments":              {commentsSubject, commentsOf(200)},
		"document":              {documentSubject, documentOf(1<<20, base64Block)},
		"document with escapes": {documentSubject, documentOf(1<<20, phpBlock)},
		"unknown members":       {documentSubject, `{"a":{"b":[1,"ü",{}]},"filename":"\u00fc","base64Content":"A"}`},
	} {
		m := update.Message{Subject: c.subject, Header: tracedHeader, Body: []byte(c.body), Seq: 17}
		got := testing.AllocsPerRun(20, func() {
			if _, err := update.Decode(m, makeTraceID); err != nil {
				t.Error(err)
			}
		})
		if got != 1 { // The update itself.
			t.Errorf("%s: got %v allocations, want 1", name, got)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, c := range []struct{ name, subject, body string }{
		{"comments/200B", commentsSubject, commentsOf(200)},
		{"comments/1MB", commentsSubject, commentsOf(1 << 20)},
		{"document/1MB", documentSubject, documentOf(1<<20, base64Block)},
		{"document/5MB", documentSubject, documentOf(5<<20, base64Block)},
		{"document/5MB-escaped", documentSubject, documentOf(5<<20, phpBlock)},
	} {
		b.Run(c.name, func(b *testing.B) {
			m := update.Message{Subject: c.subject, Header: tracedHeader, Body: []byte(c.body), Seq: 17}
			b.SetBytes(int64(len(m.Body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := update.Decode(m, makeTraceID); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRefuse is what a document costs whose last character no base64 has: it is read to its end for nothing.
func BenchmarkRefuse(b *testing.B) {
	body := strings.TrimSuffix(documentOf(5<<20, base64Block), `"}`) + `!"}`
	m := update.Message{Subject: documentSubject, Header: tracedHeader, Body: []byte(body), Seq: 17}
	b.SetBytes(int64(len(m.Body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := update.Decode(m, makeTraceID); err == nil {
			b.Fatal("it was taken")
		}
	}
}
