package update_test

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
	"testing"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
	"kexrelay/schemas"
)

const (
	documentSubject = "kex.vorgang.123456.dokument"
	commentsSubject = "kex.vorgang.123456.kommentare"
	madeTraceID     = "kxr-made"
)

func makeTraceID() string { return madeTraceID }

// decode decodes a message without headers.
func decode(subject, body string) (*update.Update, error) {
	return update.Decode(update.Message{Subject: subject, Body: []byte(body), Seq: 17}, makeTraceID)
}

// detailOf is the detail of a permanent fault with reason invalid, "" for no error; any other error fails the test.
func detailOf(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	f := fault.Of(err)
	if f.Kind != fault.Permanent || f.Reason != fault.Invalid || f.Detail == "" || f.Status != 0 || f.Unknown {
		t.Errorf("got fault %+v, want a permanent one with reason invalid and a detail", f)
	}
	if len(f.Detail) > 150 {
		t.Errorf("detail has %d bytes: %s", len(f.Detail), f.Detail)
	}
	return f.Detail
}

func TestTheDocumentedExamplesPassByteForByte(t *testing.T) {
	t.Parallel()
	for subject, body := range map[string]string{
		documentSubject: "{\n\t\"filename\": \"Test.pdf\",\n\t\"base64Content\": \"JVBERi0xLjMKJcTl8uXrp\"\n}",
		commentsSubject: `["Testkommentar"]`,
	} {
		u, err := decode(subject, body)
		if err != nil {
			t.Errorf("%s: %v", subject, err)
		}
		if string(u.Body) != body || u.Vorgangsnummer != "123456" || u.ID != "KEX_UPDATES-17" || u.TraceID != madeTraceID {
			t.Errorf("%s: got %+v", subject, u)
		}
	}
}

func TestTheBodyIsTheMessagesOwn(t *testing.T) {
	t.Parallel()
	for subject, text := range map[string]string{
		documentSubject:     `{"filename":"a","base64Content":"A\u002b"}`,
		commentsSubject:     `[]`,
		"kex.vorgang.x.txt": "\xff",
	} {
		body := []byte(text)
		u, _ := update.Decode(update.Message{Subject: subject, Body: body}, makeTraceID)
		if &u.Body[0] != &body[0] || len(u.Body) != len(body) || string(body) != text {
			t.Errorf("%s: the body was copied or changed", subject)
		}
	}
}

func TestEveryExampleDecodesAsItsPlaceSays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    schemas.Name
		subject string
	}{
		{schemas.Document, documentSubject},
		{schemas.DocumentReference, documentSubject},
		{schemas.Comments, commentsSubject},
	} {
		for file, body := range examples(t, c.name) {
			_, err := decode(c.subject, body)
			detail := detailOf(t, err)
			// A document has two forms: what is not right as the one may be as the other.
			valid := strings.Contains(file, "/valid/") || c.name == schemas.Document && schemas.Validate(schemas.DocumentReference, []byte(body)) == nil
			if valid != (detail == "") {
				t.Errorf("%s: got %q", file, detail)
			}
		}
	}
}

