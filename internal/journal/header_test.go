package journal

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"
)

func TestPrintableTextIsOneBoundedLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "",
		" plain ":                 "plain",
		"a\r\nb\tc\u00a0d\u2028e": "a  b c d e",
		"bell\x07del\x7f":         "bell?del?",
		"\xff\xfeno UTF-8":        "?no UTF-8",
		"Ä€😀":                     "Ä€😀",
		"ab\u202ecd":              "ab?cd",
	} {
		if got := printable(in, 100); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		in := string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")) + rapid.String().Draw(t, "text")
		limit := rapid.IntRange(0, 40).Draw(t, "limit")
		got := printable(in, limit)
		if len(got) > limit || !utf8.ValidString(got) || got != strings.TrimSpace(got) {
			t.Fatalf("printable(%q, %d) = %q", in, limit, got)
		}
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Fatalf("%q has %U", got, r)
			}
		}
	})
}

// The client refuses a whole message for one name it does not like; ours must be at least as strict, and must
// know the size it will have.
func TestHeadersKeptAreThoseTheClientWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.String(), rapid.StringMatching(`[ -~]{0,12}`)).Draw(t, "name")
		values := rapid.SliceOfN(rapid.StringMatching(`[!-~]{0,12}`), 1, 3).Draw(t, "values")
		if !validName(name) {
			return
		}
		header := nats.Header{name: values, "X-Other": {"x"}}
		size := (&nats.Msg{Header: header}).Size()
		if size == 0 {
			t.Fatalf("the client refuses %q", name)
		}
		if size != headerSize(header) {
			t.Fatalf("headers %v have %d bytes, want %d", header, headerSize(header), size)
		}
	})
	for name, want := range map[string]bool{
		"X-TraceId": true, "natsy": true, "Kex": true, "kex": true, "X-Status": true, "Description": true,
		"Nats-Msg-Id": false, "NATS-": false, "kex-replays": false, "Status": false, "status": false,
		"": false, "a b": false, "a:b": false, "ä": false, "a\r\nb": false, "a@b": false,
	} {
		if got := PublishersOwn(name); got != want {
			t.Errorf("PublishersOwn(%q) = %v, want %v", name, got, want)
		}
	}
}
