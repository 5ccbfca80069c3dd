package update

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth is how deep a body's JSON may nest, the body's own object or array counted as the first level. No
// member the API knows needs more than one; unknown members pass, but something has to bound them: 64 levels fit
// into one word, and are what common parsers allow by default.
const MaxDepth = 64

// scanner reads a body once, from front to end, in place: JSON's grammar (RFC 8259) is checked together with the
// members' own rules, nothing is copied or decoded into memory.
//
// Stricter than the grammar, because no receiver can read it in one way only: every string is UTF-8, an escaped
// surrogate without its other half is refused wherever it stands (it is no character and cannot be written as
// UTF-8), and nesting ends at MaxDepth.
type scanner struct {
	body []byte
	pos  int
	// field names what is being read in error texts; index is its place in an array, -1 outside of one.
	field string
	index int
}

// The fields that error texts name. Names of unknown members are content and never told.
const (
	fieldBody     = "body"
	fieldComments = "comments"
	fieldFilename = "filename"
	fieldContent  = "base64Content"
	fieldObject   = "object"
)

// endOfString is what char gives for the closing quote.
const endOfString rune = -1

// fail is the error for a problem with the field being read.
func (s *scanner) fail(problem string) error {
	if s.index >= 0 {
		return invalid(fmt.Sprintf("%s[%d]: %s", s.field, s.index, problem))
	}
	return invalid(s.field + ": " + problem)
}

// failAt is fail with the problem's place.
func (s *scanner) failAt(problem string, at int) error {
	return s.fail(fmt.Sprintf("%s at byte %d", problem, at))
}

// unexpected is the error for a byte that JSON does not allow here, or for none where one is needed.
func (s *scanner) unexpected() error {
	if s.pos >= len(s.body) {
		return invalid(fmt.Sprintf("body: JSON ends early at byte %d", len(s.body)))
	}
	return invalid(fmt.Sprintf("body: is not JSON at byte %d", s.pos))
}

// peek skips white space and gives the byte after it, 0 at the end: no JSON has a byte 0 between its tokens.
func (s *scanner) peek() byte {
	for ; s.pos < len(s.body); s.pos++ {
		switch c := s.body[s.pos]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

// open reads the bracket that begins the body; want is what begins with it, for the error text.
func (s *scanner) open(bracket byte, want string) error {
	if len(s.body) == 0 {
		return s.fail("is empty")
	}
	if s.peek() == bracket {
		s.pos++
		return nil
	}
	if slices.ContainsFunc([]string{"\xef\xbb\xbf", "\xff\xfe", "\xfe\xff"}, s.at) {
		return s.fail("begins with a byte order mark: send UTF-8 without one")
	}
	return s.wrongType(want)
}

// more reads what follows an element: a comma (there is more) or the closing bracket.
func (s *scanner) more(closing byte) (bool, error) {
	switch c := s.peek(); c {
	case ',':
		s.pos++
		return true, nil
	case closing:
		s.pos++
		return false, nil
	}
	return false, s.unexpected()
}

// end makes sure that nothing follows the body's value.
func (s *scanner) end() error {
	if s.peek(); s.pos < len(s.body) {
		return invalid(fmt.Sprintf("body: has data after its JSON at byte %d", s.pos))
	}
	return nil
}

// wantString makes sure that a string begins here, and skips its quote.
func (s *scanner) wantString() error {
	if s.peek() != '"' {
		return s.wrongType("a string")
	}
	s.pos++
	return nil
}

// wrongType is the error for a value of another type than wanted.
func (s *scanner) wrongType(want string) error {
	var got string
	switch c := s.peek(); {
	case c == '{':
		got = "an object"
	case c == '[':
		got = "an array"
	case c == '"':
		got = "a string"
	case c == '-' || isDigit(c):
		got = "a number"
	case s.at("true") || s.at("false"):
		got = "a boolean"
	case s.at("null"):
		got = "null"
	default:
		return s.unexpected()
	}
	return s.fail("is " + got + ", not " + want)
}

func (s *scanner) at(word string) bool {
	return bytes.HasPrefix(s.body[s.pos:], []byte(word))
}

// char reads one character of a string as it means: an escape gives the character it stands for, the closing
// quote endOfString.
func (s *scanner) char() (rune, error) {
	if s.pos >= len(s.body) {
		return 0, s.unexpected()
	}
	switch c := s.body[s.pos]; {
	case c == '"':
		s.pos++
		return endOfString, nil
	case c == '\\':
		return s.escape()
	case c < ' ':
		return 0, s.failAt("has an unescaped control character", s.pos)
	case c < utf8.RuneSelf:
		s.pos++
		return rune(c), nil
	}
	r, size := utf8.DecodeRune(s.body[s.pos:])
	if r == utf8.RuneError && size <= 1 {
		return 0, s.failAt("is not UTF-8", s.pos)
	}
	s.pos += size
	return r, nil
}

// escape reads an escape sequence, or two that are a surrogate pair.
func (s *scanner) escape() (rune, error) {
	at := s.pos
	s.pos++ // The backslash.
	if s.pos >= len(s.body) {
		return 0, s.unexpected()
	}
	c := s.body[s.pos]
	if c != 'u' {
		r := simpleEscape(c)
		if r < 0 {
			return 0, s.unexpected()
		}
		s.pos++
		return r, nil
	}
	r, err := s.hex4()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if s.at(`\u`) {
		s.pos++
		low, err := s.hex4()
		if err != nil {
			return 0, err
		}
		if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
			return pair, nil
		}
	}
	return 0, s.failAt("has half a surrogate pair", at)
}

func simpleEscape(c byte) rune {
	switch c {
	case '"', '\\', '/':
		return rune(c)
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return -1
}

// hex4 reads the u of an escape and its four digits.
func (s *scanner) hex4() (rune, error) {
	var r rune
	s.pos++ // The u.
	for range 4 {
		if s.pos >= len(s.body) {
			return 0, s.unexpected()
		}
		c := s.body[s.pos]
		switch {
		case isDigit(c):
			r = r<<4 | rune(c-'0')
		case 'a' <= lower(c) && lower(c) <= 'f':
			r = r<<4 | rune(lower(c)-'a'+10)
		default:
			return 0, s.unexpected()
		}
		s.pos++
	}
	return r, nil
}

// skipString reads the rest of a string whose characters do not matter.
func (s *scanner) skipString() error {
	for {
		s.pos = skipRun(&plain, s.body, s.pos)
		r, err := s.char()
		if err != nil || r == endOfString {
			return err
		}
	}
}

// byteSet is a set of byte values: all bits of the members are set, so that the values of several bytes can be
// tested together by one &.
type byteSet [256]uint8

func makeByteSet(in func(c byte) bool) byteSet {
	var set byteSet
	for c := range set {
		if in(byte(c)) {
			set[c] = math.MaxUint8
		}
	}
	return set
}

// plain are the ASCII bytes that stand for themselves in a string.
var plain = makeByteSet(func(c byte) bool { return c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\' })

// skipRun gives the first position from i on whose byte is not in the set. This loop is where nearly all the time
// of a large document goes: eight bytes per round, because the branch is what costs.
func skipRun(set *byteSet, b []byte, i int) int {
	for len(b)-i >= 8 {
		w := b[i : i+8 : i+8]
		if set[w[0]]&set[w[1]]&set[w[2]]&set[w[3]]&set[w[4]]&set[w[5]]&set[w[6]]&set[w[7]] == 0 {
			break
		}
		i += 8
	}
	for i < len(b) && set[b[i]] != 0 {
		i++
	}
	return i
}
