package schemas_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
	"kexrelay/schemas"
)

func TestEveryExampleIsWhatItsPlaceSays(t *testing.T) {
	t.Parallel()
	for _, name := range schemas.Names() {
		for _, place := range []string{"valid", "invalid"} {
			examples := readExamples(t, name, place)
			if len(examples) == 0 {
				t.Errorf("schema %s has no %s examples", name, place)
			}
			for file, text := range examples {
				err := schemas.Validate(name, text)
				if place == "valid" && err != nil {
					t.Errorf("%s: %v", file, err)
				}
				if _, ok := errors.AsType[*schemas.Error](err); place == "invalid" && !ok {
					t.Errorf("%s: got error %v, want a *schemas.Error", file, err)
				}
			}
		}
	}
}

func readExamples(t *testing.T, name schemas.Name, place string) map[string][]byte {
	t.Helper()
	files, err := fs.Glob(schemas.FS, path.Join("examples", string(name), place, "*"))
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string][]byte{}
	for _, file := range files {
		if texts[file], err = schemas.FS.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	return texts
}

// Git, editors and tools like to repair such bytes: then the examples would test nothing.
func TestOddExamplesKeepTheirOddBytes(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]string{
		"document/valid/white-space.json":       "\r\n",
		"document/invalid/byte-order-mark.json": "\xef\xbb\xbf{",
		"document/invalid/latin-1.json":         "M\xfcller",
		"document/invalid/utf-16.json":          "{\x00",
		"comments/invalid/overlong-utf-8.json":  "\xc0\xaf",
	} {
		text, err := schemas.FS.ReadFile("examples/" + file)
		if err != nil {
			t.Error(err)
		}
		if !strings.Contains(string(text), want) {
			t.Errorf("%s does not hold %q any more", file, want)
		}
	}
}

// schemaFile is a schema as it is written.
type schemaFile struct {
	Schema     string                     `json:"$schema"`
	ID         string                     `json:"$id"`
	Title      string                     `json:"title"`
	Examples   []json.RawMessage          `json:"examples"`
	Properties map[string]json.RawMessage `json:"properties"`
	Defs       map[string]schemaFile      `json:"$defs"`
}

func readSchema(t *testing.T, name schemas.Name) schemaFile {
	t.Helper()
	text, err := schemas.FS.ReadFile(name.File())
	if err != nil {
		t.Fatal(err)
	}
	var s schemaFile
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return s
}

func TestEverySchemaFileHasAName(t *testing.T) {
	t.Parallel()
	files, err := fs.Glob(schemas.FS, "*.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, name := range schemas.Names() {
		want = append(want, name.File())
		s := readSchema(t, name)
		if s.ID != name.ID() || s.Schema != "https://json-schema.org/draft/2020-12/schema" || s.Title == "" {
			t.Errorf("%s: got $id %q, $schema %q, title %q", name, s.ID, s.Schema, s.Title)
		}
		for i, example := range s.Examples {
			if err := schemas.Validate(name, example); err != nil {
				t.Errorf("example %d in %s: %v", i, name, err)
			}
		}
	}
	if slices.Sort(want); !slices.Equal(files, want) {
		t.Errorf("got files %v, want %v", files, want)
	}
	if got := readSchema(t, schemas.Result).Defs["data"].ID; got != schemas.ResultDataID {
		t.Errorf("got $id %q of a result's data, want %q", got, schemas.ResultDataID)
	}
}

func TestBothDocumentsHaveTheSameFilenameRule(t *testing.T) {
	t.Parallel()
	a := readSchema(t, schemas.Document).Properties["filename"]
	b := readSchema(t, schemas.DocumentReference).Properties["filename"]
	if string(a) != string(b) || len(a) == 0 {
		t.Errorf("got %s\nand %s", a, b)
	}
}

func TestClosedSetsAreTheCodes(t *testing.T) {
	t.Parallel()
	enum := func(raw json.RawMessage) []string {
		var s struct {
			Enum []string `json:"enum"`
		}
		if err := json.Unmarshal(raw, &s); err != nil {
			t.Fatal(err)
		}
		return s.Enum
	}
	data := readSchema(t, schemas.Result).Defs["data"].Properties
	reasons := words(fault.DeadLetterReasons())
	outcomes := words(update.Outcomes())
	kinds := append(words(update.Kinds()), string(update.Invalid))
	types := make([]string, 0, len(outcomes))
	for _, outcome := range outcomes {
		types = append(types, "kexrelay.update."+outcome+".v1")
	}
	for what, c := range map[string]struct{ got, want []string }{
		"reasons of results":      {enum(data["reason"]), reasons},
		"reasons of dead letters": {enum(readSchema(t, schemas.DeadLetterHeaders).Properties["Kex-Reason"]), reasons},
		"outcomes":                {enum(data["outcome"]), outcomes},
		"kinds":                   {enum(data["kind"]), kinds},
		"types":                   {enum(readSchema(t, schemas.Result).Properties["type"]), types},
	} {
		if !sameSet(c.got, c.want) {
			t.Errorf("%s: got %v, want %v", what, c.got, c.want)
		}
	}
	if schemas.MaxDepth != update.MaxDepth {
		t.Errorf("got MaxDepth %d, the decoder's is %d", schemas.MaxDepth, update.MaxDepth)
	}
}

