package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
)

// logLines passes the server's log lines on to slog. The server expects a fatal line to end the process; here it
// is kept, so that Start can return it.
type logLines struct {
	logger *slog.Logger

	mu         sync.Mutex
	firstFatal string
}

func (l *logLines) Noticef(format string, v ...any) { l.write(slog.LevelDebug, format, v) }
func (l *logLines) Debugf(format string, v ...any)  { l.write(slog.LevelDebug, format, v) }
func (l *logLines) Tracef(format string, v ...any)  { l.write(slog.LevelDebug, format, v) }
func (l *logLines) Warnf(format string, v ...any)   { l.write(slog.LevelWarn, format, v) }
func (l *logLines) Errorf(format string, v ...any)  { l.write(slog.LevelWarn, format, v) }

func (l *logLines) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.firstFatal == "" {
		l.firstFatal = fmt.Sprintf(format, v...)
	}
}

// fatal is the line that should have ended the process, or "".
func (l *logLines) fatal() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.firstFatal
}

func (l *logLines) write(level slog.Level, format string, v []any) {
	ctx := context.Background() // The server's lines belong to no request.
	if !l.logger.Enabled(ctx, level) {
		return
	}
	l.logger.LogAttrs(ctx, level, "nats-server", slog.String("line", fmt.Sprintf(format, v...)))
}
