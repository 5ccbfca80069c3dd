package main

import (
	"context"
	"fmt"
	"strings"
)

// canAsk reports whether somebody sits at a terminal who can be asked.
func (e *environment) canAsk() bool { return terminal(e.stdin) && terminal(e.stderr) }

// confirmed asks a question on the terminal and reports whether the answer is yes.
func confirmed(ctx context.Context, env *environment, question string) (bool, error) {
	fmt.Fprintf(env.stderr, "%s [y/N] ", question)
	answer, err := readAnswer(ctx, env)
	if err != nil {
		return false, err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes", "j", "ja":
		return true, nil
	}
	return false, nil
}

// onTerminal prints for the person who is asked.
func (e *environment) onTerminal() *printer {
	return &printer{w: e.stderr, colour: e.colour(e.stderr), width: terminalWidth(e.stderr)}
}
