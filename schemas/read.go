package schemas

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// MaxDepth is how deep JSON may nest, its outermost object or array counted as the first level.
const MaxDepth = 64

// reader reads a JSON text into the values that the validator takes, and checks on the way what the validator
// can no longer see in them.
type reader struct {
	tokens *json.Decoder
	data   []byte
}

// problem is what read found wrong, as an error so that it can travel up the recursion.
type problem string

func (p problem) Error() string { return string(p) }

// read gives the value of a text, or says what is wrong with it.
func read(data []byte, sch *jsonschema.Schema) (value any, wrong string) {
	if at := invalidUTF8(data); at >= 0 {
		return nil, fmt.Sprintf("is not UTF-8 at byte %d", at)
	}
	r := reader{tokens: json.NewDecoder(bytes.NewReader(data)), data: data}
	r.tokens.UseNumber()
	value, err := r.value(sch, 1)
	if err != nil {
		return nil, err.Error()
	}
	if rest := bytes.TrimLeft(data[r.tokens.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return nil, fmt.Sprintf("has data after its JSON at byte %d", len(data)-len(rest))
	}
	if at := halfSurrogate(data); at >= 0 {
		return nil, fmt.Sprintf("has half a surrogate pair at byte %d", at)
	}
	return value, ""
}

// value reads the next value, whose schema is sch (nil: the schema says nothing about it), at the given level.
func (r *reader) value(sch *jsonschema.Schema, level int) (any, error) {
	token, err := r.token()
	if err != nil {
		return nil, err
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return token, nil
	}
	if level > MaxDepth {
		return nil, problem(fmt.Sprintf("nests deeper than %d levels at byte %d", MaxDepth, r.tokens.InputOffset()-1))
	}
	if delim == '{' {
		return r.object(sch, level)
	}
	return r.array(sch, level)
}

func (r *reader) object(sch *jsonschema.Schema, level int) (any, error) {
	object := map[string]any{}
	for r.tokens.More() {
		token, err := r.token()
		if err != nil {
			return nil, err
		}
		name, ok := token.(string)
		if !ok {
			return nil, r.syntaxError()
		}
		member := property(sch, name)
		if _, twice := object[name]; twice && member != nil {
			return nil, problem(name + ": is there twice")
		}
		if object[name], err = r.value(member, level+1); err != nil {
			return nil, err
		}
	}
	_, err := r.token()
	return object, err
}

func (r *reader) array(sch *jsonschema.Schema, level int) (any, error) {
	array := []any{}
	for r.tokens.More() {
		element, err := r.value(items(sch), level+1)
		if err != nil {
			return nil, err
		}
		array = append(array, element)
	}
	_, err := r.token()
	return array, err
}

// token is the decoder's next one, with errors that do not quote the text.
func (r *reader) token() (json.Token, error) {
	token, err := r.tokens.Token()
	if err == nil {
		return token, nil
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, problem("JSON ends early at byte " + strconv.Itoa(len(r.data)))
	}
	return nil, r.syntaxError()
}

// syntaxError says where the text stops being JSON. The decoder's own offsets count differently from token to token.
func (r *reader) syntaxError() error {
	bad, ok := errors.AsType[*json.SyntaxError](json.Unmarshal(r.data, new(json.RawMessage)))
	if !ok {
		return problem("is not JSON")
	}
	return problem("is not JSON at byte " + strconv.FormatInt(max(0, bad.Offset-1), 10))
}

// property is the schema of a member, nil if sch does not name it.
func property(sch *jsonschema.Schema, name string) *jsonschema.Schema {
	if sch = target(sch); sch == nil {
		return nil
	}
	return sch.Properties[name]
}

// items is the schema of an array's elements, nil if sch says nothing about them.
func items(sch *jsonschema.Schema) *jsonschema.Schema {
	if sch = target(sch); sch == nil {
		return nil
	}
	return sch.Items2020
}

// target follows references.
func target(sch *jsonschema.Schema) *jsonschema.Schema {
	for sch != nil && sch.Ref != nil {
		sch = sch.Ref
	}
	return sch
}

// invalidUTF8 is the offset of the first byte that is not UTF-8, -1 if all are.
func invalidUTF8(data []byte) int {
	if utf8.Valid(data) {
		return -1
	}
	at := 0
	for {
		r, size := utf8.DecodeRune(data[at:])
		if r == utf8.RuneError && size == 1 {
			return at
		}
		at += size
	}
}

// halfSurrogate is the offset of the first escaped surrogate without its other half, -1 if there is none. The text
// is known to be JSON: a backslash stands only in strings, and \u has its four digits.
func halfSurrogate(data []byte) int {
	for at := 0; ; {
		next := bytes.IndexByte(data[at:], '\\')
		if next < 0 {
			return -1
		}
		at += next
		first, ok := escapedUnit(data[at:])
		switch {
		case !ok:
			at += len(`\n`)
		case !utf16.IsSurrogate(first):
			at += len(`\u0000`)
		default:
			second, _ := escapedUnit(data[at+len(`\u0000`):])
			if utf16.DecodeRune(first, second) == utf8.RuneError {
				return at
			}
			at += len(`\u0000\u0000`)
		}
	}
}

// escapedUnit is the UTF-16 unit that data's first six bytes escape.
func escapedUnit(data []byte) (rune, bool) {
	if !bytes.HasPrefix(data, []byte(`\u`)) {
		return 0, false
	}
	unit, err := strconv.ParseUint(string(data[2:6]), 16, 16)
	return rune(unit), err == nil
}
