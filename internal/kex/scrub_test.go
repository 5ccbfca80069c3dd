package kex

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"kexrelay/internal/update"
)

// echoes are the ways in which an API may repeat a value.
var echoes = map[string]func(string) string{
	"as it is":   func(s string) string { return s },
	"upper case": strings.ToUpper,
	"JSON": func(s string) string {
		b, _ := json.Marshal(s)
		return string(b)
	},
	"JSON, ASCII only": asciiJSON,
	"JSON in JSON": func(s string) string {
		b, _ := json.Marshal(asciiJSON(s))
		return string(b)
	},
	"Go syntax":          func(s string) string { return fmt.Sprintf("%+q", s) },
	"HTML":               html.EscapeString,
	"HTML, numeric":      numericEntities,
	"URL":                url.QueryEscape,
	"path":               url.PathEscape,
	"base64":             func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"base64url":          func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
	"base64, shifted":    func(s string) string { return base64.StdEncoding.EncodeToString([]byte("xy" + s))[2:] },
	"base64, cut":        func(s string) string { e := base64.StdEncoding.EncodeToString([]byte(s)); return e[1 : len(e)-5] },
	"base64 of JSON":     func(s string) string { return base64.StdEncoding.EncodeToString([]byte(asciiJSON(s))) },
	"hex":                func(s string) string { return hex.EncodeToString([]byte(s)) },
	"Latin-1":            latin1Bytes,
	"UTF-8 as Latin-1":   utf8AsLatin1,
	"decomposed accents": func(s string) string { return strings.NewReplacer("ü", "u\u0308", "ä", "a\u0308").Replace(s) },
	"transliterated":     func(s string) string { return strings.NewReplacer("ü", "ue", "ä", "ae").Replace(s) },
	"question marks":     func(s string) string { return strings.NewReplacer("ü", "?", "ä", "?").Replace(s) },
	"coloured": func(s string) string {
		return "\x1b[31m" + strings.ReplaceAll(s, " ", "\x1b[0m \x1b[1;32m") + "\x1b[0m"
	},
	"zero-width inside": func(s string) string { return strings.ReplaceAll(s, "e", "e\u200b") },
	"control inside":    func(s string) string { return strings.ReplaceAll(s, "n", "n\x00") },
	"cut":               func(s string) string { return cutAt(s, 19) },
	"cut with ellipsis": func(s string) string { return cutAt(s, 7) + "..." },
	"other separators":  func(s string) string { return strings.Join(strings.Fields(s), "_") },
}

