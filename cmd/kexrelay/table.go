package main

import (
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// tableBuffer is how many rows are kept to find the columns' widths before the first one is printed.
const tableBuffer = 200

// minLastWidth is how narrow the last column may become before it is left out on a terminal.
const minLastWidth = 8

// column is a column of a table.
type column struct {
	title string
	// min is the width to expect, so that rows that come later do not shift.
	min int
	// right aligns numbers.
	right bool
	// from leaves the column out on terminals narrower than this.
	from int
	// share is how much of a terminal's width the column may take, in percent; 0 for as much as it needs. What is too
	// long loses its beginning: of paths and IDs the end tells more.
	share int
}

// cell is the text of a row in a column.
type cell struct {
	text   string
	colour colour
}

// text is a cell without a colour.
func text(s string) cell { return cell{text: s} }

// table prints rows in columns. On a terminal no line is longer than the terminal is wide: the last column is cut.
// Elsewhere nothing is cut, so that other programs get all of it.
type table struct {
	p       *printer
	columns []column
	shown   []int // Indexes of the columns that are shown.
	widths  []int // By index of the column.
	rows    [][]cell
	started bool
}

// table makes a table; flush ends it.
func (p *printer) table(columns ...column) *table {
	t := &table{p: p, columns: columns, widths: make([]int, len(columns))}
	for i, c := range columns {
		t.widths[i] = max(c.min, utf8.RuneCountInString(c.title))
		if p.width == 0 || p.width >= c.from {
			t.shown = append(t.shown, i)
		}
	}
	return t
}

// add adds a row with one cell per column.
func (t *table) add(cells ...cell) error {
	for i := range cells {
		cells[i].text = printable(cells[i].text)
		if most := t.p.width * t.columns[i].share / 100; most > 0 {
			cells[i].text = shortenStart(cells[i].text, most)
		}
		t.widths[i] = max(t.widths[i], utf8.RuneCountInString(cells[i].text))
	}
	if t.started {
		return t.print(cells)
	}
	t.rows = append(t.rows, cells)
	if len(t.rows) >= tableBuffer {
		return t.flush()
	}
	return nil
}

// flush prints what was kept back. Rows added afterwards are printed at once. A table without rows prints nothing.
func (t *table) flush() error {
	if len(t.rows) == 0 {
		return nil
	}
	if !t.started {
		t.started = true
		if err := t.header(); err != nil {
			return err
		}
	}
	for _, row := range t.rows {
		if err := t.print(row); err != nil {
			return err
		}
	}
	t.rows = nil
	return nil
}

// stream prints the header, and from now on each row at once.
func (t *table) stream() error {
	if t.started {
		return nil
	}
	t.started = true
	return t.header()
}

func (t *table) header() error {
	titles := make([]cell, len(t.columns))
	for i, c := range t.columns {
		titles[i] = cell{text: c.title, colour: faint}
	}
	return t.print(titles)
}

func (t *table) print(row []cell) error {
	var b strings.Builder
	used := 0
	for n, i := range t.shown {
		content, last := row[i], n == len(t.shown)-1
		if n > 0 {
			b.WriteString("  ")
			used += 2
		}
		if last && t.p.width > 0 {
			content.text = shorten(content.text, t.p.width-used)
		}
		padding := strings.Repeat(" ", max(0, t.widths[i]-utf8.RuneCountInString(content.text)))
		switch {
		case t.columns[i].right:
			b.WriteString(padding + t.p.paint(content.colour, content.text))
		case last:
			b.WriteString(t.p.paint(content.colour, content.text))
		default:
			b.WriteString(t.p.paint(content.colour, content.text) + padding)
		}
		used += t.widths[i]
	}
	if _, err := io.WriteString(t.p.w, strings.TrimRight(b.String(), " ")+"\n"); err != nil {
		return writeError(err)
	}
	return nil
}

// shorten cuts text to a number of characters and marks the cut.
func shorten(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	if width < minLastWidth {
		return ""
	}
	return string([]rune(text)[:width-1]) + "…"
}

// shortenStart is shorten at the other end.
func shortenStart(text string, width int) string {
	runes := []rune(text)
	if len(runes) <= width {
		return text
	}
	return "…" + string(runes[len(runes)-width+1:])
}

// harmless is printable for a text of several lines, as errors are.
func harmless(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = printable(line)
	}
	return strings.Join(lines, "\n")
}

// printable replaces what could move a terminal's cursor or break a row: data may come from anybody who publishes.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}
