package main

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Exit codes, as documented for scripts.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitUnhealthy   = 3
	exitDeadLetter  = 4
	exitWaiting     = 5
	exitInterrupted = 130
)

// exitError ends the program with a code of its own. Its text may be empty: then everything was said already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usageError is a wrong call or a wrong configuration.
func usageError(err error) error { return &exitError{code: exitUsage, err: err} }

// usagef is usageError of a new text.
func usagef(format string, args ...any) error { return usageError(fmt.Errorf(format, args...)) }

// exitWith ends the program with a code after everything was said.
func exitWith(code int) error { return &exitError{code: code} }

// exitCode says on stderr what went wrong and chooses the code.
func exitCode(ctx context.Context, err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[*exitError](err); ok {
		if text := exit.Error(); text != "" {
			fmt.Fprintln(stderr, "kexrelay:", harmless(text)) // A server's words may be in it.
		}
		return exit.code
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		fmt.Fprintln(stderr, "kexrelay: interrupted")
		return exitInterrupted
	}
	fmt.Fprintln(stderr, "kexrelay:", harmless(err.Error()))
	return exitFailed
}
