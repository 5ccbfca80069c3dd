package update_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"kexrelay/internal/update"
	"kexrelay/schemas"
)

// nasty are seeds beyond the examples: what the scanner's own shape could get wrong.
var nasty = []string{
	// Runs that end at, before and after the eight bytes of a round.
	`{"filename":"a","base64Content":"ABCDEFG="}`, `{"filename":"a","base64Content":"ABCDEFGH="}`, `{"filename":"a","base64Content":"ABCDEFGH-"}`,
	// Escapes of the alphabet, of the padding, of quotes and of nothing.
	`{"filename":"a","base64Content":"\u0041\u002f\/\u002B\u003D"}`, `{"filename":"a","base64Content":"A\u003d\u0041"}`,
	`{"filename":"a","base64Content":"\u0022"}`, `{"filename":"a","base64Content":"A\u000a"}`, `{"filename":"\"","base64Content":"A"}`,
	// Names that are nearly known, or known by escapes only.
	`{"base64ContentX":"A","filename":"a","base64Content":"A"}`, `{"\u006f\u0062\u006aect":{},"filename":"a","base64Content":"A"}`,
	`{"filename\u0000":"","filename":"a","base64Content":"A"}`, "{\"filename\xc4\x80\":\"\",\"filename\":\"a\",\"base64Content\":\"A\"}",
	// Unknown members twice, numbers of every form, every literal, empty brackets.
	`{"a":1,"a":2,"filename":"a","base64Content":"A"}`,
	`{"a":[0,-0,0.0,1e0,1E+1,-1.5e-99,1e999999,[],{},[[]],[{}],{"a":{}},true,false,null,""],"filename":"a","base64Content":"A"}`,
	`{"a":00,"filename":"a","base64Content":"A"}`, `{"a":+1,"filename":"a","base64Content":"A"}`, `{"a":.5,"filename":"a","base64Content":"A"}`,
	`{"a":NaN,"filename":"a","base64Content":"A"}`, `{"a":[}],"filename":"a","base64Content":"A"}`, `{"a":{]},"filename":"a","base64Content":"A"}`,
	`{"a":{"b":1,},"filename":"a","base64Content":"A"}`, `{,"filename":"a","base64Content":"A"}`, `{"filename":"a",,"base64Content":"A"}`,
	"{\"filename\":\"a\",\"base64Content\":\"A\"}\x00", "{\"filename\":\"a\",\v\"base64Content\":\"A\"}", "\u00a0{\"filename\":\"a\",\"base64Content\":\"A\"}",
	// Surrogates in every order; characters beside the forbidden ones.
	`{"filename":"\ud83d\ude00","base64Content":"A"}`, `{"filename":"\ude00\ud83d","base64Content":"A"}`, `{"filename":"\ud83d\ud83d\ude00","base64Content":"A"}`,
	`{"filename":"\ud83d\\ude00","base64Content":"A"}`, `{"filename":"\uFFFD\ufffe\uffff","base64Content":"A"}`, "{\"filename\":\"\u2028\u00a0\u202e\",\"base64Content\":\"A\"}",
	"{\"filename\":\"\xf4\x90\x80\x80\",\"base64Content\":\"A\"}", "{\"filename\":\"\xf0\x9f\x93\",\"base64Content\":\"A\"}",
	`{"filename":"` + strings.Repeat(`\u00e4`, 255) + `","base64Content":"A"}`, `{"filename":"` + strings.Repeat(`\ud83d\ude00`, 256) + `","base64Content":"A"}`,
	`["\ud83d\ude00"]`, `["\ud83d","\ude00"]`, `["a"],`, `["a"]]`, `[,"a"]`, `["a",,"b"]`, `["a";"b"]`, "[\"\x7f\u0080\ufffd\"]", "\t\r\n [\"a\"] \t\r\n", `["a\`, `["a\u`, `["a\u12`,
}

// FuzzDecodeDocument: the decoder accepts exactly what the schema accepts, together with the rules a schema cannot
// say (package schemas checks them in its own slow way, on encoding/json).
func FuzzDecodeDocument(f *testing.F) {
	fuzzAgainstSchema(f, documentSubject, schemas.Document, schemas.DocumentReference)
}

// reference is a right one, of three bytes.
const reference = `{"bucket":"KEX_DOCUMENTS","name":"0b0e8f1c-6a55-4a52-9f0e-3f1d2c7b8a90","size":3,"digest":"SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU="}`

// FuzzDecodeReference is FuzzDecodeDocument for what stands inside the member object.
func FuzzDecodeReference(f *testing.F) {
	f.Add([]byte(reference))
	for _, size := range []string{"1e3", "1E+3", "100e-2", "100e-3", "3.0", "3.1", "-3", "0", "1e99", "1e-99", "1e999999999", "1e-999999999", "03", "9223372036854775808", "1099511627776", "1099511627777"} {
		f.Add([]byte(strings.Replace(reference, ":3,", ":"+size+",", 1)))
	}
	f.Add([]byte(strings.Replace(reference, "bucket", `b\u0075cket`, 1)))
	f.Add([]byte(strings.Replace(reference, "{", `{"buckets":1,"buckets":2,"x":{"size":0},`, 1)))
	f.Add([]byte(strings.Replace(reference, "{", `{"size":3,`, 1)))
	f.Fuzz(func(t *testing.T, object []byte) {
		if len(object) > update.MaxReferenceLength-100 {
			return
		}
		compare(t, documentSubject, schemas.DocumentReference, []byte(`{"filename":"a","object":`+string(object)+`}`))
	})
}

// FuzzDecodeComments is FuzzDecodeDocument for comments.
func FuzzDecodeComments(f *testing.F) {
	fuzzAgainstSchema(f, commentsSubject, schemas.Comments)
}

// fuzzAgainstSchema seeds with the examples of all names and compares with the first one's schema.
func fuzzAgainstSchema(f *testing.F, subject string, names ...schemas.Name) {
	f.Helper()
	for _, name := range names {
		for _, body := range examples(f, name) {
			f.Add([]byte(body))
		}
	}
	for _, body := range nasty {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) { compare(t, subject, names[0], body) })
}

// compare decodes a body and holds the answer against the schema's.
func compare(t *testing.T, subject string, name schemas.Name, body []byte) {
	t.Helper()
	before := bytes.Clone(body)
	u, err := update.Decode(update.Message{Subject: subject, Body: body, Seq: 17}, makeTraceID)
	if !bytes.Equal(body, before) || len(u.Body) != len(body) || (len(body) > 0 && &u.Body[0] != &body[0]) {
		t.Fatal("the body was copied or changed")
	}
	for _, c := range []byte(detailOf(t, err)) {
		if c < ' ' || c > '~' {
			t.Errorf("detail %q is not printable ASCII", err)
			break
		}
	}
	bySchema := schemas.Validate(name, body)
	if u.Object != nil { // A document in its other form.
		bySchema = schemas.Validate(schemas.DocumentReference, body)
	}
	if (err == nil) != (bySchema == nil) {
		t.Fatalf("%q\ndecoder: %v\n schema: %v", body, err, bySchema)
	}
	if err == nil && !json.Valid(body) {
		t.Fatalf("%q is accepted, but no JSON", body)
	}
}

// The fuzz tests find rare combinations; these are all of the common ones.
func TestEveryByteAtEveryPlaceAgreesWithTheSchema(t *testing.T) {
	t.Parallel()
	const filler = "ABCDEFGHIJKLMNOPQR"
	for c := range 256 {
		for at := range len(filler) {
			odd := filler[:at] + string([]byte{byte(c)}) + filler[at:]
			compare(t, documentSubject, schemas.Document, []byte(`{"filename":"a","base64Content":"`+odd+`"}`))
			if at%6 == 0 {
				compare(t, documentSubject, schemas.Document, []byte(`{"base64Content":"A","filename":"`+odd+`"}`))
				compare(t, documentSubject, schemas.Document, []byte(`{"filename":"a","base64Content":"A","`+odd+`":"`+odd+`"}`))
				compare(t, commentsSubject, schemas.Comments, []byte(`["`+odd+`"]`))
			}
		}
		for _, body := range []string{"%s", "{%s", `{"a"%s`, `{"a":%s`, `{"a":0%s`, `{"a":1%s2`, `{"filename":"a","base64Content":"A"%s`, `{"filename":"a","base64Content":"A","x":[1%s2]}`, `["a"%s]`, `["\%s"]`} {
			text := []byte(fmt.Sprintf(body, string([]byte{byte(c)})))
			compare(t, documentSubject, schemas.Document, text)
			compare(t, commentsSubject, schemas.Comments, text)
		}
	}
}

func TestEveryEscapeAgreesWithTheSchema(t *testing.T) {
	t.Parallel()
	units := []int{0x2027, 0x2028, 0x2029, 0xd7ff, 0xd800, 0xd801, 0xdbff, 0xdc00, 0xdfff, 0xe000, 0xfeff, 0xfffd, 0xfffe, 0xffff}
	for unit := range 0x180 {
		units = append(units, unit)
	}
	for _, unit := range units {
		for _, escape := range []string{fmt.Sprintf(`\u%04x`, unit), fmt.Sprintf(`\u%04X`, unit), fmt.Sprintf(`\ud83d\u%04x`, unit), fmt.Sprintf(`\u%04x\ude00`, unit)} {
			compare(t, documentSubject, schemas.Document, []byte(`{"filename":"a`+escape+`","base64Content":"A"}`))
			compare(t, documentSubject, schemas.Document, []byte(`{"filename":"a","base64Content":"A`+escape+`"}`))
			compare(t, documentSubject, schemas.Document, []byte(`{"filename":"a","base64Content":"`+escape+`A"}`))
			compare(t, documentSubject, schemas.Document, []byte(`{"filename":"a","base64Content":"A","`+escape+`":"`+escape+`"}`))
			compare(t, commentsSubject, schemas.Comments, []byte(`["`+escape+`"]`))
		}
	}
}
