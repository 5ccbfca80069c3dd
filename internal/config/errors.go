package config

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxShown bounds what an error repeats of a value: enough for any sensible path or URL.
const maxShown = 256

// OptionError is one mistake in the configuration.
type OptionError struct {
	// Option is the option's key (kex.base-url), whatever way it was given. Mistakes about the file as a whole
	// have the option config; a key the file should not have stands as it was written.
	Option string
	// Name is the option as the user wrote it: KEX_BASE_URL, --kex-base-url or kex.base-url (file, line 3).
	Name string
	// Value is what was given; empty for secrets and for values that may hold one.
	Value string
	// Problem says what is wrong with it and what to do, as the rest of a sentence.
	Problem string
}

// Error is one line: name, value where it may be shown, problem.
func (e *OptionError) Error() string {
	text := e.Name + ": "
	if e.Value != "" {
		text += strconv.Quote(e.Value) + " "
	}
	return text + e.Problem
}

// showable is the value as an error may repeat it: not at all if the option is a secret or is often mistaken for
// one (somebody put the secret where its file belongs, and there is no such file) or the value looks like a URL with a
// password.
func (o Option) showable(text string) string {
	if o.Secret || o.discreet && !isPlace(text) || strings.ContainsAny(text, "@?") {
		return ""
	}
	if len(text) <= maxShown {
		return text
	}
	cut := maxShown
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}

// isPlace reports whether a text is surely a path: something is there, or would be in a directory that is. Of the root
// and the current directory anything could be said to be in them.
func isPlace(text string) bool {
	if _, err := os.Stat(text); err == nil {
		return true
	}
	dir := filepath.Dir(text)
	if dir == "." || filepath.Dir(dir) == dir {
		return false
	}
	info, err := os.Stat(dir)
	return err == nil && info.IsDir()
}
