package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// On a terminal no row is wider than it, whatever the data; the columns that are worth least go first.
func TestTableFitsTheTerminal(t *testing.T) {
	rows := [][]cell{
		{text("kurz.pdf"), text("1"), text("id-1"), cell{"delivered", good}},
		{text("ein/sehr/langer/Pfad/zu/einem/Dokument.pdf"), text("12345"), text("id-2"), cell{strings.Repeat("detail ", 40), bad}},
	}
	for _, width := range []int{40, 80, 140} {
		t.Run(strconv.Itoa(width), func(t *testing.T) {
			var out strings.Builder
			p := &printer{w: &out, width: width}
			table := p.table(column{title: "FILE", share: 40}, column{title: "SEQ", right: true},
				column{title: "ID", from: 100}, column{title: "STATE"})
			for _, row := range rows {
				if err := table.add(slices.Clone(row)...); err != nil {
					t.Fatal(err)
				}
			}
			if err := table.flush(); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(out.String()) {
				if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > width {
					t.Errorf("a line has %d columns: %s", n, line)
				}
				if strings.HasSuffix(line, " \n") {
					t.Errorf("a line ends with spaces: %q", line)
				}
			}
			if got := strings.Contains(out.String(), "id-1"); got != (width >= 100) {
				t.Errorf("at %d columns the column ID is shown: %v", width, got)
			}
			if !strings.Contains(out.String(), "Dokument.pdf") {
				t.Errorf("the end of a path was cut:\n%s", &out)
			}
			if strings.Contains(out.String(), "\x1b") {
				t.Errorf("colour without being allowed:\n%q", &out)
			}
		})
	}
}

// Without a terminal nothing is cut or left out: another program reads it.
func TestTableIsWholeWithoutTerminal(t *testing.T) {
	var out strings.Builder
	p := &printer{w: &out}
	table := p.table(column{title: "FILE", share: 10}, column{title: "ID", from: 1000}, column{title: "STATE"})
	long := strings.Repeat("x", 300)
	if err := errors.Join(table.add(text(long+"a"), text("id-1"), text(long+"b")), table.flush()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{long + "a", "id-1", long + "b"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%.10s… is not whole in:\n%s", want, &out)
		}
	}
}

// Rows keep their columns when colours are on, and data cannot send the terminal anything.
func TestTableAlignsColoursAndDisarmsData(t *testing.T) {
	var out strings.Builder
	p := &printer{w: &out, colour: true}
	table := p.table(column{title: "A"}, column{title: "B"})
	if err := errors.Join(
		table.add(cell{"delivered", good}, text("x")),
		table.add(cell{"no", bad}, text("evil\x1b[2J\nrow\u202e")),
		table.flush(),
	); err != nil {
		t.Fatal(err)
	}
	want := "\x1b[2mA\x1b[0m          \x1b[2mB\x1b[0m\n" +
		"\x1b[32mdelivered\x1b[0m  x\n" +
		"\x1b[31mno\x1b[0m         evil?[2J row?\n"
	if out.String() != want {
		t.Errorf("got  %q\nwant %q", &out, want)
	}
}

// A long table is printed as it comes, with the columns of its beginning.
func TestLongTableStreams(t *testing.T) {
	var out strings.Builder
	table := (&printer{w: &out}).table(column{title: "N", min: 5}, column{title: "M"})
	for i := range tableBuffer {
		if err := table.add(text(strconv.Itoa(i)), text("x")); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Count(out.String(), "\n"); got != tableBuffer+1 {
		t.Fatalf("%d lines are printed, want header and %d", got, tableBuffer)
	}
	if err := table.add(text("later"), text("x")); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(out.String(), "later  x\n") {
		t.Error("the row after the buffer is not printed at once")
	}
}

func TestWrapBreaksBetweenWordsAndLongJSONBehindCommas(t *testing.T) {
	tests := map[string]struct {
		text  string
		width int
		want  []string
	}{
		"short":      {"one two", 10, []string{"one two"}},
		"no width":   {"one two", 0, []string{"one two"}},
		"at words":   {"one two three", 7, []string{"one two", "three"}},
		"long word":  {"a verylongword b", 6, []string{"a", "verylongword", "b"}},
		"characters": {"ää öö", 2, []string{"ää", "öö"}},
		"JSON":       {`{"a":1,"b":2} x`, 8, []string{`{"a":1,`, `"b":2} x`}},
		"commas":     {"one,two, three", 20, []string{"one,two, three"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := slices.Collect(wrap(test.text, test.width)); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestNumbersForPeople(t *testing.T) {
	durations := []struct {
		d    time.Duration
		want string
	}{
		{-time.Second, "0s"},
		{0, "0s"},
		{34 * time.Millisecond, "34ms"},
		{5940 * time.Millisecond, "5.9s"},
		{42 * time.Second, "42s"},
		{61 * time.Second, "1m01s"},
		{3*time.Hour + 5*time.Minute, "3h05m"},
		{49 * time.Hour, "2d01h"},
	}
	for _, test := range durations {
		if got := duration(test.d); got != test.want {
			t.Errorf("duration(%d): got %s, want %s", test.d, got, test.want)
		}
	}
	sizes := map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1 << 30: "1.0 GiB", 1<<63 - 1: "8.0 EiB"}
	for n, want := range sizes {
		if got := size(n); got != want {
			t.Errorf("size(%d): got %s, want %s", n, got, want)
		}
	}
}

// Colour is for terminals; what is asked for besides only takes it away.
func TestColourNeedsATerminal(t *testing.T) {
	env := &environment{environ: []string{"TERM=xterm"}}
	if env.colour(&strings.Builder{}) {
		t.Error("colour although there is no terminal")
	}
}

// The exit code says how a command ended, and each text is printed once.
func TestExitCodes(t *testing.T) {
	tests := map[string]struct {
		interrupted bool
		err         error
		code        int
		text        string
	}{
		"done":                  {false, nil, 0, ""},
		"failed":                {false, errors.New("no"), 1, "kexrelay: no\n"},
		"usage":                 {false, usagef("wrong %s", "flag"), 2, "kexrelay: wrong flag\n"},
		"usage, wrapped":        {false, fmt.Errorf("x: %w", usagef("y")), 2, "kexrelay: y\n"},
		"everything was said":   {false, exitWith(exitDeadLetter), 4, ""},
		"interrupted":           {true, fmt.Errorf("asking: %w", context.Canceled), 130, "kexrelay: interrupted\n"},
		"failed in the end":     {true, errors.New("disk full"), 1, "kexrelay: disk full\n"},
		"cancelled by somebody": {false, context.Canceled, 1, "kexrelay: context canceled\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var stderr strings.Builder
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.interrupted {
				cancel()
			}
			if code := exitCode(ctx, test.err, &stderr); code != test.code || stderr.String() != test.text {
				t.Errorf("got %d and %q, want %d and %q", code, &stderr, test.code, test.text)
			}
		})
	}
}
