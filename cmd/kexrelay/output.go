package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// Formats of -o.
const (
	formatTable = "table"
	formatJSON  = "json"
)

// outputFlags is -o and --json, on every command that prints data.
type outputFlags struct {
	format string
	json   bool
}

func (o *outputFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", formatTable, "`format` of what is printed: table (local time) or json (one object per line, UTC)")
	cmd.Flags().BoolVar(&o.json, "json", false, "short for -o json")
	completeFixed(cmd, "output", formatTable, formatJSON)
}

// open gives the printer for stdout.
func (o *outputFlags) open(env *environment) (*printer, error) {
	switch {
	case o.json && o.format == formatTable, o.format == formatJSON:
		return &printer{w: env.stdout, json: true}, nil
	case o.format == formatTable:
		return &printer{w: env.stdout, colour: env.colour(env.stdout), width: terminalWidth(env.stdout)}, nil
	}
	return nil, usagef("--output: %q is neither %s nor %s", o.format, formatTable, formatJSON)
}

// printer writes data: text for people or JSON for programs, never both.
type printer struct {
	w    io.Writer
	json bool
	// colour and width are those of the terminal: false and 0 where there is none.
	colour bool
	width  int
}

// object writes one JSON object in one line.
func (p *printer) object(v any) error {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return writeError(err)
	}
	if _, err := p.w.Write(escaped(b.Bytes())); err != nil {
		return writeError(err)
	}
	return nil
}

// escaped writes what could steer a terminal and JSON allows in a text (DEL, the second set of control characters, marks
// that turn the direction) as \u: to a program it is the same text.
func escaped(line []byte) []byte {
	harmless := func(r rune) bool { return r == '\n' || unicode.IsPrint(r) }
	if !bytes.ContainsFunc(line, func(r rune) bool { return !harmless(r) }) {
		return line
	}
	var b bytes.Buffer
	for _, r := range string(line) {
		switch {
		case harmless(r):
			b.WriteRune(r)
		case r > 0xFFFF:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.Bytes()
}

// line writes a line of text for people.
func (p *printer) line(format string, args ...any) error {
	if _, err := fmt.Fprintf(p.w, format+"\n", args...); err != nil {
		return writeError(err)
	}
	return nil
}

func writeError(err error) error { return fmt.Errorf("writing the output: %w", err) }

// factIndent is where the values of facts begin.
const factIndent = 19

// fact writes a name and its value. On a terminal a long value is broken between words and stays beside its name.
func (p *printer) fact(name, value string, c colour) error {
	return p.hanging(name+":", value, c, factIndent)
}

// hanging writes a text beside its label, broken on a terminal into lines that all begin at indent.
func (p *printer) hanging(label, value string, c colour, indent int) error {
	label = fmt.Sprintf("%-*s", indent, label)
	for line := range wrap(printable(value), p.width-indent) {
		if err := p.line("%s%s", label, p.paint(c, line)); err != nil {
			return err
		}
		label = strings.Repeat(" ", indent)
	}
	return nil
}

// wrap breaks text between words into lines of at most width characters; a longer word is broken behind its commas, as
// JSON is, and has a line of its own otherwise, so that an ID can be copied whole. A width of 0 or less breaks nothing.
func wrap(text string, width int) iter.Seq[string] {
	return func(yield func(string) bool) {
		if width <= 0 || utf8.RuneCountInString(text) <= width {
			yield(text)
			return
		}
		line, used := "", 0
		for word, glued := range words(text, width) {
			n := utf8.RuneCountInString(word)
			space := ""
			if used > 0 && !glued {
				space = " "
			}
			if used > 0 && used+len(space)+n > width {
				if !yield(line) {
					return
				}
				line, used, space = "", 0, ""
			}
			line, used = line+space+word, used+len(space)+n
		}
		yield(line)
	}
}

// words gives the words of a text, those that are too long for a line in pieces; glued says of a piece that no space is
// before it.
func words(text string, width int) iter.Seq2[string, bool] {
	return func(yield func(word string, glued bool) bool) {
		for word := range strings.FieldsSeq(text) {
			if utf8.RuneCountInString(word) <= width {
				if !yield(word, false) {
					return
				}
				continue
			}
			glued := false
			for piece := range strings.SplitAfterSeq(word, ",") {
				if piece != "" && !yield(piece, glued) {
					return
				}
				glued = true
			}
		}
	}
}

// paint is text in a colour, if there may be one.
func (p *printer) paint(c colour, text string) string {
	if !p.colour || c == plain || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// colour is the number of an ANSI escape sequence.
type colour string

// The colours and what they mean here.
const (
	plain  colour = ""
	good   colour = "32" // Green.
	bad    colour = "31" // Red.
	warn   colour = "33" // Yellow.
	faint  colour = "2"
	strong colour = "1"
)

// localTime is a time for people, of one width.
func localTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}

// duration is a duration for people, in at most two units.
func duration(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "0s"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Minute:
		return d.Round(time.Second).String()
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%02dh", d/day, d%day/time.Hour)
}

// size is a number of bytes for people.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, exponent := float64(n)/unit, 0
	for value >= unit && exponent < len("KMGTPE")-1 {
		value /= unit
		exponent++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[exponent])
}

// count is a number with its noun: 1 update, 2 updates.
func count[N int | int64 | uint64](n N, one, many string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, one)
	}
	return fmt.Sprintf("%d %s", n, many)
}
