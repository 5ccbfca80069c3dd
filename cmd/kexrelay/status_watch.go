package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"kexrelay/internal/config"
)

// What moves a terminal's cursor.
const (
	cursorHome = "\x1b[H"
	clearBelow = "\x1b[J"
	clearRight = "\x1b[K"
)

// follow shows the status again and again until ctx ends, which is how it ends well. On a terminal each takes the place
// of the one before; elsewhere they come one after the other, an empty line between two.
func (c *statusCommand) follow(ctx context.Context, p *printer, settings config.Connection) error {
	every, err := parseAgo(c.watch)
	if err != nil || every < 100*time.Millisecond {
		return usagef("--watch: %q is no duration of 100ms or more: write 2s, 10s or 1m", c.watch)
	}
	screen := terminal(c.env.stdout) && !p.json && !c.dumb()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for first := true; ; first = false {
		found, err := c.look(ctx, settings)
		if ctx.Err() != nil {
			return nil // ^C is how it ends.
		}
		if err != nil {
			return err
		}
		if err := c.show(p, found, screen, first); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// dumb reports a terminal that cannot move its cursor.
func (c *statusCommand) dumb() bool {
	kind, _ := c.env.lookup("TERM")
	return kind == "dumb"
}

// show writes one status: a block, or a whole screen in one piece, so that nothing flickers.
func (c *statusCommand) show(p *printer, found *status, screen, first bool) error {
	if p.json {
		return found.print(p)
	}
	var b bytes.Buffer
	block := *p
	block.w, block.width = &b, terminalWidth(c.env.stdout) // It may have been resized.
	head := localTime(found.CheckedAt)
	if screen {
		head += ", every " + c.watch + "; ^C ends"
	}
	if err := block.line("%s", block.paint(faint, head)); err != nil {
		return err
	}
	if err := found.print(&block); err != nil {
		return err
	}
	out := b.Bytes()
	switch {
	case screen:
		out = onScreen(out, terminalHeight(c.env.stdout), first)
	case !first:
		out = append([]byte("\n"), out...)
	}
	if _, err := io.Copy(p.w, bytes.NewReader(out)); err != nil {
		return writeError(err)
	}
	return nil
}

// onScreen is text in the place of what is on a terminal of this height; what does not fit is cut, because a terminal that
// scrolls would leave its beginning behind.
func onScreen(text []byte, height int, first bool) []byte {
	lines := bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
	if most := height - 1; height > 1 && len(lines) > most {
		more := len(lines) - most + 1
		lines = append(lines[:most-1], fmt.Appendf(nil, "… %s more", count(more, "line", "lines")))
	}
	out := []byte(cursorHome)
	if first {
		out = append(out, clearBelow...)
	}
	for _, line := range lines {
		out = append(append(append(out, line...), clearRight...), '\n')
	}
	return append(out, clearBelow...)
}