// What is sent for a reference is the published body with the content in its place: the same as if it had been
// published inline.
func TestAReferenceIsSentAsTheBodyItStandsFor(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"filename":"a","object":` + reference + `}`:                    `{"filename":"a","base64Content":"<>"}`,
		` { "object" : ` + reference + ` , "x":[1], "filename":"ä"  } `:  ` { "base64Content":"<>" , "x":[1], "filename":"ä"  } `,
		`{"x":null,"\u006fbject":` + reference + `,"filename":"\u0061"}`: `{"x":null,"base64Content":"<>","filename":"\u0061"}`,
	} {
		u, err := decode(documentSubject, body)
		if err != nil {
			t.Fatal(err)
		}
		c := u.Content()
		if got := string(c.Before) + "<>" + string(c.After); got != want {
			t.Errorf("%s\n got %s\nwant %s", body, got, want)
		}
		if string(u.Body) != body {
			t.Error("the published body was changed")
		}
		if c.Name != "0b0e8f1c-6a55-4a52-9f0e-3f1d2c7b8a90" || c.Size != 3 || c.DigestText() != "SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=" {
			t.Errorf("got %+v", c.Object)
		}
		if err := schemas.Validate(schemas.Document, []byte(string(c.Before)+"YWJj"+string(c.After))); err != nil || c.Length() != int64(len(want)+2) {
			t.Errorf("length %d, %v", c.Length(), err)
		}
	}
	if u, _ := decode(documentSubject, `{"filename":"a","base64Content":"A"}`); u.Content() != nil {
		t.Error("an inline document has no content of its own")
	}
}

func examples(tb testing.TB, name schemas.Name) map[string]string {
	tb.Helper()
	files, err := fs.Glob(schemas.FS, path.Join("examples", string(name), "*", "*"))
	if err != nil || len(files) == 0 {
		tb.Fatalf("got %d examples, error %v", len(files), err)
	}
	bodies := map[string]string{}
	for _, file := range files {
		body, err := schemas.FS.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		bodies[file] = string(body)
	}
	return bodies
}

func TestABadBodyIsNamedByFieldAndPlace(t *testing.T) {
	t.Parallel()
	const rest = `,"base64Content":"JVBERi0xLjcK"}`
	document := map[string]string{
		"":                             "body: is empty",
		" \n":                          "body: JSON ends early at byte 2",
		"hallo":                        "body: is not JSON at byte 0",
		"true":                         "body: is a boolean, not an object",
		"this":                         "body: is not JSON at byte 0",
		"-":                            "body: is a number, not an object",
		`"{}"`:                         "body: is a string, not an object",
		"[]":                           "body: is an array, not an object",
		"null":                         "body: is null, not an object",
		"{\x00":                        "body: is not JSON at byte 1",
		"{\"\x00":                      "body: has an unescaped control character at byte 2",
		"\xef\xbb\xbf{}":               "body: begins with a byte order mark: send UTF-8 without one",
		"\xff\xfe{\x00}\x00":           "body: begins with a byte order mark: send UTF-8 without one",
		`{"filename":"a.pdf`:           "body: JSON ends early at byte 18",
		`{"filename":"a.pdf"`:          "body: JSON ends early at byte 19",
		`{"filename" "a"}`:             "body: is not JSON at byte 12",
		`{"filename":"a"]`:             "body: is not JSON at byte 15",
		`{"filename":"a",}`:            "body: is not JSON at byte 16",
		`{"filename":}`:                "body: is not JSON at byte 12",
		`{"filename":"\`:               "body: JSON ends early at byte 14",
		`{"filename":"\u00`:            "body: JSON ends early at byte 17",
		`{"filename":"\u00g0"`:         "body: is not JSON at byte 17",
		`{"filename":"\x"`:             "body: is not JSON at byte 14",
		`{"x":"\ud83d"}`:               "body: has half a surrogate pair at byte 6",
		`{"x":"\ud83d\n"}`:             "body: has half a surrogate pair at byte 6",
		`{"x":"\ud83d\u00e4"}`:         "body: has half a surrogate pair at byte 6",
		`{"x":"\ud83d\u00`:             "body: JSON ends early at byte 16",
		`{"\ude00":1}`:                 "body: has half a surrogate pair at byte 2",
		"{\"x\":\"\xc3\"}":             "body: is not UTF-8 at byte 6",
		"{\"x\":\"\xed\xa0\xbd\"}":     "body: is not UTF-8 at byte 6",
		`{"x":tru}`:                    "body: is not JSON at byte 5",
		`{"x":01}`:                     "body: is not JSON at byte 6",
		`{"x":-}`:                      "body: is not JSON at byte 6",
		`{"x":1.}`:                     "body: is not JSON at byte 7",
		`{"x":1e+}`:                    "body: is not JSON at byte 8",
		`{"x":[1,]}`:                   "body: is not JSON at byte 8",
		`{"x":[1}}`:                    "body: is not JSON at byte 7",
		`{"x":{"y":1]}`:                "body: is not JSON at byte 11",
		`{"x":{"y":1,2}}`:              "body: is not JSON at byte 12",
		`{"x":{y:1}}`:                  "body: is not JSON at byte 6",
		`{"filename":"a"` + rest + "x": "body: has data after its JSON at byte 47",

		"{\"filename\":\"a\",\"x\":\"\xff\"}": "body: is not UTF-8 at byte 21",
		"{\"filename\":\"a\",\"\xff\":1}":     "body: is not UTF-8 at byte 17",

		`{}`:                                                    "filename: is missing (member names are case-sensitive)",
		`{"FileName":"a"` + rest:                                "filename: is missing (member names are case-sensitive)",
		`{"filename2":"a"` + rest:                               "filename: is missing (member names are case-sensitive)",
		"{\"filename\xc3\xa4\":1" + rest:                        "filename: is missing (member names are case-sensitive)",
		`{"filename":""` + rest:                                 "filename: is empty",
		`{"filename":null` + rest:                               "filename: is null, not a string",
		`{"filename":1` + rest:                                  "filename: is a number, not a string",
		`{"filename":{}` + rest:                                 "filename: is an object, not a string",
		`{"filename":false` + rest:                              "filename: is a boolean, not a string",
		`{"filename":"../a"` + rest:                             "filename: has a path separator at byte 15",
		`{"filename":"..\/a"` + rest:                            "filename: has a path separator at byte 15",
		`{"filename":"\u002f"` + rest:                           "filename: has a path separator at byte 13",
		`{"filename":"a\\b"` + rest:                             "filename: has a path separator at byte 14",
		`{"filename":"a\nb"` + rest:                             "filename: has a control character at byte 14",
		"{\"filename\":\"a\nb\"" + rest:                         "filename: has an unescaped control character at byte 14",
		"{\"filename\":\"a\x7f\"" + rest:                        "filename: has a control character at byte 14",
		"{\"filename\":\"\u0085\"" + rest:                       "filename: has a control character at byte 13",
		"{\"filename\":\"M\xfcller\"" + rest:                    "filename: is not UTF-8 at byte 14",
		`{"filename":"\ud83d.pdf"` + rest:                       "filename: has half a surrogate pair at byte 13",
		`{"filename":"` + strings.Repeat("ä", 256) + `"` + rest: "filename: has more than 255 characters",
		`{"filename":"a","filename":"b"` + rest:                 "filename: is there twice",
		`{"filename":"a","file\u006eame":"a"` + rest:            "filename: is there twice",

		`{"filename":"a"}`:                                                  "base64Content: is missing (member names are case-sensitive)",
		`{"filename":"a","base64content":"A"}`:                              "base64Content: is missing (member names are case-sensitive)",
		`{"filename":"a","base64Content":""}`:                               "base64Content: is empty",
		`{"filename":"a","base64Content":[]}`:                               "base64Content: is an array, not a string",
		`{"filename":"a","base64Content":"="}`:                              "base64Content: has only padding",
		`{"filename":"a","base64Content":"AB==="}`:                          "base64Content: has more than 2 = at its end, at byte 37",
		`{"filename":"a","base64Content":"AB=C"}`:                           "base64Content: goes on after its padding (=) at byte 36",
		`{"filename":"a","base64Content":"AB=\n"}`:                          "base64Content: goes on after its padding (=) at byte 36",
		`{"filename":"a","base64Content":"AB C"}`:                           "base64Content: has white space (send it in one line) at byte 35",
		`{"filename":"a","base64Content":"A\r\nB"}`:                         "base64Content: has white space (send it in one line) at byte 34",
		"{\"filename\":\"a\",\"base64Content\":\"A\nB\"}":                   "base64Content: has an unescaped control character at byte 34",
		`{"filename":"a","base64Content":"AB-C"}`:                           "base64Content: is base64url, not standard base64, at byte 35",
		`{"filename":"a","base64Content":"AB\u005f"}`:                       "base64Content: is base64url, not standard base64, at byte 35",
		`{"filename":"a","base64Content":"data:application/pdf;base64,AA"}`: "base64Content: begins as a data: URL (send the base64 alone), at byte 37",
		`{"filename":"a","base64Content":"x:"}`:                             "base64Content: has a character outside the base64 alphabet at byte 34",
		`{"filename":"a","base64Content":"A\u0000"}`:                        "base64Content: has a character outside the base64 alphabet at byte 34",
		`{"filename":"a","base64Content":"ABCDEFGHIJKLMNOPä"}`:              "base64Content: has a character outside the base64 alphabet at byte 49",
		"{\"filename\":\"a\",\"base64Content\":\"A\xe4\"}":                  "base64Content: is not UTF-8 at byte 34",
		`{"filename":"a","base64Content":"A","base64Content":"A"}`:          "base64Content: is there twice",

		`{"filename":"a","object":{}}`: "object.bucket: is missing",
		`{"object":null}`:              "object: is null, not an object",
		`{"filename":"a","object":` + reference + `,"base64Content":"A"}`:                                          "object: a document has either object or base64Content, not both",
		`{"filename":"a","object":` + reference + `,"object":2}`:                                                   "object: is there twice",
		`{"filename":"a","object":` + strings.Replace(reference, "KEX_", "MY_", 1) + `}`:                           "object.bucket: is not KEX_DOCUMENTS",
		`{"filename":"a","object":` + strings.Replace(reference, "0b0e8", "0B0E8", 1) + `}`:                        "object.name: is not a UUID in lower case",
		`{"filename":"a","object":` + strings.Replace(reference, ":3,", ":0,", 1) + `}`:                            "object.size: is not a whole number from 1 to 1099511627776",
		`{"filename":"a","object":` + strings.Replace(reference, ":3,", ":\"3\",", 1) + `}`:                        "object.size: is a string, not a number",
		`{"filename":"a","object":` + strings.Replace(reference, "=\"}", "\"}", 1) + `}`:                           "object.digest: is not SHA-256= and 43 characters of base64url with one =",
		`{"filename":"a","object":` + reference + `,"x":"` + strings.Repeat("x", update.MaxReferenceLength) + `"}`: "body: has more than 16384 bytes beside its reference",
		`{"filename":"a","object":{"size":1` + rest:                                                                "object.bucket: is missing",
	}
	comments := map[string]string{
		"":                       "body: is empty",
		"{}":                     "body: is an object, not an array of strings",
		`"a"`:                    "body: is a string, not an array of strings",
		"[":                      "body: JSON ends early at byte 1",
		"[]":                     "comments: the array is empty",
		"[ ] x":                  "comments: the array is empty",
		`["a"`:                   "body: JSON ends early at byte 4",
		`["a`:                    "body: JSON ends early at byte 3",
		`["a",]`:                 "body: is not JSON at byte 5",
		`["a" "b"]`:              "body: is not JSON at byte 5",
		`["a"}`:                  "body: is not JSON at byte 4",
		`["a"]]`:                 "body: has data after its JSON at byte 5",
		`["a",null]`:             "comments[1]: is null, not a string",
		`["a","b",{"c":1}]`:      "comments[2]: is an object, not a string",
		`[["a"]]`:                "comments[0]: is an array, not a string",
		"[\"a\",\"R\xfcckruf\"]": "comments[1]: is not UTF-8 at byte 7",
		"[\"\xc0\xaf\"]":         "comments[0]: is not UTF-8 at byte 2",
		"[\"a\tb\"]":             "comments[0]: has an unescaped control character at byte 3",
		`["\ud83d"]`:             "comments[0]: has half a surrogate pair at byte 2",
		`["\'"]`:                 "body: is not JSON at byte 3",
	}
	for subject, cases := range map[string]map[string]string{documentSubject: document, commentsSubject: comments} {
		for body, want := range cases {
			_, err := decode(subject, body)
			if got := detailOf(t, err); got != want {
				t.Errorf("%s %.80q\n got %q\nwant %q", subject, body, got, want)
			}
		}
	}
}

