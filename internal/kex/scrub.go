package kex

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"kexrelay/internal/update"
)

// redacted stands for what was taken out.
const redacted = "[redacted]"

// scrubber takes out of what another side said everything that we had said to it before: APIs like to repeat their
// input in error texts, quoted, escaped, shortened, encoded. It takes out too much rather than too little: the
// reason and the status of a failure never depend on the text.
//
// An answer is compared as glyphs (see glyph.go), so case, accents and every usual way of escaping make no
// difference, in all readings of it that make sense, base64 and hex among them, and at any alignment. A row of
// glyphs that also occurs in a value of the request is redacted together with the words it touches, of file names and
// texts each single word is. What goes unnoticed: rows shorter than class.gram from the middle of a word, values
// without letters and digits, and encodings that nobody uses for error texts (compression, ciphers).
type scrubber struct {
	secrets []string
	body    []byte
	// content is the body of a document by reference. It is not in memory any more. For the text of a dead letter it is
	// read again, under ctx; for one of a failure that is retried that would cost too much, and nothing is told.
	content *update.Content
	reread  bool
	ctx     context.Context //nolint:containedctx // Scrubbing is far away from the call it belongs to.
}

// scrubber knows what is secret now: the tokens and the client's secret, and what was sent.
func (c *Client) scrubber(ctx context.Context, r update.Request) *scrubber {
	return &scrubber{secrets: c.tokens.known(), body: r.Body, content: r.Content, ctx: context.WithoutCancel(ctx)}
}

// scrub gives text, which clean made, without what was sent; nothing at all if what was sent cannot be read again.
func (s *scrubber) scrub(text string) string {
	if text == "" {
		return ""
	}
	e := newEcho(text)
	for _, secret := range s.secrets {
		e.plain(secrets, []byte(secret))
	}
	switch {
	case s.content == nil:
		e.body(s.body)
	case !s.reread, e.reference(s.ctx, s.content) != nil:
		return ""
	}
	marked := e.marks()
	mark := func(from, to int) {
		for i := from; i < to; i++ {
			marked[i] = true
		}
	}
	for _, place := range credential.FindAllStringSubmatchIndex(text, -1) {
		mark(max(place[2], place[4], place[6]), max(place[3], place[5], place[7])) // The others are -1.
	}
	for _, place := range opaque.FindAllStringIndex(text, -1) {
		if isOpaque(text[place[0]:place[1]]) {
			mark(place[0], place[1])
		}
	}
	for _, place := range shortened.FindAllStringIndex(text, -1) {
		mark(place[0], place[1])
	}
	return withoutMarked(text, marked)
}

var (
	// credential is what follows the name of an authentication scheme or of a secret, and a JWT anywhere: a token that
	// is not or no longer ours may still be good.
	credential = regexp.MustCompile(`(?i:bearer|basic)[\s:="']+([A-Za-z0-9._~+/=-]{16,})` +
		`|(?i:access_token|refresh_token|id_token|client_secret|password)\W{0,8}?[:=][\s"'\\]*([^\s"'\\&,;}]+)` +
		`|\b(eyJ[A-Za-z0-9_-]{6,}[A-Za-z0-9._-]*)`)
	// opaque is what may be anything, encoded in a way that is not looked into.
	opaque = regexp.MustCompile(`[A-Za-z0-9+/_-]{24,}=*`)
	// shortened are the words beside an ellipsis: the beginning or end of a value that was cut, maybe too short to be
	// recognised.
	shortened = regexp.MustCompile(`[\p{L}\p{N}]+["'\s]?(?:\.\.\.|…)|(?:\.\.\.|…)["'\s]?[\p{L}\p{N}]+`)
)

// isOpaque reports a long run with capitals, small letters and digits: no word and no UUID looks so.
func isOpaque(run string) bool {
	return strings.ContainsFunc(run, unicode.IsUpper) && strings.ContainsFunc(run, unicode.IsLower) &&
		strings.ContainsFunc(run, unicode.IsDigit)
}

// withoutMarked puts one placeholder for each row of marked bytes, punctuation between them included.
func withoutMarked(text string, marked []bool) string {
	if !slices.Contains(marked, true) {
		return text
	}
	var out strings.Builder
	gap := 0 // Where the unmarked text since the last placeholder began.
	open := false
	for i := 0; i < len(text); {
		_, n := utf8.DecodeRuneInString(text[i:])
		if slices.Contains(marked[i:i+n], true) {
			between := text[gap:i]
			if !open || strings.ContainsFunc(between, func(r rune) bool { return fold(r) > 0 }) {
				out.WriteString(between)
				out.WriteString(redacted)
			}
			open = true
			gap = i + n
		}
		i += n
	}
	out.WriteString(text[gap:])
	return out.String()
}
