package main

import (
	"io"
	"os"

	"golang.org/x/term"

	"kexrelay/internal/config"
	"kexrelay/internal/topology"
)

// environment is what a command may know of the outside: no command reads os.* itself, so that tests can run
// several of them side by side.
type environment struct {
	environ []string
	stdin   io.Reader
	stdout  io.Writer
	stderr  io.Writer
	// denials end the calls of a command that NATS does not permit.
	denials topology.Denials
}

// lookup gives the value of an environment variable.
func (e *environment) lookup(name string) (string, bool) { return config.EnvOf(e.environ)(name) }

// terminal reports whether stream is a terminal a person sits at.
func terminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// terminalWidth is the number of columns of the terminal behind stream, 0 if it is none.
func terminalWidth(stream any) int {
	file, ok := stream.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(file.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// terminalHeight is the number of lines of the terminal behind stream, 0 if it is none.
func terminalHeight(stream any) int {
	file, ok := stream.(*os.File)
	if !ok {
		return 0
	}
	_, height, err := term.GetSize(int(file.Fd()))
	if err != nil {
		return 0
	}
	return height
}

// colour reports whether text on stream may be coloured: on a terminal that can, unless the user says no
// (https://no-color.org).
func (e *environment) colour(stream any) bool {
	if value, _ := e.lookup("NO_COLOR"); value != "" {
		return false
	}
	if kind, _ := e.lookup("TERM"); kind == "dumb" {
		return false
	}
	return terminal(stream)
}
