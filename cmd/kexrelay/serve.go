package main

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"runtime"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/spf13/cobra"

	"kexrelay/internal/app"
	"kexrelay/internal/config"
	"kexrelay/internal/embedded"
	"kexrelay/internal/queue"
	"kexrelay/internal/telemetry"
)

func newServeCommand(env *environment) *cobra.Command {
	streamsOnly := false
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the relay",
		Long: `serve consumes updates, books them through the KEX API and settles them, until
SIGTERM. It creates nothing in NATS: run 'kexrelay setup' once before.

With --embedded it is its own NATS, for a single machine without one: streams in
--embedded-dir, publishers at --embedded-addr, set up by itself.

Every option is a flag, an environment variable and a key of --config FILE, in
that order of precedence: --rate = KEXRELAY_RATE = rate. SIGTERM settles what is
being sent, then ends; a second one ends at once.`,
		Example: `  KEX_CLIENT_ID=… KEX_CLIENT_SECRET_FILE=/run/secrets/kex kexrelay serve
  kexrelay serve --config /etc/kexrelay.yaml
  kexrelay serve --embedded --embedded-dir /var/lib/kexrelay`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := loadServe(env, cmd)
			if err != nil {
				return err
			}
			run := serve
			if streamsOnly {
				if !settings.Embedded.Enabled {
					return usagef("--streams-only is of no use without --embedded\n%s", seeHelp(cmd))
				}
				run = serveStreams
			}
			logger := telemetry.NewLogger(env.stderr, telemetry.LogOptions{
				Level: settings.Log.Level, Format: telemetry.Format(settings.Log.Format),
				Terminal: terminal(env.stderr), NoColor: !env.colour(env.stderr),
			})
			takeLibraryLog(logger)
			room := tuneMemory(env, logger)
			defer runtime.KeepAlive(room)
			logger.Info("starting", slog.String("version", buildVersion()), slog.Any("config", settings))
			tracing, endTracing, err := startTracing(cmd.Context(), env, logger)
			if err != nil {
				return err
			}
			defer endTracing()
			if err := run(cmd.Context(), settings, logger, tracing, newServiceManager(env, logger)); err != nil {
				// In the form of all other lines: whoever collects them must be able to read the last one too.
				logger.Error("the relay ended", slog.Any("error", err))
				if errors.Is(err, queue.ErrSettings) || errors.Is(err, telemetry.ErrAddress) || errors.Is(err, embedded.ErrConfig) {
					return exitWith(exitUsage)
				}
				return exitWith(exitFailed)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&streamsOnly, "streams-only", false, "with --embedded: run NATS alone and send nothing, as after a restore")
	registerServeFlags(cmd)
	return cmd
}

// serve runs the relay.
func serve(ctx context.Context, settings config.Serve, logger *slog.Logger, tracing *telemetry.Tracing, manager serviceManager) error {
	return withEmbedded(ctx, settings, logger, func() error {
		late := manager.watch(ctx)
		defer late.Stop()
		return app.Run(ctx, app.Options{Config: settings, Logger: logger, Build: telemetryBuild(), Tracing: tracing, OnServing: func(string) {
			late.Stop()
			manager.ready("serving")
		}})
	})
}

// gcPercent lets less garbage pile up than Go's default of 100: what is in memory are mostly documents, each used once,
// and half as much again on top of them is better than as much again.
const gcPercent = 50

// roomBytes is counted as used but never touched, so it takes no memory; half of it may pile up as garbage before the
// collector runs, whatever else is in use. Without, a relay of small updates, a few megabytes in all, would collect forty
// times a second: a tenth of its CPU. More would be garbage beside documents that are streamed.
const roomBytes = 12 << 20

// tuneMemory sets the garbage collector to documents, and tells it of a container's memory limit, so that it works
// harder before the kernel kills the process. GOGC and GOMEMLIMIT that were set go before.
// What it returns must be kept until the end.
func tuneMemory(env *environment, logger *slog.Logger) (room []byte) {
	if value, _ := env.lookup("GOGC"); value == "" {
		debug.SetGCPercent(gcPercent)
		room = make([]byte, roomBytes)
	}
	limit, err := memlimit.Set(memlimit.WithRatio(0.9), memlimit.WithProvider(memlimit.FromCgroup))
	if err != nil {
		logger.Debug("no memory limit of a container was found", slog.Any("error", err))
		return room
	}
	if limit > 0 && limit < math.MaxInt64 {
		logger.Debug("memory limit taken from the container", slog.Int64("bytes", limit))
	}
	return room
}
