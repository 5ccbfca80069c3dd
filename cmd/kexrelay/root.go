package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"
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

// environment is what a command may know of the outside: no command reads os.* itself, so that tests can run
// several of them side by side.
type environment struct {
	environ []string
	stdin   io.Reader
	stdout  io.Writer
	stderr  io.Writer
}

// lookup gives the value of an environment variable. The last setting wins, as in a shell.
func (e *environment) lookup(name string) (string, bool) {
	for i := len(e.environ) - 1; i >= 0; i-- {
		if key, value, ok := strings.Cut(e.environ[i], "="); ok && key == name {
			return value, true
		}
	}
	return "", false
}

// terminal reports whether w is a terminal a person looks at.
func terminal(w any) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd())) //nolint:gosec // a file descriptor fits an int
}

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

// run is the whole program: it parses args, runs one subcommand and gives the exit code. SIGINT and SIGTERM end
// the command's context; a second signal ends the process at once, as users expect of ^C ^C.
func run(args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // from now on the default action of a second signal is back

	env := &environment{environ: environ, stdin: stdin, stdout: stdout, stderr: stderr}
	root := newRootCommand(env)
	root.SetArgs(args)
	return exitCode(ctx, root.ExecuteContext(ctx), stderr)
}

// exitCode says on stderr what went wrong and chooses the code.
func exitCode(ctx context.Context, err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	code := exitFailed
	if exit, ok := errors.AsType[*exitError](err); ok {
		code = exit.code
	} else if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(stderr, "kexrelay:", text)
	}
	return code
}

func newRootCommand(env *environment) *cobra.Command {
	root := &cobra.Command{
		Use:   "kexrelay",
		Short: "Carries documents and comments from a CRM into Europace KreditSmart",
		Long: `kexrelay consumes updates (documents and comments) that a CRM publishes to NATS JetStream, books them
through the KEX Vorgang Update API, retries what can be retried and dead-letters what cannot.

Try it with nothing installed:  kexrelay dev`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.SetIn(env.stdin)
	root.SetOut(env.stdout)
	root.SetErr(env.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(fmt.Errorf("%w\nSee '%s --help'", err, cmd.CommandPath()))
	})
	root.AddCommand(newVersionCommand(env))
	return root
}
