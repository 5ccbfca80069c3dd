package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"kexrelay/internal/telemetry"
)

// lineWriter lets several goroutines print whole lines.
type lineWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lineWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func (l *lineWriter) printf(format string, args ...any) { fmt.Fprintf(l, format, args...) }

// wayHandler turns the relay's log into the story dev tells: one short line per attempt and per hold. Warnings and
// errors of other kinds pass as they are.
type wayHandler struct {
	out  *lineWriter
	rest slog.Handler
}

func newWayHandler(out *lineWriter, colour bool) *wayHandler {
	return &wayHandler{out: out, rest: telemetry.NewLogger(out, telemetry.LogOptions{
		Level: slog.LevelWarn, Format: telemetry.FormatText, Terminal: colour, NoColor: !colour,
	}).Handler()}
}

// Enabled takes what the story is made of.
func (h *wayHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}

// Handle prints one line.
func (h *wayHandler) Handle(ctx context.Context, r slog.Record) error {
	facts := make(map[string]string, r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		facts[a.Key] = a.Value.String()
		return true
	})
	at := r.Time.Format(time.TimeOnly)
	switch r.Message {
	case "attempt":
		said := "status " + facts["status"]
		switch {
		case facts["sent"] == "false":
			said = "not sent"
		case facts["status"] == "0":
			said = "no answer"
		}
		h.out.printf("%s  attempt %-2s %-10s %-10s  %-10s → %s%s\n", at, facts["attempt"], facts["vorgangsnummer"], facts["kind"],
			said, facts["outcome"], bracket(facts["reason"]))
	case "sending is held":
		h.out.printf("%s  HOLD       %s: sending stops for everybody\n", at, facts["reason"])
	case "sending is no longer held":
		h.out.printf("%s  HOLD ENDS  %s\n", at, facts["reason"])
	default:
		if r.Level >= slog.LevelWarn {
			return h.rest.Handle(ctx, r)
		}
	}
	return nil
}

// WithAttrs and WithGroup keep the story's lines as they are.
func (h *wayHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &wayHandler{out: h.out, rest: h.rest.WithAttrs(attrs)}
}

// WithGroup is part of slog.Handler.
func (h *wayHandler) WithGroup(name string) slog.Handler {
	return &wayHandler{out: h.out, rest: h.rest.WithGroup(name)}
}

func bracket(text string) string {
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

// programName is how the user called the program, for the lines to copy.
func programName() string {
	path, err := os.Executable()
	if err != nil || strings.Contains(path, "go-build") {
		return "go run ./cmd/kexrelay"
	}
	return filepath.Base(path)
}
