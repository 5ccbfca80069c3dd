package update

import (
	"fmt"
	"strings"
	"unicode"
)

// MaxFilenameLength is how many characters (not bytes) a file name may have.
const MaxFilenameLength = 255

// maxPadding is how many = a base64 text can end with.
const maxPadding = 2

// members is the set of known members of a document.
type members uint8

const (
	unknownMember  members = 0
	filenameMember members = 1 << iota
	contentMember
	objectMember
)

// checkDocument checks a document's body: one JSON object with a file name and base64 content, or a reference to it,
// members in any order, no known one twice (receivers disagree about which counts). Unknown members pass. It gives
// the reference, nil if the content is in the body.
func checkDocument(body []byte) (*Object, error) {
	s := scanner{body: body, field: fieldBody, index: -1}
	if err := s.open('{', "an object"); err != nil {
		return nil, err
	}
	seen, object, err := s.documentMembers()
	if err != nil {
		return nil, err
	}
	if err := s.end(); err != nil {
		return nil, err
	}
	return object, judgeMembers(seen)
}

// documentMembers reads the members up to the closing bracket.
func (s *scanner) documentMembers() (seen members, object *Object, err error) {
	if s.peek() == '}' {
		s.pos++
		return 0, nil, nil
	}
	for more := true; more; {
		s.peek()
		from := s.pos
		m, err := s.member()
		if err != nil {
			return 0, nil, err
		}
		if seen&m != 0 {
			return 0, nil, s.fail("is there twice")
		}
		seen |= m
		switch m {
		case filenameMember:
			err = s.filename()
		case contentMember:
			err = s.content()
		case objectMember:
			if object, err = s.object(); object != nil {
				object.from, object.to = from, s.pos
			}
		case unknownMember:
			err = s.skipValue()
		}
		if err != nil {
			return 0, nil, err
		}
		s.field = fieldBody
		if more, err = s.more('}'); err != nil {
			return 0, nil, err
		}
	}
	return seen, object, nil
}

// judgeMembers says whether a document with these members can be sent.
func judgeMembers(seen members) error {
	const caseMatters = "is missing (member names are case-sensitive)"
	switch {
	case seen&objectMember != 0 && seen&contentMember != 0:
		return invalid(fieldObject + ": a document has either object or base64Content, not both")
	case seen&filenameMember == 0:
		return invalid(fieldFilename + ": " + caseMatters)
	case seen&(contentMember|objectMember) == 0:
		return invalid(fieldContent + ": " + caseMatters)
	}
	return nil
}

// member reads a member's name and its colon, and makes a known one the field that errors name. Names are
// compared by what they mean: "file\u006eame" is filename.
func (s *scanner) member() (members, error) {
	if s.peek() != '"' {
		return 0, s.unexpected()
	}
	s.pos++
	var name [len(fieldContent) + 1]byte // One more than the longest, so that a longer name cannot match.
	n := 0
	for {
		r, err := s.char()
		if err != nil {
			return 0, err
		}
		if r == endOfString {
			break
		}
		if r > unicode.MaxASCII {
			r = 0 // In no known name.
		}
		if n < len(name) {
			name[n] = byte(r)
			n++
		}
	}
	m := unknownMember
	switch string(name[:n]) {
	case fieldFilename:
		m, s.field = filenameMember, fieldFilename
	case fieldContent:
		m, s.field = contentMember, fieldContent
	case fieldObject:
		m, s.field = objectMember, fieldObject
	}
	return m, s.colon()
}

// filename reads a file name: filled, bounded, and nothing in it that a file system or a log would take amiss.
func (s *scanner) filename() error {
	if err := s.wantString(); err != nil {
		return err
	}
	for n := 0; ; n++ {
		at := s.pos
		r, err := s.char()
		switch {
		case err != nil:
			return err
		case r == endOfString && n == 0:
			return s.fail("is empty")
		case r == endOfString:
			return nil
		case r == '/' || r == '\\':
			return s.failAt("has a path separator", at)
		case unicode.IsControl(r):
			return s.failAt("has a control character", at)
		case n == MaxFilenameLength:
			return s.fail(fmt.Sprintf("has more than %d characters", MaxFilenameLength))
		}
	}
}

// alphabet is base64's, RFC 4648 section 4.
var alphabet = makeByteSet(func(c byte) bool { return isAlphanumeric(c) || c == '+' || c == '/' })

// content reads base64: filled, the standard alphabet, at most two = and only at the end. Length and padding
// otherwise are the API's business: its own documented example has 21 characters and decodes to nothing.
//
// Escapes cost no more than their place: publishers whose JSON library escapes / (PHP), + (.NET) or = (Gson)
// send them by the thousand.
func (s *scanner) content() error {
	if err := s.wantString(); err != nil {
		return err
	}
	filled := false
	padding := 0
	for {
		start := s.pos
		if padding == 0 {
			s.pos = skipRun(&alphabet, s.body, s.pos)
			filled = filled || s.pos > start
		}
		at := s.pos
		r, err := s.char()
		switch {
		case err != nil:
			return err
		case r == endOfString && filled:
			return nil
		case r == endOfString && padding > 0:
			return s.fail("has only padding")
		case r == endOfString:
			return s.fail("is empty")
		case r == '=':
			padding++
			if padding > maxPadding {
				return s.failAt(fmt.Sprintf("has more than %d = at its end,", maxPadding), at)
			}
		case padding > 0:
			return s.failAt("goes on after its padding (=)", at)
		case r > unicode.MaxASCII || alphabet[r] == 0:
			return s.failAt(notBase64(r, s.body[:at]), at)
		default: // An escaped character of the alphabet.
			filled = true
		}
	}
}

// notBase64 words the problem with a character outside the alphabet by what the publisher most likely did.
func notBase64(r rune, before []byte) string {
	switch {
	case strings.ContainsRune("\r\n\t ", r):
		return "has white space (send it in one line)"
	case r == '-' || r == '_':
		return "is base64url, not standard base64,"
	case r == ':' && strings.HasSuffix(string(before[max(0, len(before)-len(`"data`)):]), `"data`):
		return "begins as a data: URL (send the base64 alone),"
	}
	return "has a character outside the base64 alphabet"
}
