package main

import (
	"errors"
	"log/slog"
	"math"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/spf13/cobra"

	"kexrelay/internal/app"
	"kexrelay/internal/queue"
	"kexrelay/internal/telemetry"
)

func newServeCommand(env *environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the relay",
		Long: `serve consumes updates, books them through the KEX API and settles them, until
SIGTERM. It creates nothing in NATS: run 'kexrelay setup' once before.

Every option is a flag, an environment variable and a key of --config FILE, in
that order of precedence: --rate = KEXRELAY_RATE = rate. SIGTERM settles what is
being sent, then ends; a second one ends at once.`,
		Example: `  KEX_CLIENT_ID=… KEX_CLIENT_SECRET_FILE=/run/secrets/kex kexrelay serve
  kexrelay serve --config /etc/kexrelay.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := loadServe(env, cmd)
			if err != nil {
				return err
			}
			logger := telemetry.NewLogger(env.stderr, telemetry.LogOptions{
				Level: settings.Log.Level, Format: telemetry.Format(settings.Log.Format),
				Terminal: terminal(env.stderr), NoColor: !env.colour(env.stderr),
			})
			tuneMemory(env, logger)
			logger.Info("starting", slog.String("version", buildVersion()), slog.Any("config", settings))
			if err := app.Run(cmd.Context(), app.Options{
				Config: settings, Logger: logger, Build: telemetryBuild(),
			}); err != nil {
				// In the form of all other lines: whoever collects them must be able to read the last one too.
				logger.Error("the relay ended", slog.Any("error", err))
				if errors.Is(err, queue.ErrSettings) || errors.Is(err, telemetry.ErrAddress) {
					return exitWith(exitUsage)
				}
				return exitWith(exitFailed)
			}
			return nil
		},
	}
	registerServeFlags(cmd)
	return cmd
}

// gcPercent lets less garbage pile up than Go's default of 100: what is in memory are mostly documents, each used once,
// and half as much again on top of them is better than as much again.
const gcPercent = 50

// tuneMemory sets the garbage collector to documents, and tells it of a container's memory limit, so that it works
// harder before the kernel kills the process. GOGC and GOMEMLIMIT that were set go before.
func tuneMemory(env *environment, logger *slog.Logger) {
	if value, _ := env.lookup("GOGC"); value == "" {
		debug.SetGCPercent(gcPercent)
	}
	limit, err := memlimit.Set(memlimit.WithRatio(0.9), memlimit.WithProvider(memlimit.FromCgroup))
	if err != nil {
		logger.Debug("no memory limit of a container was found", slog.Any("error", err))
		return
	}
	if limit > 0 && limit < math.MaxInt64 {
		logger.Debug("memory limit taken from the container", slog.Int64("bytes", limit))
	}
}
