package update

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// ObjectBucket is the only bucket whose objects an update may name.
const ObjectBucket = "KEX_DOCUMENTS"

// MaxReferenceLength is how many bytes the body of a document by reference may have: who looks for the references
// among millions of updates need not read the large ones.
const MaxReferenceLength = 16 << 10

// MaxObjectSize bounds the size an object may be said to have: 1 TiB. What the API takes is far below; it keeps the
// arithmetic with sizes from overflowing.
const MaxObjectSize = 1 << 40

const (
	objectNameLength = 36 // A UUID.
	digestPrefix     = "SHA-256="
)

// Object is where a document's bytes lie, not encoded, if an update carries them by reference.
type Object struct {
	// Name is the object's in [ObjectBucket], a UUID.
	Name string
	// Size is the number of its bytes, at least 1.
	Size int64
	// Digest is its SHA-256.
	Digest [32]byte

	// from and to enclose the member "object" in the body, its name included.
	from, to int
}

// Content is a request's body that is put together while it is being sent: Before, the base64 of an object's bytes,
// After. Its last byte is not sent before Size and Digest have proven right.
type Content struct {
	Before, After []byte
	Object

	// Open begins to read the object's bytes; ctx ends the reading too. Errors of it and of the reading are faults:
	// permanent with reason object_missing, or transient with reason storage.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// Length is the number of bytes of the whole body.
func (c *Content) Length() int64 {
	return int64(len(c.Before)) + EncodedLength(c.Size) + int64(len(c.After))
}

// EncodedLength is how many bytes n bytes have in base64, with padding.
func EncodedLength(n int64) int64 { return (n + 2) / 3 * 4 }

// Content is the request's body of a document by reference: the body as published, with base64Content in the place
// of object. Unknown members pass as they do otherwise. It is nil for all other updates. Open is left to the caller.
func (u *Update) Content() *Content {
	if u.Object == nil {
		return nil
	}
	before := slices.Concat(u.Body[:u.Object.from], []byte(`"`+fieldContent+`":"`))
	after := slices.Concat([]byte{'"'}, u.Body[u.Object.to:])
	return &Content{Before: before, After: after, Object: *u.Object}
}

// The members of a reference, with what errors call them.
const (
	fieldBucket = fieldObject + ".bucket"
	fieldName   = fieldObject + ".name"
	fieldSize   = fieldObject + ".size"
	fieldDigest = fieldObject + ".digest"
)

// object reads a reference: each member once and right. Unknown ones pass.
func (s *scanner) object() (*Object, error) {
	if s.peek() != '{' {
		return nil, s.wrongType("an object")
	}
	if len(s.body) > MaxReferenceLength {
		return nil, invalid(fmt.Sprintf("%s: has more than %d bytes beside its reference", fieldBody, MaxReferenceLength))
	}
	s.pos++
	o := &Object{}
	seen := make(map[string]bool, 4)
	more := s.peek() != '}'
	if !more {
		s.pos++
	}
	for more {
		name, err := s.objectMember()
		if err != nil {
			return nil, err
		}
		if seen[name] && name != "" {
			return nil, s.fail("is there twice")
		}
		seen[name] = true
		if err := s.objectValue(o, name); err != nil {
			return nil, err
		}
		s.field = fieldObject
		if more, err = s.more('}'); err != nil {
			return nil, err
		}
	}
	for _, field := range []string{fieldBucket, fieldName, fieldSize, fieldDigest} {
		if !seen[field] {
			return nil, invalid(field + ": is missing")
		}
	}
	return o, nil
}

// objectMember reads a member's name and its colon; "" is an unknown one.
func (s *scanner) objectMember() (string, error) {
	if s.peek() != '"' {
		return "", s.unexpected()
	}
	s.pos++
	name, whole, err := s.shortText(len("bucket"))
	if err != nil {
		return "", err
	}
	known := ""
	switch field := fieldObject + "." + name; {
	case !whole:
	case field == fieldBucket, field == fieldName, field == fieldSize, field == fieldDigest:
		known, s.field = field, field
	}
	return known, s.colon()
}

// shortText reads the rest of a string. whole reports that it has at most limit characters, all of them ASCII.
func (s *scanner) shortText(limit int) (text string, whole bool, err error) {
	var b strings.Builder
	whole = true
	for {
		r, err := s.char()
		if err != nil {
			return "", false, err
		}
		if r == endOfString {
			return b.String(), whole, nil
		}
		if r > '~' || b.Len() >= limit {
			whole = false
			continue
		}
		b.WriteRune(r)
	}
}

// objectValue reads the value of one member of a reference.
func (s *scanner) objectValue(o *Object, field string) error {
	if field == "" {
		return s.skipValue()
	}
	if field == fieldSize {
		return s.size(o)
	}
	if err := s.wantString(); err != nil {
		return err
	}
	text, whole, err := s.shortText(len(digestPrefix) + base64.URLEncoding.EncodedLen(len(o.Digest)))
	if err != nil {
		return err
	}
	switch {
	case field == fieldBucket && (!whole || text != ObjectBucket):
		return s.fail("is not " + ObjectBucket)
	case field == fieldName && (!whole || !isUUID(text)):
		return s.fail("is not a UUID in lower case")
	case field == fieldName:
		o.Name = text
	case field == fieldDigest && (!whole || !o.setDigest(text)):
		return s.fail("is not SHA-256= and 43 characters of base64url with one =")
	}
	return nil
}

// size reads a whole number. JSON has many spellings for one; all that mean the same count.
func (s *scanner) size(o *Object) error {
	if c := s.peek(); c != '-' && !isDigit(c) {
		return s.wrongType("a number")
	}
	at := s.pos
	if err := s.skipValue(); err != nil {
		return err
	}
	size, ok := wholeNumber(string(s.body[at:s.pos]))
	if !ok || size < 1 || size > MaxObjectSize {
		return s.fail(fmt.Sprintf("is not a whole number from 1 to %d", int64(MaxObjectSize)))
	}
	o.Size = size
	return nil
}

// wholeNumber reads a JSON number of at most MaxReferenceLength characters.
func wholeNumber(text string) (int64, bool) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, true
	}
	// No exponent beyond the text's own length can lead to a size; a huge one would cost as much memory.
	if i := strings.IndexAny(text, "eE"); i >= 0 {
		if exponent, err := strconv.Atoi(text[i+1:]); err != nil || max(exponent, -exponent) > MaxReferenceLength {
			return 0, false
		}
	}
	number, ok := new(big.Rat).SetString(text)
	if !ok || !number.IsInt() || !number.Num().IsInt64() {
		return 0, false
	}
	return number.Num().Int64(), true
}

