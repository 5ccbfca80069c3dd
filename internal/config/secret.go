package config

import (
	"fmt"
	"log/slog"
)

// redacted stands wherever a secret would.
const redacted = "<redacted>"

// Secret holds a text that no formatting may show: every method that makes text of it gives <redacted>. The text
// lies behind a pointer because fmt walks into unexported fields without asking their methods: it finds an
// address there.
type Secret struct{ text *string }

// NewSecret wraps text. An empty text makes a Secret that is not set.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{text: &text}
}

// Reveal is the secret itself, "" if none is set. Whoever calls it answers for where it goes.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsSet reports whether there is a secret.
func (s Secret) IsSet() bool { return s.text != nil }

// Equal reports whether both hold the same text.
func (s Secret) Equal(other Secret) bool { return s.Reveal() == other.Reveal() }

// String is <redacted>.
func (Secret) String() string { return redacted }

// GoString is <redacted>.
func (Secret) GoString() string { return redacted }

// Format writes <redacted> whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue is <redacted>.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON is "<redacted>".
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText is <redacted>.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
