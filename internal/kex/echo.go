package kex

import (
	"encoding/base64"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"
)

// class says how much of a piece of the request may show up in an answer before it is taken for an echo.
type class struct {
	// gram is the number of glyphs in a row that are taken for an echo; of shorter values, all glyphs.
	gram uint
	// words reports that also each single word of at least two glyphs is.
	words bool
}

// The shorter gram is, the more of an innocent answer is lost, and the more so the longer the request is: among the
// five million characters of a document nearly all short grams occur.
var (
	fileNames = class{gram: 4, words: true}
	texts     = class{gram: 5, words: true}
	secrets   = class{gram: 5}
	contents  = class{gram: 8}
)

const (
	maxGram = 8
	// minDecoded is the shortest run that is tried as base64 or hex.
	minDecoded = 8
	// minDecodedWord keeps the accidental two-letter words in such attempts from counting.
	minDecodedWord = 4
)

// view is one reading of the answer.
type view struct {
	glyphs  []glyph
	decoded bool // Read from base64 or hex: every glyph stands for the whole run.
}

// echo is an answer that is held against what was sent. All its grams and words are put into an index, then the
// request passes by once and hits are noted: so the work is in proportion to the request, the memory to the answer.
type echo struct {
	text   string
	views  []view
	index  map[uint64]bool
	filter [1024]uint64 // A bit per index entry, so that nearly all misses cost no look-up.
}

func newEcho(text string) *echo {
	e := &echo{text: text, index: make(map[uint64]bool)}
	e.views = append(e.views, view{glyphs: spelling{}.glyphs(text)})
	if strings.ContainsAny(text, `\%=&Ã`) {
		e.views = append(e.views, view{glyphs: spelling{unescape: true}.glyphs(text)})
	}
	if transliterated.MatchString(text) {
		e.views = append(e.views, view{glyphs: spelling{unescape: true, digraphs: true}.glyphs(text)})
	}
	e.decodeRuns()
	for _, v := range e.views {
		v.each(func(key uint64, _, _ int) {
			e.index[key] = false
			e.filter[key>>54] |= 1 << (key >> 48 & 63)
		})
	}
	return e
}

// meet notes that key, of something that was sent, occurred.
func (e *echo) meet(key uint64) {
	if e.filter[key>>54]&(1<<(key>>48&63)) == 0 {
		return
	}
	if _, ok := e.index[key]; ok {
		e.index[key] = true
	}
}

// marks tells for each byte of the text whether it is to be redacted: all grams and words that occurred, each
// extended to whole words.
func (e *echo) marks() []bool {
	marked := make([]bool, len(e.text))
	for _, v := range e.views {
		met := make([]bool, len(v.glyphs))
		v.each(func(key uint64, from, to int) {
			if e.index[key] {
				for i := from; i < to; i++ {
					met[i] = true
				}
			}
		})
		v.mark(met, marked)
	}
	return marked
}

// mark marks the bytes of all words of which a glyph was met.
func (v view) mark(met, marked []bool) {
	for from := 0; from < len(v.glyphs); {
		to := from + 1
		for !v.endsWord(to - 1) {
			to++
		}
		if slices.Contains(met[from:to], true) {
			for i := v.glyphs[from].start; i < v.glyphs[to-1].end; i++ {
				marked[i] = true
			}
		}
		from = to
	}
}

// transliterated is what may stand for an umlaut.
var transliterated = regexp.MustCompile(`(?i)[aou]e|ss`)

// Keys of the index: the length of a gram, or a whole word or short row of words.
const wholeWords = 0

// each calls f with the key and place of each gram, each word and each row of words shorter than a gram.
func (v view) each(f func(key uint64, from, to int)) {
	for i := range v.glyphs {
		var h uint64
		for j := i; j < len(v.glyphs) && j < i+maxGram; j++ {
			h = extend(h, v.glyphs[j].r)
			switch n := uint(j + 1 - i); n {
			case fileNames.gram, texts.gram, contents.gram:
				f(keyOf(n, h), i, j+1)
			}
			if v.endsWord(j) && v.glyphs[i].first && j < i+maxGram-1 {
				v.word(f, h, i, j+1)
			}
		}
		if v.glyphs[i].first {
			v.longWord(f, i)
		}
	}
}

// longWord calls f for a word that begins at i and is not shorter than the longest gram.
func (v view) longWord(f func(key uint64, from, to int), i int) {
	var h uint64
	for j := i; j < len(v.glyphs) && (j == i || !v.glyphs[j].first); j++ {
		h = extend(h, v.glyphs[j].r)
		if v.endsWord(j) && j >= i+maxGram-1 {
			v.word(f, h, i, j+1)
		}
	}
}

func (v view) word(f func(key uint64, from, to int), h uint64, from, to int) {
	if v.decoded && to-from < minDecodedWord || isFileType(v.glyphs[from:to]) {
		return
	}
	f(keyOf(wholeWords, h), from, to)
}

func (v view) endsWord(j int) bool { return j+1 == len(v.glyphs) || v.glyphs[j+1].first }

// isFileType reports a word that says what kind of file it is and nothing about its content: "only pdf allowed" has
// to stay readable although the file's name ends with it.
func isFileType(word []glyph) bool {
	if len(word) > 4 {
		return false
	}
	var name [4]rune
	for i, g := range word {
		name[i] = g.r
	}
	switch string(name[:len(word)]) {
	case "pdf", "jpg", "jpeg", "png", "tif", "tiff", "gif", "doc", "docx", "xls", "xlsx", "txt", "csv", "zip", "xml", "json", "heic":
		return true
	}
	return false
}

// decodeRuns adds what base64 (both alphabets, whatever the fragment's alignment) and hex runs of the text decode to.
func (e *echo) decodeRuns() {
	for start := 0; start < len(e.text); {
		end := start
		for end < len(e.text) && isBase64(e.text[end]) {
			end++
		}
		if end-start >= minDecoded {
			e.decodeRun(start, end)
		}
		start = max(end, start+1)
	}
}

func (e *echo) decodeRun(start, end int) {
	run := strings.NewReplacer("-", "+", "_", "/").Replace(e.text[start:end])
	add := func(decoded []byte) {
		glyphs := spelling{unescape: true}.glyphs(latin1(decoded))
		for i := range glyphs {
			glyphs[i].start, glyphs[i].end = start, end
		}
		e.views = append(e.views, view{glyphs: glyphs, decoded: true})
	}
	for skip := range 4 {
		rest := run[min(skip, len(run)):]
		if len(rest)%4 == 1 {
			rest = rest[:len(rest)-1]
		}
		decoded, _ := base64.RawStdEncoding.DecodeString(rest) // Loose bits at the end are no matter.
		add(decoded)
	}
	for _, pairs := range []string{run[:len(run)&^1], run[1 : 1+(len(run)-1)&^1]} {
		if decoded, err := hex.DecodeString(pairs); err == nil {
			add(decoded)
		}
	}
}

func isBase64(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '+' || c == '/' || c == '-' || c == '_'
}

// The hash is a polynomial, so that the window over the request can roll.
const hashBase = 0x9e3779b97f4a7c15

func extend(h uint64, r rune) uint64 { return h*hashBase + uint64(r) + 1 } //nolint:gosec // a rune is positive here.

func keyOf(kind uint, h uint64) uint64 {
	h = (h ^ uint64(kind)) * 0xff51afd7ed558ccd
	return h ^ h>>32
}
