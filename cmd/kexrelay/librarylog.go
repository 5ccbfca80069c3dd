package main

import (
	"bytes"
	"log" //nolint:depguard // What writes there is not ours, but what becomes of it is.
	"log/slog"
)

// maxLibraryText bounds what is told of one line.
const maxLibraryText = 200

// libraryLog is where Go's own logger writes to, which some libraries use unasked. net/http above all: an API that
// answers twice is quoted there with up to 4 KiB of its second answer, which may hold anything that was sent before,
// tokens and content included. So what is quoted is left out, and the rest is an ordinary line.
type libraryLog struct{ logger *slog.Logger }

// takeLibraryLog sends what libraries log to logger. There is one such log per process: the last call counts.
func takeLibraryLog(logger *slog.Logger) {
	log.SetFlags(0)
	log.SetOutput(libraryLog{logger})
}

// Write logs one line up to its first quotation.
func (l libraryLog) Write(line []byte) (int, error) {
	said, _, _ := bytes.Cut(line, []byte(`"`))
	said = bytes.TrimSpace(said[:min(len(said), maxLibraryText)])
	l.logger.Warn("a library reported something", slog.String("text", string(bytes.ToValidUTF8(said, nil))))
	return len(line), nil
}