// isUUID reports the spelling the contract asks for: five groups of small hexadecimal digits.
func isUUID(text string) bool {
	if len(text) != objectNameLength {
		return false
	}
	for i, c := range []byte(text) {
		switch dash := i == 8 || i == 13 || i == 18 || i == 23; {
		case dash && c != '-', !dash && !isDigit(c) && (c < 'a' || c > 'f'):
			return false
		}
	}
	return true
}

// setDigest takes the digest as the object store writes it.
func (o *Object) setDigest(text string) bool {
	encoded, begins := strings.CutPrefix(text, digestPrefix)
	encoded, ends := strings.CutSuffix(encoded, "=")
	if !begins || !ends || len(encoded) != base64.RawURLEncoding.EncodedLen(len(o.Digest)) || strings.ContainsAny(encoded, "\r\n") {
		return false // The decoder skips line ends, the schema does not.
	}
	n, err := base64.RawURLEncoding.Decode(o.Digest[:], []byte(encoded))
	return err == nil && n == len(o.Digest)
}

// DigestText is the digest as the object store writes it.
func (o *Object) DigestText() string {
	return digestPrefix + base64.URLEncoding.EncodeToString(o.Digest[:])
}

// ObjectOf is the object that the body of a document names, nil if it names none or is no valid reference.
func ObjectOf(body []byte) *Object {
	if len(body) > MaxReferenceLength {
		return nil
	}
	o, err := checkDocument(body)
	if err != nil {
		return nil
	}
	return o
}