func TestGarbageOfAnySizeIsRefused(t *testing.T) {
	t.Parallel()
	garbage := make([]byte, 1<<20)
	for i := range garbage {
		garbage[i] = byte(i*7 + i>>8)
	}
	for name, body := range map[string]string{
		"random bytes":       string(garbage),
		"opening brackets":   strings.Repeat("[", 1<<20),
		"objects in objects": strings.Repeat(`{"":`, 1<<18),
		"a member of them":   `{"x":` + strings.Repeat("[", 1<<20),
		"10,000 levels":      `{"filename":"a","base64Content":"A","x":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + "}",
		"65 levels":          `{"filename":"a","base64Content":"A","x":` + strings.Repeat(`[`, 64) + strings.Repeat("]", 64) + "}",
		"spaces":             strings.Repeat(" ", 1<<20),
		"a string":           `"` + strings.Repeat("a", 1<<20),
	} {
		for _, subject := range []string{documentSubject, commentsSubject} {
			if _, err := decode(subject, body); detailOf(t, err) == "" {
				t.Errorf("%s passed as %s", name, subject)
			}
		}
	}
	_, err := decode(documentSubject, `{"x":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+`}`)
	if got, want := detailOf(t, err), "body: nests deeper than 64 levels at byte 68"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Each canary stands where some error looks; none may come out in its text.
func TestDetailsNeverRepeatWhatWasPublished(t *testing.T) {
	t.Parallel()
	const canary = "KANARIENVOGEL"
	bodies := []string{
		canary, `"` + canary, `{"` + canary + `":` + canary + `}`, `{"` + canary + `":"\u` + canary + `"}`,
		`{"filename":"` + canary + `/` + canary + `"}`,
		`{"filename":"` + canary + `","base64Content":"` + canary + `-` + canary + `"}`,
		`{"filename":"` + canary + `","base64Content":"` + canary + `` + "\x00" + `"}`,
		`{"filename":"` + canary + `","base64Content":"` + canary + `"}` + canary,
		`{"filename":"` + canary + `","object":"` + canary + `"}`,
		`["` + canary + `",{"` + canary + `":"` + canary + `"}]`,
		`["` + canary + "\xff" + canary + `"]`,
		`["` + canary + `"` + canary + `]`,
	}
	subjects := []string{
		documentSubject, commentsSubject, canary, "kex.vorgang." + canary, "kex.vorgang.123." + canary,
		"kex.vorgang." + canary + ".*", "kex.vorgang." + canary + "ä.dokument", "kex.vorgang." + canary + ".a.b",
	}
	for _, subject := range subjects {
		for _, body := range bodies {
			u, err := decode(subject, body)
			if detail := detailOf(t, err); detail == "" || strings.Contains(err.Error()+detail+u.Note, canary) {
				t.Errorf("%s %q: got %q, want an error without the canary", subject, body, detail)
			}
		}
	}
}

func TestAnInvalidMessageStillHasAnIdentity(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 22, 14, 5, 6, 7, time.UTC)
	header := map[string][]string{
		"Nats-Msg-Id":          {"crm-4711"},
		"X-Traceid":            {"sys12345678"},
		"Nats-Expected-Stream": {"KEX_UPDATES"},
		"Kex-Update-Id":        {"forged"},
		"Kex-Replay-Of":        {"7"},
		"Kex-Replays":          {"3"},
	}
	for subject, want := range map[string]struct {
		vorgangsnummer string
		kind           update.Kind
	}{
		documentSubject:          {"123456", update.Document},
		"kex.vorgang.123456.txt": {"123456", update.Invalid},
		"kex.vorgang.*.dokument": {"~", update.Document},
		"kex.vorgang.1.2.3":      {"~", update.Invalid},
		"":                       {"~", update.Invalid},
	} {
		body := []byte("no JSON")
		u, err := update.Decode(update.Message{Subject: subject, Header: header, Body: body, Seq: 9, StoredAt: at}, makeTraceID)
		if detailOf(t, err) == "" {
			t.Errorf("%s: no error", subject)
		}
		if u.ID != "crm-4711" || u.TraceID != "sys12345678" || u.Seq != 9 || !u.StoredAt.Equal(at) || u.Replay != nil ||
			u.Subject != subject || u.Vorgangsnummer != want.vorgangsnummer || u.Kind != want.kind || string(u.Body) != string(body) ||
			len(u.Header) != len(header) {
			t.Errorf("%s: got %+v", subject, u)
		}
	}
}

