package kex

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"kexrelay/internal/fault"
)

const (
	// maxAnswer is how much of an answer's body is read. A longer one costs its connection.
	maxAnswer = 64 << 10
	// maxExcerpt is how much of it is looked at for the detail; more than maxDetail, so that nothing is cut in two
	// before it was compared with the request.
	maxExcerpt = 2 << 10
	// maxDetail bounds fault.Error.Detail, in bytes.
	maxDetail = 1 << 10
	// answerTime and drainTime bound the reading of a body once the status line has decided. A booked update is
	// settled the sooner the better: a crash before that leaves its outcome unknown.
	answerTime = 2 * time.Second
	drainTime  = 500 * time.Millisecond

	esc = 0x1b
)

// drain reads away the rest of a short body, so that its connection can be used again, and closes it.
func drain(resp *http.Response, cancel func()) {
	if resp.ContentLength != 0 && resp.ContentLength <= maxAnswer {
		timer := time.AfterFunc(drainTime, cancel)
		_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // What is in it, and whether it breaks, changes nothing.
		timer.Stop()
	}
	_ = resp.Body.Close()
}

// readAnswer gives the beginning of an answer's body and closes it; cancel is called if that takes too long. Errors
// do not matter: the status line has decided.
func readAnswer(resp *http.Response, cancel func()) []byte {
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode < 200 { // 101: the "body" is the connection and never ends.
		return nil
	}
	timer := time.AfterFunc(answerTime, cancel)
	defer timer.Stop()
	excerpt := make([]byte, maxExcerpt)
	n, err := io.ReadFull(resp.Body, excerpt)
	if err == nil {
		_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer-maxExcerpt)
	}
	if resp.Header.Get("Content-Encoding") != "" { // Nobody asked for that; compressed bytes tell nothing.
		return nil
	}
	return excerpt[:n]
}

// detail words a fault that came with an answer: what it means, then a scrubbed excerpt of what the API said.
func detail(f *fault.Error, h http.Header, answer []byte, s *scrubber) string {
	said := clean(answer)
	if len(answer) == maxExcerpt {
		said = dropLastWord(said)
	}
	meaning := ""
	switch f.Reason { //nolint:exhaustive // only what the API can answer.
	case fault.BadRequest:
		meaning = "the API refused the data as malformed or incomplete"
	case fault.Gone:
		meaning = "the Vorgang is deleted"
	case fault.Forbidden:
		meaning = "the client is not authorised for this Vorgang"
	case fault.NotFound:
		meaning = "the API does not know this Vorgang (or KEX_BASE_URL is wrong)"
	case fault.Rejected:
		meaning = "the API rejected the request"
	case fault.Redirected:
		meaning = "the API redirected the request, which is never followed (check KEX_BASE_URL)"
		said = join(clean([]byte(bounded(h.Get("Location")))), said)
	case fault.Unauthorized:
		meaning = "the API did not accept the token"
		said = join(clean([]byte(bounded(h.Get("WWW-Authenticate")))), said)
	case fault.Throttling:
		meaning = "the API asked for a pause"
	case fault.Outage:
		meaning = "the API does not work"
		if f.Unknown {
			meaning = "the answer does not tell whether the update was booked"
		}
	}
	if said = s.scrub(said); said == "" {
		return meaning
	}
	return cut(meaning+": "+said, maxDetail)
}

func join(a, b string) string { return strings.TrimSpace(a + " " + b) }

func bounded(header string) string { return header[:min(len(header), maxDetail)] }

// clean makes printable text of what another side sent: valid UTF-8 (bytes that are not are taken as Latin-1), one
// line, without control characters, terminal escapes, or characters that are invisible or turn the reading order.
func clean(b []byte) string {
	var out strings.Builder
	out.Grow(len(b))
	space := false
	for len(b) > 0 {
		if n := escapeSequence(b); n > 0 {
			b = b[n:]
			continue
		}
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			r = rune(b[0])
		}
		b = b[n:]
		switch {
		case unicode.IsSpace(r):
			space = true
			continue
		case unicode.IsControl(r), unicode.In(r, unicode.Cf, unicode.Co, unicode.Cs), r == utf8.RuneError:
			continue
		}
		if space && out.Len() > 0 {
			out.WriteByte(' ')
		}
		space = false
		out.WriteRune(r)
	}
	return out.String()
}

// escapeSequence is the length of the terminal escape at the beginning of b: CSI (colours, cursor) up to its final
// byte, OSC (titles, links, clipboard) up to its end. Of any other the ESC alone is dropped as a control character.
func escapeSequence(b []byte) int {
	if len(b) < 2 || b[0] != esc {
		return 0
	}
	switch b[1] {
	case '[':
		for i := 2; i < len(b); i++ {
			switch c := b[i]; {
			case c < 0x20 || c > 0x7e:
				return i
			case c >= 0x40:
				return i + 1
			}
		}
		return len(b)
	case ']':
		end := bytes.IndexAny(b[2:], "\x07\x1b")
		if end < 0 {
			return len(b)
		}
		return min(2+end+1, len(b)) // Of ESC \ the backslash stays, which does no harm.
	}
	return 0
}

// cut shortens s to at most limit bytes, at a character's boundary.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	const mark = "..."
	end := limit - len(mark)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + mark
}

// dropLastWord takes away what the end of the excerpt may have cut in two: half a name would not be recognised.
func dropLastWord(s string) string {
	return strings.TrimRightFunc(s, func(r rune) bool { return fold(r) != 0 || strings.ContainsRune(`\%&#;=`, r) })
}
