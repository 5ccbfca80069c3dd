package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// run is the whole program: it parses args, runs one subcommand and gives the exit code. SIGINT and SIGTERM end
// the command's context; a second signal ends the process at once, as users expect of ^C ^C.
func run(args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // from now on the default action of a second signal is back

	takeLibraryLog(slog.New(slog.DiscardHandler)) // A command that works says nothing; serve has a log.
	env := &environment{environ: environ, stdin: stdin, stdout: stdout, stderr: stderr}
	root := newRootCommand(env)
	root.SetArgs(args)
	return exitCode(ctx, root.ExecuteContext(env.denials.Into(ctx)), stderr)
}

// Groups of commands in the help.
const (
	groupRun  = "run"
	groupWork = "work"
	groupLook = "look"
)

func newRootCommand(env *environment) *cobra.Command {
	root := &cobra.Command{
		Use:   "kexrelay",
		Short: "Carries documents and comments from a CRM into Europace KreditSmart",
		Long: `kexrelay consumes updates (documents and comments) that a CRM publishes to NATS
JetStream, books them through the KEX Vorgang Update API, retries what can be
retried and dead-letters what cannot.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 not healthy,
4 an update ended as a dead letter, 5 still waiting at the time limit,
130 interrupted.`,
		Example: `  kexrelay setup
  kexrelay publish comments --vorgang 123456 'Testkommentar' --wait
  kexrelay status`,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.SetIn(env.stdin)
	root.SetOut(env.stdout)
	root.SetErr(env.stderr)
	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Run it:"},
		&cobra.Group{ID: groupWork, Title: "Work with updates:"},
		&cobra.Group{ID: groupLook, Title: "Look after it:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, cmd := range commands {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	add(groupRun, newDevCommand(env), newServeCommand(env), newSetupCommand(env), newSimulateCommand(env))
	add(groupWork, newPublishCommand(env), newTraceCommand(env), newResultsCommand(env), newUpdatesCommand(env), newDeadLettersCommand(env))
	add(groupLook, newStatusCommand(env), newDoctorCommand(env), newReportCommand(env), newPauseCommand(env), newResumeCommand(env), newHealthcheckCommand(), newConfigCommand(env), newVersionCommand(env))
	finish(env, root)
	return root
}

// finish gives the whole tree what every command has in common: help that fits the terminal, and usage errors
// that end with code 2 and say where to read on.
func finish(env *environment, root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	root.SetHelpCommand(newHelpCommand(root))
	root.InitDefaultHelpCmd()
	root.SetUsageFunc(func(cmd *cobra.Command) error { return printUsage(env, cmd) })
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w\n%s", err, seeHelp(cmd))
	})
	strict(root)
}

// seeHelp is the hint that ends a usage error.
func seeHelp(cmd *cobra.Command) string { return "See '" + cmd.CommandPath() + " --help'." }

// strict makes wrong arguments of cmd and everything below it usage errors. A command that says nothing about its
// arguments takes none; one that only holds others is a mistake when it is called alone.
func strict(cmd *cobra.Command) {
	cmd.Flags().SortFlags = false // The help lists them in the order they were thought of.
	check := cmd.Args
	switch {
	case cmd.HasSubCommands():
		check = noSuchCommand
	case check == nil:
		check = noArguments
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usagef("%w\n%s", err, seeHelp(cmd))
		}
		return nil
	}
	if !cmd.Runnable() {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error {
			return usagef("%s needs a command\n%s", cmd.CommandPath(), seeHelp(cmd))
		}
	}
	for _, sub := range cmd.Commands() {
		strict(sub)
	}
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no arguments, but there is %q", cmd.CommandPath(), args[0])
	}
	return nil
}

// noSuchCommand names the commands that were probably meant.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return errors.New(text)
}

// newGroupCommand is a command that only holds others.
func newGroupCommand(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short}
	cmd.AddCommand(commands...)
	return cmd
}
