package telemetry

import (
	"encoding"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lmittmann/tint"
)

// Format is how log lines look.
type Format string

// The formats.
const (
	FormatAuto Format = "auto" // Text on a terminal, JSON elsewhere; also any format not named here.
	FormatText Format = "text"
	FormatJSON Format = "json"
)

// Time layouts: programs and files get the date and UTC, a person at a terminal the clock on the wall.
const (
	layoutRecord   = "2006-01-02T15:04:05.000Z07:00" // RFC 3339 with milliseconds.
	layoutTerminal = "15:04:05.000"
)

// LogOptions are how a logger is made.
type LogOptions struct {
	// Level is the least level that is logged; nil is info. A *slog.LevelVar may change it later.
	Level  slog.Leveler
	Format Format
	// Terminal says that the writer is one.
	Terminal bool
	// NoColor keeps colours from a terminal (NO_COLOR); elsewhere there are none anyway.
	NoColor bool
}

// NewLogger makes the process's logger on w.
func NewLogger(w io.Writer, o LogOptions) *slog.Logger {
	if o.Format == FormatJSON || o.Format != FormatText && !o.Terminal {
		return slog.New(newJSONHandler(w, o.Level))
	}
	options := &tint.Options{
		Level: o.Level, TimeFormat: layoutTerminal, NoColor: o.NoColor || !o.Terminal, ReplaceAttr: forPeople,
	}
	if !o.Terminal {
		options.TimeFormat = layoutRecord
		options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr { return forPeople(groups, inUTC(a)) }
	}
	return slog.New(tint.NewTextHandler(w, options))
}

// forPrograms writes times as RFC 3339 in UTC and durations with their unit: slog's own is a bare number of
// nanoseconds.
func forPrograms(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.String(a.Key, a.Value.Duration().String())
	}
	if a.Value.Kind() == slog.KindTime {
		return slog.String(a.Key, a.Value.Time().UTC().Format(layoutRecord))
	}
	return a
}

func inUTC(a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindTime {
		return slog.Time(a.Key, a.Value.Time().UTC())
	}
	return a
}

// forPeople takes from texts what would steer a terminal. tint quotes attributes, but lets escape sequences and
// DEL through, drops what follows a broken character, and does not quote the message; an answer of the API or a
// peer's address may hold all of that.
func forPeople(groups []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindString:
		harmless := strings.Map(visible, a.Value.String())
		if len(groups) == 0 && a.Key == slog.MessageKey {
			harmless = strings.Map(oneLine, harmless)
		}
		return slog.String(a.Key, harmless)
	case slog.KindAny:
		return harmlessAny(a)
	case slog.KindBool, slog.KindDuration, slog.KindFloat64, slog.KindInt64, slog.KindTime, slog.KindUint64,
		slog.KindGroup, slog.KindLogValuer: // Numbers and times are harmless, the rest does not come here.
	}
	return a
}

// harmlessAny makes a text of an error or another value if, and only if, that text would steer a terminal.
func harmlessAny(a slog.Attr) slog.Attr {
	switch a.Value.Any().(type) {
	case encoding.TextMarshaler, []byte: // Levels and typed values; tint quotes bytes as a whole.
		return a
	}
	text := fmt.Sprintf("%+v", a.Value.Any()) // As tint does.
	if harmless := strings.Map(visible, text); harmless != text {
		return slog.String(a.Key, harmless)
	}
	return a
}

// visible makes a picture of what steers a terminal and a question mark of what is no character.
func visible(r rune) rune {
	switch r {
	case '\x1b':
		return '␛'
	case '\x7f':
		return '␡'
	case utf8.RuneError:
		return '?'
	}
	return r
}

func oneLine(r rune) rune {
	if unicode.IsControl(r) {
		return ' '
	}
	return r
}
