package update

import (
	"fmt"
	"strings"

	"kexrelay/internal/fault"
)

// MaxVorgangsnummerLength is how many characters a Vorgangsnummer may have.
const MaxVorgangsnummerLength = 64

// ParseSubject reads the subject an update was published to: exactly kex.vorgang.<vorgangsnummer>.<kind>, with
// a Vorgangsnummer of [A-Za-z0-9_-]{1,64} and a kind of [Kinds]. It is cheap (no allocation for a good subject),
// so that intake can choose the lane by it before the body is looked at.
//
// On an error both results are still usable as subject tokens: what is not valid is [NoVorgangsnummer] or
// [Invalid], and a subject of another shape is both, because none of its tokens has a known meaning. The error
// is a permanent [fault.Error] that says which part is wrong and never repeats it.
func ParseSubject(subject string) (vorgangsnummer string, kind Kind, err error) {
	rest, ok := strings.CutPrefix(subject, SubjectPrefix)
	if !ok {
		return NoVorgangsnummer, Invalid, invalid("subject: does not begin with " + SubjectPrefix)
	}
	number, last, ok := strings.Cut(rest, ".")
	if !ok || strings.Contains(last, ".") {
		return NoVorgangsnummer, Invalid, invalid(fmt.Sprintf("subject: has %d tokens, not the 4 of %s<vorgangsnummer>.<kind>",
			strings.Count(subject, ".")+1, SubjectPrefix))
	}
	kind = parseKind(last)
	if problem := checkVorgangsnummer(number); problem != "" {
		return NoVorgangsnummer, kind, invalid("subject: the Vorgangsnummer " + problem)
	}
	if kind == Invalid {
		return number, Invalid, invalid("subject: the kind is neither " + string(Document) + " nor " + string(Comments))
	}
	return number, kind, nil
}

func parseKind(token string) Kind {
	switch Kind(token) {
	case Document:
		return Document
	case Comments:
		return Comments
	case Invalid: // A publisher may write the word itself; it is no kind of the API.
	}
	return Invalid
}

// checkVorgangsnummer says what is wrong with a token, "" for a good one. The alphabet keeps the token safe in
// the URL's path, in every outgoing subject and in every consumer filter.
func checkVorgangsnummer(token string) (problem string) {
	if token == "" {
		return "is empty"
	}
	if len(token) > MaxVorgangsnummerLength {
		return fmt.Sprintf("has %d bytes, more than %d", len(token), MaxVorgangsnummerLength)
	}
	for i := range len(token) {
		if !isAlphanumeric(token[i]) && token[i] != '-' && token[i] != '_' {
			return fmt.Sprintf("has a character outside A-Z a-z 0-9 _ - at its byte %d", i)
		}
	}
	return ""
}

func isAlphanumeric(c byte) bool {
	return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
}

// invalid is the one way this package says that a message can never be right.
func invalid(detail string) error {
	return &fault.Error{Kind: fault.Permanent, Reason: fault.Invalid, Detail: detail}
}
