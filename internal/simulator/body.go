package simulator

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strings"
	"sync"
	"unicode/utf8"
)

// maxPooledBody is the largest buffer kept for the next request.
const maxPooledBody = 16 << 20

// bodyPool saves a fresh buffer per request: at 20,000 requests a second the garbage would cost more than the work.
type bodyPool struct{ pool sync.Pool }

func (p *bodyPool) take() *bytes.Buffer {
	if b, ok := p.pool.Get().(*bytes.Buffer); ok {
		b.Reset()
		return b
	}
	return &bytes.Buffer{}
}

func (p *bodyPool) give(b *bytes.Buffer) {
	if b.Cap() <= maxPooledBody {
		p.pool.Put(b)
	}
}

// readBody reads the request's body into the buffer. The answer is for a body that is too large.
func readBody(w http.ResponseWriter, r *http.Request, limit int64, into *bytes.Buffer) (*Answer, error) {
	if n := r.ContentLength; n > 0 && n <= limit {
		into.Grow(int(n) + bytes.MinRead) // ReadFrom wants room to see the end.
	}
	_, err := into.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return tooLargeAnswer(), nil
	}
	return nil, err
}

func tooLargeAnswer() *Answer {
	return &Answer{Status: http.StatusRequestEntityTooLarge, message: "Die Anfrage ist zu groß"}
}

// checkBody is the API's own check: nil for a body that can be booked, else the answer.
func checkBody(kind, contentType string, body []byte) *Answer {
	mediaType, params, err := mime.ParseMediaType(contentType)
	if err != nil || mediaType != "application/json" || !isUTF8(params["charset"]) {
		return &Answer{Status: http.StatusUnsupportedMediaType, message: "Content-Type muss application/json sein"}
	}
	if kind == KindComments {
		return checkComments(body)
	}
	if scanDocument(body) {
		return nil
	}
	return checkDocument(body)
}

func isUTF8(charset string) bool { return charset == "" || strings.EqualFold(charset, "utf-8") }

// malformed is the answer to a body that cannot be booked. Like many real servers it quotes what it did not like.
func malformed(message string, body []byte) *Answer {
	const quoted = 200
	excerpt := string(body[:min(len(body), quoted)])
	return &Answer{Status: http.StatusBadRequest, message: message + ": " + strings.ToValidUTF8(excerpt, "\uFFFD")}
}

func checkComments(body []byte) *Answer {
	if !utf8.Valid(body) {
		return malformed("Die Anfrage ist nicht UTF-8", body)
	}
	var comments []*string
	if err := json.Unmarshal(body, &comments); err != nil {
		return malformed("Liste von Kommentaren erwartet", body)
	}
	if len(comments) == 0 {
		return malformed("Kein Kommentar angegeben", body)
	}
	for _, comment := range comments {
		if comment == nil {
			return malformed("Kommentar darf nicht null sein", body)
		}
	}
	return nil
}

// checkDocument is the thorough, slow check. encoding/json matches struct fields in any case, the API does not.
func checkDocument(body []byte) *Answer {
	if !utf8.Valid(body) {
		return malformed("Die Anfrage ist nicht UTF-8", body)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil || members == nil {
		return malformed("JSON-Objekt erwartet", body)
	}
	for _, name := range []string{"filename", "base64Content"} {
		var value *string
		if raw, ok := members[name]; ok {
			if err := json.Unmarshal(raw, &value); err != nil {
				return malformed("Ungültiger Wert für "+name, raw)
			}
		}
		if value == nil || *value == "" {
			return malformed("Pflichtfeld "+name+" fehlt", body)
		}
		if name == "base64Content" && !isBase64([]byte(*value)) {
			return malformed("Kein Base64 in "+name, []byte(*value))
		}
	}
	return nil
}

// isBase64 checks the alphabet and that = only stands at the end. Length and padding are of no interest: the API's
// own documented example has 21 characters without padding.
func isBase64(text []byte) bool {
	text = bytes.TrimRight(text, "=")
	for _, c := range text {
		switch {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '+', c == '/':
		default:
			return false
		}
	}
	return len(text) > 0
}

// scanDocument reports true for a document that is certainly well-formed. It knows only an object of exactly the
// two members without escapes, which is what nearly all clients send; false means nothing, checkDocument decides. For
// a document of 5 MB it takes a few milliseconds, a tenth of encoding/json.
func scanDocument(body []byte) bool {
	firstName, filename, rest, ok := plainMember(body, '{')
	if !ok {
		return false
	}
	secondName, content, rest, ok := plainMember(rest, ',')
	if !ok {
		return false
	}
	rest, ok = after(rest, '}')
	if !ok || len(bytes.TrimLeft(rest, white)) != 0 {
		return false
	}
	if string(firstName) == "base64Content" {
		firstName, secondName, filename, content = secondName, firstName, content, filename
	}
	return string(firstName) == "filename" && string(secondName) == "base64Content" && isPlainText(filename) && isBase64(content)
}

// white is what JSON calls white space.
const white = " \t\r\n"

// isPlainText reports whether text is filled and good inside a JSON string as it stands, without an escape.
func isPlainText(text []byte) bool {
	for _, c := range text {
		if c < ' ' || c == '\\' {
			return false
		}
	}
	return len(text) > 0 && utf8.Valid(text)
}

// plainMember takes a member with a string value off the beginning, with the character before it.
func plainMember(text []byte, before byte) (name, value, rest []byte, ok bool) {
	if rest, ok = after(text, before); !ok {
		return nil, nil, nil, false
	}
	if name, rest, ok = plainString(rest); !ok {
		return nil, nil, nil, false
	}
	if rest, ok = after(rest, ':'); !ok {
		return nil, nil, nil, false
	}
	value, rest, ok = plainString(rest)
	return name, value, rest, ok
}

// after skips white space and one character that must follow.
func after(text []byte, c byte) ([]byte, bool) {
	text = bytes.TrimLeft(text, white)
	if len(text) == 0 || text[0] != c {
		return nil, false
	}
	return text[1:], true
}

// plainString takes a JSON string off the beginning. It ends at the first quote: the caller refuses a backslash in
// it, so an escaped quote cannot pass.
func plainString(text []byte) (value, rest []byte, ok bool) {
	text, ok = after(text, '"')
	if !ok {
		return nil, nil, false
	}
	end := bytes.IndexByte(text, '"')
	if end < 0 {
		return nil, nil, false
	}
	return text[:end], text[end+1:], true
}

// digest is the SHA-256 of a body.
func digest(body []byte) [sha256.Size]byte { return sha256.Sum256(body) }
