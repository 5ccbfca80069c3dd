package kex

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"kexrelay/internal/update"
)

// sent lets what was sent pass by an echo, glyph by glyph.
type sent struct {
	echo  *echo
	class class
	// window are the last glyphs of the value, a ring; gram is the hash of the last class.gram of them, value that of
	// the first ones, word that of the current word.
	window            [maxGram]rune
	gram, value, word uint64
	glyphs, wordLen   uint
	outgoing          uint64 // hashBase to the power of class.gram.
}

func (e *echo) sent(c class) *sent {
	s := &sent{echo: e, class: c, outgoing: 1}
	for range c.gram {
		s.outgoing *= hashBase
	}
	return s
}

func (s *sent) rune(r rune) {
	g := fold(r)
	if g < 0 {
		return
	}
	if g == 0 {
		s.endWord()
		return
	}
	s.gram = extend(s.gram, g)
	if s.glyphs >= s.class.gram {
		old := s.window[(s.glyphs-s.class.gram)%maxGram]
		s.gram -= s.outgoing * (uint64(old) + 1) //nolint:gosec // a glyph is positive.
	}
	s.window[s.glyphs%maxGram] = g
	s.glyphs++
	if s.glyphs >= s.class.gram {
		s.echo.meet(keyOf(s.class.gram, s.gram))
	}
	if s.glyphs <= s.class.gram {
		s.value = extend(s.value, g)
	}
	if s.class.words {
		s.word = extend(s.word, g)
		s.wordLen++
	}
}

func (s *sent) endWord() {
	if s.wordLen >= 2 {
		s.echo.meet(keyOf(wholeWords, s.word))
	}
	s.word, s.wordLen = 0, 0
}

// endValue ends a value; one that is shorter than a gram counts as a whole.
func (s *sent) endValue() {
	s.endWord()
	if s.glyphs > 0 && s.glyphs <= s.class.gram {
		s.echo.meet(keyOf(wholeWords, s.value))
	}
	s.gram, s.value, s.glyphs = 0, 0, 0
}

// text lets bytes pass; what is not UTF-8 counts as Latin-1.
func (s *sent) text(b []byte) {
	for len(b) > 0 {
		if b[0] < utf8.RuneSelf {
			s.rune(rune(b[0]))
			b = b[1:]
			continue
		}
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			r = rune(b[0])
		}
		s.rune(r)
		b = b[n:]
	}
}

// plain is one value in full, also as the base64 that a very short one would be echoed as.
func (e *echo) plain(c class, value []byte) {
	s := e.sent(c)
	s.text(value)
	s.endValue()
	if n := len(value); n > 0 && base64.RawStdEncoding.EncodedLen(n) < minDecoded {
		s.text(base64.RawStdEncoding.AppendEncode(nil, value))
		s.endValue()
	}
}

// content is a document: the base64 that was sent and what it decodes to.
func (e *echo) content(value []byte) {
	e.plain(contents, value)
	s := e.sent(contents)
	var buf [3 << 10]byte
	for len(value) > 0 {
		part := value[:min(len(value), 4<<10)]
		value = value[len(part):]
		if len(part)%4 != 0 { // The end of it, perhaps padded.
			part = bytes.TrimRight(part, "=")
		}
		n, err := base64.StdEncoding.Decode(buf[:], part)
		if err != nil {
			n, _ = base64.RawStdEncoding.Decode(buf[:], part)
		}
		s.text(buf[:n])
	}
	s.endValue()
}

// rereadTime bounds how long a document by reference is read again for the sake of an error text.
const rereadTime = 2 * time.Second

// reference is a body whose content lies elsewhere: it is read once more. That costs as much as sending it, and only
// an answer that has something to say is held against it.
func (e *echo) reference(ctx context.Context, c *update.Content) error {
	e.body(slices.Concat(c.Before, c.After))
	ctx, cancel := context.WithTimeout(ctx, rereadTime)
	defer cancel()
	source, err := c.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	raw := e.sent(contents) // As base64 it is found too: an echo is compared in what its base64 decodes to.
	buf := make([]byte, rawPart)
	for {
		n, err := io.ReadFull(source, buf)
		raw.text(buf[:n])
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			raw.endValue()
			return nil
		case err != nil:
			return err
		}
	}
}

// body lets all strings and numbers of a JSON text pass, each by its class, except the names of the members that
// the API itself defines. It takes what it gets: a text that is no JSON array or object counts as one string, and so
// does the rest of one that breaks off.
func (e *echo) body(b []byte) {
	if start := bytes.TrimLeft(b, " \t\r\n"); len(start) > 0 && start[0] != '{' && start[0] != '[' {
		e.plain(texts, b)
	}
	key := ""
	for i := 0; i < len(b); {
		switch c := b[i]; {
		case c == '"':
			end := stringEnd(b, i+1)
			value := unquote(b[i+1 : end])
			i = min(end+1, len(b))
			if isKey(b[i:]) {
				key = string(value[:min(len(value), 64)])
				if !isAPIKey(key) {
					e.plain(texts, value)
				}
				continue
			}
			switch key {
			case "filename":
				e.plain(fileNames, value)
			case "base64Content":
				e.content(value)
			default:
				e.plain(texts, value)
			}
		case c >= '0' && c <= '9':
			start := i
			for i < len(b) && bytes.IndexByte([]byte("0123456789.eE+-"), b[i]) >= 0 {
				i++
			}
			e.plain(texts, b[start:i])
		default:
			i++
		}
	}
}

func isAPIKey(key string) bool {
	switch key {
	case "filename", "base64Content", "object", "bucket", "name", "size", "digest":
		return true
	}
	return false
}

// stringEnd is the index of the quote that closes the string whose first byte is at i, or len(b).
func stringEnd(b []byte, i int) int {
	for i < len(b) {
		n := bytes.IndexAny(b[i:], `"\`)
		if n < 0 {
			return len(b)
		}
		if i += n; b[i] == '"' {
			return i
		}
		i += 2
	}
	return len(b)
}

func isKey(after []byte) bool {
	after = bytes.TrimLeft(after, " \t\r\n")
	return len(after) > 0 && after[0] == ':'
}

// unquote resolves a JSON string's escapes; without any it gives the bytes themselves.
func unquote(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw
	}
	out := make([]byte, 0, len(raw))
	for len(raw) > 0 {
		n := bytes.IndexByte(raw, '\\')
		if n < 0 {
			return append(out, raw...)
		}
		out = append(out, raw[:n]...)
		raw = raw[n:]
		r, used := escaped(raw)
		out = utf8.AppendRune(out, r)
		raw = raw[min(used, len(raw)):]
	}
	return out
}

// escaped reads one escape of JSON.
func escaped(raw []byte) (rune, int) {
	if len(raw) < 2 {
		return utf8.RuneError, len(raw)
	}
	switch raw[1] {
	case 'n', 'r', 't', 'b', 'f':
		return '\n', 2
	case 'u':
		high, ok := unit(raw)
		if !ok {
			return utf8.RuneError, 2
		}
		if low, ok := unit(raw[6:]); ok && high >= 0xd800 && high < 0xdc00 && low >= 0xdc00 && low < 0xe000 {
			return (high-0xd800)<<10 | (low - 0xdc00) + 0x10000, 12
		}
		return high, 6
	}
	return rune(raw[1]), 2
}

// unit reads \uXXXX.
func unit(raw []byte) (rune, bool) {
	if len(raw) < 6 || raw[0] != '\\' || raw[1] != 'u' {
		return 0, false
	}
	r, err := strconv.ParseUint(string(raw[2:6]), 16, 16)
	return rune(r), err == nil
}