func words[T ~string](values []T) []string {
	texts := make([]string, 0, len(values))
	for _, value := range values {
		texts = append(texts, string(value))
	}
	return texts
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	const filenameRule = "filename: does not follow its rule: filled, at most 255 characters, no control characters, no / and no \\"
	for text, want := range map[string]string{
		``:                                       "document: JSON ends early at byte 0",
		`{"a":1`:                                 "document: JSON ends early at byte 6",
		`{"a`:                                    "document: JSON ends early at byte 3",
		`{"a":}`:                                 "document: is not JSON at byte 5",
		`{a:1}`:                                  "document: is not JSON at byte 1",
		`{1:1}`:                                  "document: is not JSON at byte 1",
		`hallo`:                                  "document: is not JSON at byte 0",
		`{} {}`:                                  "document: has data after its JSON at byte 3",
		"{\"\xff\":1}":                           "document: is not UTF-8 at byte 2",
		`[]`:                                     "document: is an array, not an object",
		`{}`:                                     "document: base64Content: is missing (member names are case-sensitive); filename: is missing (member names are case-sensitive)",
		`{"filename":null,"base64Content":7}`:    "document: base64Content: is a number, not a string; filename: is null, not a string",
		`{"filename":"","base64Content":""}`:     "document: base64Content: is empty; filename: is empty",
		`{"filename":"a/b","base64Content":"A"}`: "document: " + filenameRule,
		`{"filename":"` + strings.Repeat("a", 256) + `","base64Content":"A"}`:       "document: filename: has more than 255 characters",
		`{"filename":"a","filename":"b"}`:                                           "document: filename: is there twice",
		`{"x":"\ud800"}`:                                                            "document: has half a surrogate pair at byte 6",
		`{"x":"\n\u0041\\ud800","y":"\ud83d\ude00\ude00"}`:                          "document: has half a surrogate pair at byte 40",
		`{"x":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`:           "document: nests deeper than 64 levels at byte 68",
		`{"filename":"a","base64Content":"A","object":{}}`:                          "document: object: does not follow its rule: a document has either object or base64Content; documents by reference have a schema of their own",
		strings.Repeat("[", 1_000_000):                                              "document: nests deeper than 64 levels at byte 64",
		`{"filename":"a","base64Content":"A","x":` + strings.Repeat("9", 400) + `}`: "",
	} {
		if got := errorText(schemas.Validate(schemas.Document, []byte(text))); got != want {
			t.Errorf("%.80s\n got %q\nwant %q", text, got, want)
		}
	}
	for text, want := range map[string]string{
		`[]`:      "comments: is empty",
		`["a",2]`: "comments: [1]: is a number, not a string",
	} {
		if got := errorText(schemas.Validate(schemas.Comments, []byte(text))); got != want {
			t.Errorf("%s\n got %q\nwant %q", text, got, want)
		}
	}
	reference := `{"filename":"a","object":{"bucket":"x","name":"x","size":0,"digest":"x"}}`
	want := "document-reference: object.bucket: is not KEX_DOCUMENTS; " +
		"object.digest: does not follow its rule: SHA-256= and the digest in base64url with padding, as the object store writes it; " +
		"object.name: does not follow its rule: a random UUID in lower case, unique per publish, never derived from the content; " +
		"object.size: is less than 1"
	if got := errorText(schemas.Validate(schemas.DocumentReference, []byte(reference))); got != want {
		t.Errorf("%s\n got %q\nwant %q", reference, got, want)
	}
	headers := `{"Kex-Reason":"x","Kex-Update-At":"x","Kex-Body-Size":"1"}`
	for _, part := range []string{
		"Kex-Reason: is none of bad_request gone ",
		"Kex-Update-At: is not a date-time",
		"Kex-Body-Object: is missing beside Kex-Body-Size",
		"Kex-Update-Seq: is missing",
	} {
		if got := errorText(schemas.Validate(schemas.DeadLetterHeaders, []byte(headers))); !strings.Contains(got, part) {
			t.Errorf("got %q without %q", got, part)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestErrorsNeverQuoteTheText(t *testing.T) {
	t.Parallel()
	const canary = "KANARIENVOGEL"
	for _, name := range schemas.Names() {
		for _, text := range []string{
			canary, `"` + canary + `"`, `{"` + canary + `":` + canary, `["` + canary + `",7,{"` + canary + `":null}]`,
			`{"filename":"` + canary + `/","base64Content":"` + canary + `-","object":"` + canary + `"}`,
			`{"filename":"` + canary + `","object":{"bucket":"` + canary + `","name":"` + canary + `","size":"` + canary + `","digest":"` + canary + `"}}`,
			`{"specversion":"` + canary + `","id":"","type":"` + canary + `","time":"` + canary + `","source":"%` + canary + `","dataschema":"` + canary + `","data":{"outcome":"` + canary + `","traceId":"ä` + canary + `"}}`,
			`{"Kex-Reason":"` + canary + `","Kex-Update-At":"` + canary + `","Kex-Status":"` + canary + `"}`,
		} {
			if err := schemas.Validate(name, []byte(text)); err == nil || strings.Contains(err.Error(), canary) {
				t.Errorf("%s of %s: got %v, want an error without the canary", name, text, err)
			}
		}
	}
}

func TestAnUnknownSchemaIsNotAnInvalidText(t *testing.T) {
	t.Parallel()
	err := schemas.Validate("no-such-schema", []byte(`{}`))
	if _, ok := errors.AsType[*schemas.Error](err); err == nil || ok {
		t.Errorf("got %v, want an error that is no *schemas.Error", err)
	}
}