func asciiJSON(s string) string {
	var out strings.Builder
	for _, r := range s {
		switch {
		case r > 126:
			fmt.Fprintf(&out, `\u%04x`, r)
		case r == '"' || r == '\\':
			out.WriteString(`\` + string(r))
		case r == '\n':
			out.WriteString(`\n`)
		default:
			out.WriteRune(r)
		}
	}
	return `"` + out.String() + `"`
}

func numericEntities(s string) string {
	var out strings.Builder
	for _, r := range s {
		fmt.Fprintf(&out, "&#%d;", r)
	}
	return out.String()
}

func latin1Bytes(s string) string {
	var out []byte
	for _, r := range s {
		out = append(out, byte(r))
	}
	return string(out)
}

func utf8AsLatin1(s string) string {
	var out strings.Builder
	for i := range len(s) {
		out.WriteRune(rune(s[i]))
	}
	return out.String()
}

func cutAt(s string, n int) string { return strings.ToValidUTF8(s[:min(n, len(s))], "") }

// TestEchoesAreRedacted: file name, comment and content, echoed in many ways, through the whole of Send.
func TestEchoesAreRedacted(t *testing.T) {
	const content = "Nettoeinkommen 4711 Euro, Frau Quittenbaum-Zwiebelfisch"
	document, _ := json.Marshal(map[string]any{
		"filename": canaryFile, "base64Content": base64.StdEncoding.EncodeToString([]byte(content)),
		"extra": map[string]any{"iban": "DE89370400440532013000", "phone": 4915112345678},
	})
	comments, _ := json.Marshal([]string{"harmless", canaryComment})
	values := map[string]struct {
		kind  update.Kind
		body  []byte
		value string
		// parts must not be in any text.
		parts []string
	}{
		"file name": {update.Document, document, canaryFile, []string{"Gehalt", "nachweis", "Musterm", "Krüg", "2024"}},
		"comment":   {update.Comments, comments, canaryComment, []string{"Quitte", "verdien", "4711", "Zwiebel", "wohnt", "März"}},
		"content sent": {
			update.Document, document, base64.StdEncoding.EncodeToString([]byte(content)),
			[]string{base64.StdEncoding.EncodeToString([]byte(content))[8:24], "TmV0dG9l"},
		},
		"content decoded": {update.Document, document, content, []string{"Nettoeink", "Quittenb", "Zwiebelf"}},
		"IBAN":            {update.Document, document, "DE89370400440532013000", []string{"DE8937", "532013"}},
		"phone":           {update.Document, document, "4915112345678", []string{"49151", "45678"}},
		"token":           {update.Comments, comments, canaryToken, []string{"Canary", "9f8e7d"}},
		"secret":          {update.Comments, comments, canarySecret, []string{"Canary", "4711081"}},
	}
	for name, v := range values {
		for way, echo := range echoes {
			if (way == "hex" || strings.HasPrefix(way, "base64")) && name == "content sent" {
				continue // Encoded twice: nobody reads that back.
			}
			t.Run(name+"/"+way, func(t *testing.T) {
				said := `{"status":400,"error":"Bad Request","detail":"unbrauchbar: ` + echo(v.value) + ` (siehe Handbuch)"}`
				srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
					w.WriteHeader(http.StatusBadRequest)
					_, _ = io.WriteString(w, said)
				})
				c := newTestClient(t, srv.URL)
				_, err := c.Send(t.Context(), update.Request{Vorgangsnummer: "1", Kind: v.kind, TraceID: "kxr-1", Body: v.body})
				f := faultOf(t, err)
				for _, part := range v.parts {
					if strings.Contains(strings.ToLower(f.Detail), strings.ToLower(part)) {
						t.Errorf("%q is in the detail %q of the answer %q", part, f.Detail, said)
					}
				}
				if !strings.Contains(f.Detail, redacted) || !strings.Contains(f.Detail, "Bad Request") || !strings.Contains(f.Detail, "Handbuch") {
					t.Errorf("the detail %q of %q is not the answer with parts redacted", f.Detail, said)
				}
			})
		}
	}
}

// TestShortValues are redacted as whole words.
func TestShortValues(t *testing.T) {
	tests := map[string]struct{ body, said, want string }{
		"comment of two letters":    {`["ok"]`, `comment 'ok' refused, OK?`, `comment '[redacted]' refused, [redacted]?`},
		"within a word it is none":  {`["ok"]`, `token broken`, `token broken`},
		"base64 of it":              {`["ok"]`, `got b2s= only`, `got [redacted]= only`},
		"short file name":           {`{"filename":"a.pdf","base64Content":"QUJD"}`, `a.pdf: only pdf allowed`, `[redacted]: only pdf allowed`},
		"short name in a file name": {`{"filename":"Uwe_Lau.pdf"}`, `no Lau here, UWE!`, `no [redacted] here, [redacted]!`},
		"number":                    {`["Tel. 110"]`, `bad number 110`, `bad number [redacted]`},
		"other scripts":             {`["Олег Иванов"]`, `unknown: олег`, `unknown: [redacted]`},
		"emoji":                     {`["🎈🎈"]`, `bad character 🎈🎈 found`, `bad character [redacted] found`},
		"short content":             {`{"filename":"x","base64Content":"QUJDRA=="}`, `invalid: QUJDRA==`, `invalid: [redacted]==`},
		"names of members are no echo": {
			`{"filename":"x.pdf","base64Content":"QUJDRA=="}`,
			`filename: must not be null, base64Content: must not be empty`,
			`filename: must not be null, base64Content: must not be empty`,
		},
		"escaped in the request": {`["M\u00fcller \ud83c\udf88"]`, `Müller, 🎈 and more`, `[redacted] and more`},
		"beside an ellipsis":     {`["something else"]`, `value 'Ma...' too long, …ann`, `value '[redacted]' too long, [redacted]`},
		"accent decomposed":      {`["nichts für sie"]`, "fu\u0308r all", `[redacted] all`},
		"accent composed":        {"[\"nichts fu\u0308r sie\"]", `für all`, `[redacted] all`},
		"accent transliterated":  {`["Müller"]`, "for MUELLER only", `for [redacted] only`},
		"escaped \\u":            {`["Müller"]`, `for M\u00fcller only`, `for [redacted] only`},
		"escaped %":              {`["Müller"]`, `for M%C3%BCller only`, `for [redacted] only`},
		"escaped % in Latin-1":   {`["Müller"]`, `for M%FCller only`, `for [redacted] only`},
		"escaped &":              {`["Müller"]`, `for M&uuml;ller only`, `for [redacted] only`},
		"UTF-8 as Latin-1":       {`["Müller"]`, `for MÃ¼ller only`, `for [redacted] only`},
		"whole words go":         {`["Quittenbaum"]`, `a Quittenbaumschule here`, `a [redacted] here`},
		"two letters in what looks like base64": {
			`{"filename":"ab x.pdf"}`, `id AGFiAAEC`, `id AGFiAAEC`,
		},
		"not JSON at all": {`Quittenbaum`, `got Quittenbaum`, `got [redacted]`},
		"broken JSON":     {`["Quittenbaum`, `got Quittenbaum`, `got [redacted]`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := &scrubber{body: []byte(tt.body)}
			if got := s.scrub(tt.said); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestInnocentAnswersStay: what helps the operator is not taken out.
func TestInnocentAnswersStay(t *testing.T) {
	noise := make([]byte, 300_000)
	for i := range noise {
		noise[i] = byte(i * i >> 7)
	}
	document := `{"filename":"Kontoauszug Januar.pdf","base64Content":"` + base64.StdEncoding.EncodeToString(noise) + `"}`
	for _, said := range []string{
		`{"timestamp":"2026-11-22T15:06:07.123+01:00","status":400,"error":"Bad Request","path":"/kreditsmart/kex/vorgang/123456/dokument"}`,
		`{"message":"Vorgang wurde gelöscht","traceId":"sys12345678"}`,
		`{"errors":[{"field":"base64Content","code":"NotEmpty"}],"id":"0b8e4a4e-6d0c-4c1e-9b59-2f6f2c1d7e4f"}`,
		`<html> <head><title>502 Bad Gateway</title></head> <body> <center><h1>502 Bad Gateway</h1></center> <hr><center>nginx</center> </body> </html>`,
		`Basic authentication required`,
		`invalid client secret`,
	} {
		for name, body := range map[string]string{"document": document, "comment": `["Frau Quittenbaum verdient 4711 Euro"]`} {
			s := &scrubber{secrets: []string{canarySecret, canaryToken}, body: []byte(body)}
			if got := s.scrub(said); got != said {
				t.Errorf("%s: got %q, want %q unchanged", name, got, said)
			}
		}
	}
}

func TestCredentialsOfOthers(t *testing.T) {
	s := &scrubber{}
	for said, want := range map[string]string{
		`Authorization: Bearer abcdef0123456789abcdef`:             `Authorization: Bearer [redacted]`,
		`token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln is stale`: `token [redacted] is stale`,
		`{"password":"hunter2","x":1}`:                             `{"password":"[redacted]","x":1}`,
		`key Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5 seen`:                    `key [redacted] seen`,
	} {
		if got := s.scrub(said); got != want {
			t.Errorf("%q: got %q, want %q", said, got, want)
		}
	}
}

func TestClean(t *testing.T) {
	for said, want := range map[string]string{
		"":                                "",
		" a\r\n\tb  ":                     "a b",
		"\x1b[31mred\x1b[0m":              "red",
		"\x1b]0;title\x07after":           "after",
		"\x1b]8;;http://x\x1b\\link":      `\link`,
		"\x1b]52;c;never ends":            "",
		"\x1b[31":                         "",
		"\x1b[3\x00m":                     "m",
		"\x1bMa":                          "Ma",
		"\u009b31m":                       "31m",
		"a\u202eb\u2066c\u200bd\ufeffe":   "abcde",
		"M\xfcller":                       "Müller",
		"Müller":                          "Müller",
		"a\ufffdb":                        "ab",
		"a\u2028b\u00a0c":                 "a b c",
		"nul\x00 bell\a del\x7f back\bsp": "nul bell del backsp",
	} {
		if got := clean([]byte(said)); got != want {
			t.Errorf("clean(%q) = %q, want %q", said, got, want)
		}
	}
}

// TestDetailIsBounded: whatever comes, at most 1 KiB of valid text; and nothing that was cut in two escapes.
func TestDetailIsBounded(t *testing.T) {
	for name, said := range map[string]string{
		"long":       strings.Repeat("a b ", 100_000),
		"umlauts":    strings.Repeat("ü", 100_000),
		"cut in two": "abc " + strings.Repeat("Zwiebelfisch ", 1000), // Where the excerpt ends, "Zwi" is left.
		"minified":   `{` + strings.Repeat(`"error":"nope",`, 10_000),
		"compressed": "\x1f\x8b" + strings.Repeat("\x00\xff", 1000),
		"one word":   strings.Repeat("a", 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if name == "compressed" {
					w.Header().Set("Content-Encoding", "gzip")
				}
				w.WriteHeader(http.StatusBadRequest)
				_, _ = io.WriteString(w, said)
			})
			c := newTestClient(t, srv.URL)
			_, err := c.Send(t.Context(), commentsRequest("Zweifel Zwiebelfisch"))
			f := faultOf(t, err)
			if f.Detail == "" || !utf8.ValidString(f.Detail) || strings.Contains(f.Detail, "Zwi") {
				t.Errorf("detail is %q", f.Detail)
			}
			if name == "compressed" && f.Detail != "the API refused the data as malformed or incomplete" {
				t.Errorf("detail of compressed bytes is %q", f.Detail)
			}
		})
	}
}

// FuzzScrub: a comment that is echoed does not survive, whatever it is and however it is echoed; and what comes out
// is always clean text.
func FuzzScrub(f *testing.F) {
	ways := make([]string, 0, len(echoes))
	for way := range echoes {
		ways = append(ways, way)
	}
	f.Add(canaryComment, "error: ", " end", uint8(0))
	f.Add("Tr\xff\\u00fc\"b", `{"a":"`, `"}`, uint8(7))
	f.Add("ok", "\x1b[0m", "", uint8(3))
	f.Add("%41&amp;\\n100%20Rabatt", "", "...", uint8(1))
	f.Fuzz(func(t *testing.T, comment, before, after string, way uint8) {
		if len(comment)+len(before)+len(after) > 1000 {
			return
		}
		body, err := json.Marshal([]string{comment})
		if err != nil {
			t.Fatal(err)
		}
		s := &scrubber{secrets: []string{canarySecret}, body: body}
		got := s.scrub(clean([]byte(before + " " + echoes["as it is"](comment) + " " + after)))
		if !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) {
			t.Errorf("not clean: %q", got)
		}
		// Longer words than the gram must be gone, unless they stand in the innocent text too.
		for _, word := range strings.FieldsFunc(clean([]byte(comment)), func(r rune) bool { return r > 127 || fold(r) == 0 }) {
			if len(word) >= 5 && word != "redacted" && strings.Contains(got, word) && !strings.Contains(redacted, strings.ToLower(word)) {
				t.Errorf("%q of %q is in %q", word, comment, got)
			}
		}
		// Any echo may come: it must not break anything.
		encoded := s.scrub(clean([]byte(before + echoes[ways[int(way)%len(ways)]](strings.ToValidUTF8(comment, "?")+"padding") + after)))
		if !utf8.ValidString(encoded) {
			t.Errorf("not clean: %q", encoded)
		}
	})
}

// FuzzSent: a request body that is anything at all must not bring the scrubber down.
func FuzzSent(f *testing.F) {
	f.Add([]byte(`{"filename":"a\u00fc\ud83c\udf88","base64Content":"QUJD\/=="}`), "text")
	f.Add([]byte(`["\u12`), "x")
	f.Add([]byte(`"\`), `\u`)
	f.Add([]byte{'"', 0xff, '\\', 'u', '1'}, "%f%%41=C3&#x;&#99999999;")
	f.Fuzz(func(t *testing.T, body []byte, said string) {
		if len(said) > 2000 {
			return
		}
		said = clean([]byte(said))
		got := (&scrubber{body: body}).scrub(said)
		if !utf8.ValidString(got) {
			t.Errorf("not valid UTF-8: %q", got)
		}
		if !strings.Contains(got, redacted) && got != said {
			t.Errorf("text was changed without being redacted: %q, was %q", got, said)
		}
	})
}
