package journal

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
)

// The framing of headers on the wire: "NATS/1.0\r\n", "name: value\r\n" for each, "\r\n".
const (
	headerFrame     = len("NATS/1.0\r\n") + len("\r\n")
	headerLineFrame = len(": ") + len("\r\n")
)

// set sets a header unless its value is empty.
func set(header nats.Header, name, value string) {
	if value != "" {
		header[name] = []string{value}
	}
}

// printable makes text that others wrote safe for one line: white space of any kind becomes a space, other
// characters that do not print (and bytes that are no UTF-8) become '?', and it is cut to at most limit bytes.
func printable(s string, limit int) string {
	s = strings.TrimSpace(cut(strings.ToValidUTF8(s, "?"), limit))
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}

// cut shortens s to at most limit bytes without splitting a character.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// PublishersOwn reports whether a header belongs to the publisher and may be written again. Nats-* headers would
// steer our own publish (Nats-Expected-Stream would make it fail for ever), Kex-* ones are ours, and Status is how
// NATS marks its control messages: a message without a body that carries it is swallowed by clients.
func PublishersOwn(name string) bool {
	return !hasPrefixFold(name, "Nats-") && !hasPrefixFold(name, "Kex-") &&
		!strings.EqualFold(name, "Status") && validName(name)
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// validName reports whether the client will write a header of this name; one it refuses fails the whole publish.
func validName(name string) bool {
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c > '~' || strings.IndexByte(`"()/,:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return name != ""
}

// linesSize is how many bytes a header takes on the wire, without the frame of them all.
func linesSize(name string, values []string) int {
	size := 0
	for _, value := range values {
		size += len(name) + len(value) + headerLineFrame
	}
	return size
}

func headerSize(header nats.Header) int {
	size := headerFrame
	for name, values := range header {
		size += linesSize(name, values)
	}
	return size
}