// What a publisher's client adds for the server, or a publisher makes up, is not the API's business.
func TestForeignHeadersDoNotMakeAnUpdateInvalid(t *testing.T) {
	t.Parallel()
	header := map[string][]string{
		"Nats-Expected-Stream": {"KEX_UPDATES"},
		"Kex-Update-Id":        {"forged"},
		"kex-replays":          {"3"},
		"X-Big":                {strings.Repeat("x", 60_000)},
		"":                     nil,
	}
	for i := range 500 {
		header[fmt.Sprintf("X-Many-%d", i)] = []string{"\x00ä"}
	}
	u, err := update.Decode(update.Message{Subject: commentsSubject, Header: header, Body: []byte(`["a"]`), Seq: 17}, makeTraceID)
	if err != nil || u.ID != "KEX_UPDATES-17" || u.TraceID != madeTraceID || u.Replay != nil || u.Note != "" {
		t.Errorf("got %+v, %v", u, err)
	}
}

func TestAReplayHasTheOriginalsIdentity(t *testing.T) {
	t.Parallel()
	m := update.Message{
		Subject: commentsSubject,
		Header:  map[string][]string{"Nats-Msg-Id": {"replay-3-1"}, "X-TraceId": {"other"}, "Kex-Update-Id": {"other"}},
		Body:    []byte(`["a"]`),
		Seq:     17,
		Replay:  &update.Replay{DeadLetterSeq: 3, UpdateID: "crm-4711", TraceID: "sys1", Replays: 2},
	}
	u, err := update.Decode(m, makeTraceID)
	if err != nil || u.ID != "crm-4711" || u.TraceID != "sys1" || u.Replay != m.Replay || u.PublisherTraceID != "" {
		t.Errorf("got %+v, %v", u, err)
	}
	if got, want := u.RequestTraceID(2), "sys1-r2-2"; got != want {
		t.Errorf("got request %s, want %s", got, want)
	}
	m.Replay = &update.Replay{DeadLetterSeq: 3, Replays: 1} // A claim that lost its texts.
	u, err = update.Decode(m, makeTraceID)
	if err != nil || u.ID != "KEX_UPDATES-17" || u.TraceID != madeTraceID {
		t.Errorf("got %+v, %v", u, err)
	}
}

func TestAGeneratedIDBeginsWithTheStreamsName(t *testing.T) {
	t.Parallel()
	u, err := decode(commentsSubject, `["a"]`)
	if want := topology.StreamUpdates + "-17"; err != nil || u.ID != want {
		t.Errorf("got %s, %v, want %s", u.ID, err, want)
	}
}
