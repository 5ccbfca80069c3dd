package deadletter

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

const (
	maxErrorText  = 200 // Characters of a fingerprint's error text.
	fingerprintID = 4   // Bytes of a fingerprint's ID: with a thousand groups two are alike once in 10,000 times.
	runsOfID      = 3   // So many rows of digits make a word an ID: a UUID, say.
	shortestID    = 6   // Characters of an ID without digits: a shorter one may be a word of the text.

	// cutText is how long a text is that may have been cut: what journal writes is at most 1 KiB.
	cutText = 1000
	// maskMark stands for what differs from dead letter to dead letter, redactedWord for what the API had repeated.
	maskMark     = "<*>"
	redactedWord = "[redacted]"
	wordBytes    = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:+,[]"
)

// Fingerprint is what dead letters of the same cause have in common. It is comparable.
type Fingerprint struct {
	Kind   update.Kind  `json:"kind"`
	Reason fault.Reason `json:"reason"`
	// Status is the API's last status code, 0 where no answer came.
	Status int `json:"status,omitempty"`
	// Error is the detail with numbers and IDs masked.
	Error string `json:"error,omitempty"`
}

// Fingerprint is the dead letter's.
func (s Summary) Fingerprint() Fingerprint {
	return Fingerprint{Kind: s.Kind, Reason: s.Reason, Status: s.Status, Error: mask(s.Detail, s.RequestID, s.TraceID, s.UpdateID, s.Vorgangsnummer)}
}

// ID names the fingerprint in eight characters, the same in every process and version of the stream.
func (f Fingerprint) ID() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d\x00%s", f.Kind, f.Reason, f.Status, f.Error))
	return hex.EncodeToString(sum[:fingerprintID])
}

// mask normalises an error text: numbers, times and IDs become <*>, white space one space. What is left is the same for
// every dead letter of a cause, however long its numbers and IDs are. ids are those that are known from its headers.
func mask(text string, ids ...string) string {
	if len(text) >= cutText { // It was cut somewhere, and maybe in the middle of an ID.
		text = strings.TrimRight(strings.TrimSuffix(text, "..."), wordBytes)
	}
	m := masked{}
	for len(text) > 0 && m.length < maxErrorText {
		if n := leadingID(text, ids); n > 0 {
			m.mark()
			text = text[n:]
			continue
		}
		if word := leadingWord(text); word != "" {
			text = text[len(word):]
			m.word(word)
			continue
		}
		r, size := utf8.DecodeRuneInString(text)
		text = text[size:]
		switch {
		case unicode.IsSpace(r):
			m.space()
		case r == '-' && len(text) > 0 && digit(text[0]): // A sign.
		default:
			m.text(string(r))
		}
	}
	return strings.TrimSpace(string(m.out))
}

// masked is the text that mask makes.
type masked struct {
	out    []byte
	length int // In characters.
}

func (m *masked) text(s string) {
	m.out = append(m.out, s...)
	m.length += utf8.RuneCountInString(s)
}

func (m *masked) space() {
	if n := len(m.out); n > 0 && m.out[n-1] != ' ' {
		m.text(" ")
	}
}

// mark puts one mark for a whole word, and for a list of such words: how many there are is no part of the cause.
func (m *masked) mark() {
	if !bytes.HasSuffix(bytes.TrimRight(m.out, " ,;"), []byte(maskMark)) {
		m.text(maskMark)
		return
	}
	kept := bytes.TrimRight(m.out, " ,;")
	m.length -= len(m.out) - len(kept)
	m.out = kept
}

// word masks a word. What is left of it depends on where it has digits, never on how many there are in a row.
func (m *masked) word(word string) {
	runs := digitRuns(word)
	number := len(runs) == 1 && runs[0] == [2]int{0, len(word)}
	switch {
	case number, word == redactedWord, measure.MatchString(word), isoTime.MatchString(word), len(runs) >= runsOfID:
		m.mark()
	case len(runs) == 0, slices.Contains(apiWords(), word):
		m.text(word)
	default:
		end := 0
		for _, run := range runs {
			m.text(word[end:run[0]])
			m.text(maskMark)
			end = run[1]
		}
		m.text(word[end:])
	}
}

// digitRuns gives where a word has digits, those with only punctuation in between together: 1.5, 5-2, 14:05:06.
func digitRuns(word string) [][2]int {
	var runs [][2]int
	end := -1 // Of the last run, if nothing but punctuation came since.
	for i := range len(word) {
		switch c := word[i]; {
		case digit(c) && end >= 0:
			runs[len(runs)-1][1], end = i+1, i+1
		case digit(c):
			runs, end = append(runs, [2]int{i, i + 1}), i+1
		case alphanumeric(c):
			end = -1
		}
	}
	return runs
}

var (
	// measure is a number with an exponent, and a duration as Go writes it.
	measure = regexp.MustCompile(`^(?:[0-9]+(?:[.,][0-9]+)?[eE][+-]?[0-9]+|(?:[0-9]+(?:\.[0-9]+)?(?:ns|us|ms|s|m|h))+)$`)
	// isoTime is a time with its date, with or without a zone.
	isoTime = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9:.,+-]+[Zz]?$`)
)

// apiWords are words of the API with digits in them.
func apiWords() []string { return []string{"base64Content", "base64"} }

// leadingID is the length of the ID that text begins with, with the numbers of a request behind it; 0 if there is none.
func leadingID(text string, ids []string) int {
	for _, id := range ids {
		rest, found := strings.CutPrefix(text, id)
		if !found || !telling(id) || rest != "" && alphanumeric(rest[0]) {
			continue
		}
		return len(text) - len(rest) + len(requestNumbers.FindString(rest))
	}
	return 0
}

// requestNumbers are what relay adds to a trace ID: see update.Update.RequestTraceID.
var requestNumbers = regexp.MustCompile(`^(?:-r?[0-9]+)*`)

// telling reports whether an ID cannot be an ordinary word. One of digits alone is masked anyway.
func telling(id string) bool {
	return len(id) >= shortestID && strings.ContainsFunc(id, unicode.IsLetter) || len(id) > 1 && strings.ContainsFunc(id, unicode.IsLetter) && strings.ContainsFunc(id, unicode.IsDigit)
}

// leadingWord is the word that text begins with: letters, digits, - and _; between digits also . : + and comma, so that
// times and amounts are one word. What was redacted is one too.
func leadingWord(text string) string {
	if strings.HasPrefix(text, redactedWord) {
		return redactedWord
	}
	end := 0
	for end < len(text) {
		c := text[end]
		switch {
		case alphanumeric(c), end > 0 && (c == '-' || c == '_') && end+1 < len(text) && alphanumeric(text[end+1]):
		case strings.IndexByte(".:+,", c) >= 0 && end > 0 && digit(text[end-1]) && end+1 < len(text) && digit(text[end+1]):
		default:
			return text[:end]
		}
		end++
	}
	return text
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

func alphanumeric(c byte) bool {
	return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || digit(c)
}

// ValidFingerprintID reports whether s can be a fingerprint's ID.
func ValidFingerprintID(s string) bool {
	sum, err := hex.DecodeString(s)
	return err == nil && len(sum) == fingerprintID
}
