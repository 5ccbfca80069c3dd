package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kexrelay/internal/app"
	"kexrelay/internal/config"
	"kexrelay/internal/queue"
	"kexrelay/internal/telemetry"
)

// groupConnection is the section of the help for the flags that say how NATS is reached.
const groupConnection = "NATS (also the nats CLI's environment variables and contexts):"

// disconnectTimeout bounds the goodbye: a server that went away must not keep a command from ending.
const disconnectTimeout = time.Second

// addConnectionFlags adds the flags that say how NATS is reached, in a section of their own.
func addConnectionFlags(cmd *cobra.Command) {
	addOptions(cmd, groupConnection, config.ConnectionOptions)
}

// addOptions adds the flags of a set of options, in a section of their own in the help.
func addOptions(cmd *cobra.Command, title string, set config.OptionSet) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.SortFlags = false
	config.RegisterFlags(flags, set)
	flags.VisitAll(func(flag *pflag.Flag) {
		if flag.Annotations == nil {
			flag.Annotations = map[string][]string{}
		}
		flag.Annotations[flagGroup] = []string{title}
		cmd.Flags().AddFlag(flag)
	})
	for _, option := range config.Options(set) {
		switch {
		case strings.Contains(option.Value, "|"):
			completeFixed(cmd, option.Flag, strings.Split(option.Value, "|")...)
		case option.Value != "FILE" && option.Value != "bool":
			completeNothing(cmd, option.Flag)
		}
	}
}

// connect connects to NATS by flag, environment, named context or selected context. The caller closes the
// connection with disconnect.
func connect(ctx context.Context, env *environment, cmd *cobra.Command) (*queue.Conn, error) {
	settings, err := connectionSettings(env, cmd)
	if err != nil {
		return nil, err
	}
	return dial(ctx, env, settings)
}

func connectionSettings(env *environment, cmd *cobra.Command) (config.Connection, error) {
	settings, err := config.LoadConnection(cmd.Flags(), config.EnvOf(env.environ), config.CheckContext(queue.CheckContext), config.CheckIdentity(queue.CheckCreds, queue.CheckNKey))
	if err != nil {
		return config.Connection{}, usageError(err)
	}
	return settings, nil
}

func dial(ctx context.Context, env *environment, settings config.Connection) (*queue.Conn, error) {
	return dialTold(ctx, env, settings, nil)
}

// dialTold is dial for a command that says itself what was denied.
func dialTold(ctx context.Context, env *environment, settings config.Connection, denied func(subject string)) (*queue.Conn, error) {
	logger := connectionLogger(env)
	if denied != nil {
		logger = slog.New(slog.DiscardHandler)
	} else {
		denied = env.denials.Listen()
	}
	opts := app.ConnectOptions(settings)
	opts.Name = "kexrelay command"
	opts.UseSelectedContext = true
	conn, err := queue.Connect(ctx, opts, queue.Hooks{Logger: logger, OnPermission: denied})
	if errors.Is(err, queue.ErrSettings) { // The selected context, or a file that a context names.
		return nil, usageError(err)
	}
	return conn, err
}

// connectionLogger tells on stderr when the connection is lost and that it is tried again; a command that works
// says nothing.
func connectionLogger(env *environment) *slog.Logger {
	return telemetry.NewLogger(env.stderr, telemetry.LogOptions{
		Level: slog.LevelWarn, Format: telemetry.FormatText,
		Terminal: terminal(env.stderr), NoColor: !env.colour(env.stderr),
	})
}

// disconnect ends a command's connection after what it sent has arrived.
func disconnect(ctx context.Context, conn *queue.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), disconnectTimeout)
	defer cancel()
	// The command has its answers already; what could still fail here has no consequence.
	_ = conn.Drain(ctx)
}
