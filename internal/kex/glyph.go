package kex

import (
	"html"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A glyph is what is left of a letter, digit or symbol when everything is taken away that an echo may change: case,
// accents, and the way it is escaped. Quotes, spaces, punctuation and escapes are not glyphs: they separate words.
type glyph struct {
	r rune
	// start and end are the bytes of the text that the glyph stands for, its whole escape included.
	start, end int
	// first reports that a word begins here.
	first bool
}

// fold gives r's glyph, 0 for what separates words, and -1 for what is passed over (combining accents).
func fold(r rune) rune {
	switch {
	case r < rune(len(latinGlyphs)):
		return latinGlyphs[r]
	case unicode.Is(unicode.Mn, r):
		return -1
	case r == utf8.RuneError:
		return 0
	case unicode.IsLetter(r), unicode.IsNumber(r), unicode.Is(unicode.So, r):
		return unicode.ToLower(r)
	}
	return 0
}

// latinGlyphs are the glyphs of nearly everything that passes by: a document's bytes do by the million.
var latinGlyphs = func() (t [0x180]rune) {
	for r := range t {
		t[r] = foldLatin(unicode.ToLower(rune(r)))
	}
	return t
}()

// foldLatin takes the accents off the letters of Western and Central European languages.
func foldLatin(r rune) rune {
	switch r {
	case 'à', 'á', 'â', 'ã', 'ä', 'å', 'ā', 'ă', 'ą', 'æ':
		return 'a'
	case 'ç', 'ć', 'ĉ', 'ċ', 'č':
		return 'c'
	case 'ð', 'ď', 'đ':
		return 'd'
	case 'è', 'é', 'ê', 'ë', 'ē', 'ĕ', 'ė', 'ę', 'ě':
		return 'e'
	case 'ĝ', 'ğ', 'ġ', 'ģ':
		return 'g'
	case 'ì', 'í', 'î', 'ï', 'ĩ', 'ī', 'ĭ', 'į', 'ı':
		return 'i'
	case 'ĺ', 'ļ', 'ľ', 'ŀ', 'ł':
		return 'l'
	case 'ñ', 'ń', 'ņ', 'ň':
		return 'n'
	case 'ò', 'ó', 'ô', 'õ', 'ö', 'ø', 'ō', 'ŏ', 'ő', 'œ':
		return 'o'
	case 'ŕ', 'ŗ', 'ř':
		return 'r'
	case 'ß', 'ś', 'ŝ', 'ş', 'š', 'ſ':
		return 's'
	case 'ţ', 'ť', 'ŧ':
		return 't'
	case 'ù', 'ú', 'û', 'ü', 'ũ', 'ū', 'ŭ', 'ů', 'ű', 'ų':
		return 'u'
	case 'ý', 'ÿ', 'ŷ':
		return 'y'
	case 'ź', 'ż', 'ž':
		return 'z'
	}
	if unicode.IsLetter(r) || unicode.IsNumber(r) {
		return r
	}
	return 0
}

// spelling is a way to read a text.
type spelling struct {
	// unescape reads \u00fc, %C3%BC, =C3=BC, &uuml; and the "Ã¼" of UTF-8 taken for Latin-1 as the letters they
	// stand for.
	unescape bool
	// digraphs reads ae, oe, ue and ss as ä, ö, ü and ß.
	digraphs bool
}

// glyphs reads text.
func (s spelling) glyphs(text string) []glyph {
	out := make([]glyph, 0, len(text))
	apart := true
	for i := 0; i < len(text); {
		decoded, n := "", 0
		if s.unescape {
			decoded, n = unescape(text[i:])
		}
		if n == 0 {
			_, n = utf8.DecodeRuneInString(text[i:])
			decoded = text[i : i+n]
		}
		for _, r := range decoded {
			switch g := fold(r); {
			case g == 0:
				apart = true
			case g < 0:
			case s.digraphs && !apart && completes(out[len(out)-1].r, g):
				out[len(out)-1].end = i + n
			default:
				out = append(out, glyph{r: g, start: i, end: i + n, first: apart})
				apart = false
			}
		}
		i += n
	}
	return out
}

// completes reports that g after last is the second half of a digraph.
func completes(last, g rune) bool {
	return g == 'e' && (last == 'a' || last == 'o' || last == 'u') || g == 's' && last == 's'
}

// unescape reads the escape that text begins with: what it stands for and its length, 0 if there is none.
func unescape(text string) (string, int) {
	switch text[0] {
	case "Ã"[0]:
		rest, ok := strings.CutPrefix(text, "Ã")
		if r, n := utf8.DecodeRuneInString(rest); ok && r >= 0xa0 && r < 0xc0 {
			return string(r + 0x40), len("Ã") + n
		}
	case '\\':
		return unescapeBackslash(text)
	case '%', '=':
		var raw []byte
		n := 0
		for len(text) >= n+3 && text[n] == text[0] {
			b, err := strconv.ParseUint(text[n+1:n+3], 16, 8)
			if err != nil {
				break
			}
			raw = append(raw, byte(b))
			n += 3
		}
		return latin1(raw), n
	case '&':
		end := strings.IndexByte(text[:min(len(text), 12)], ';')
		if end < 0 {
			return "", 0
		}
		if plain := html.UnescapeString(text[:end+1]); plain != text[:end+1] {
			return plain, end + 1
		}
	}
	return "", 0
}

// unescapeBackslash reads JSON's escapes and \xNN; escaped once or many times over makes no difference.
func unescapeBackslash(text string) (string, int) {
	n := len(text) - len(strings.TrimLeft(text, `\`))
	if n == len(text) {
		return "\n", n
	}
	var digits int
	switch text[n] {
	case 'u':
		digits = 4
	case 'x':
		digits = 2
	case 'n', 'r', 't', 'b', 'f':
		return "\n", n + 1
	default:
		return "\n", n
	}
	if len(text) < n+1+digits {
		return "\n", n
	}
	r, err := strconv.ParseUint(text[n+1:n+1+digits], 16, 16)
	if err != nil {
		return "\n", n
	}
	n += 1 + digits
	if high := rune(r); high >= 0xd800 && high < 0xdc00 && n < len(text) && text[n] == '\\' {
		if low, m := unescapeBackslashUnit(text[n:]); m > 0 {
			return string((high-0xd800)<<10 | (low - 0xdc00) + 0x10000), n + m
		}
	}
	return string(rune(r)), n
}

// unescapeBackslashUnit reads the \uDC00…\uDFFF that completes a surrogate pair.
func unescapeBackslashUnit(text string) (rune, int) {
	n := len(text) - len(strings.TrimLeft(text, `\`))
	if len(text) < n+5 || text[n] != 'u' {
		return 0, 0
	}
	r, err := strconv.ParseUint(text[n+1:n+5], 16, 16)
	if err != nil || r < 0xdc00 || r > 0xdfff {
		return 0, 0
	}
	return rune(r), n + 5
}

// latin1 makes a string of bytes that are UTF-8, or Latin-1 where they are not.
func latin1(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var out strings.Builder
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			r = rune(b[0])
		}
		out.WriteRune(r)
		b = b[n:]
	}
	return out.String()
}
