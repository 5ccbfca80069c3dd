package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"

	"kexrelay/internal/app"
	"kexrelay/internal/config"
	"kexrelay/internal/embedded"
	"kexrelay/internal/queue"
	"kexrelay/internal/telemetry"
	"kexrelay/internal/topology"
)

// checkEmbedded says what is wrong with the configuration file of the embedded server.
func checkEmbedded(e config.Embedded) error {
	return embedded.CheckConfig(e.ConfigFile, !e.OnLoopback())
}

// serveStreams runs the embedded NATS without a relay: for whoever must look at the streams, or take updates back, before
// anything is sent.
func serveStreams(ctx context.Context, settings config.Serve, logger *slog.Logger, _ *telemetry.Tracing, manager serviceManager) error {
	return withEmbedded(ctx, settings, logger, func() error {
		manager.ready("NATS alone; nothing is sent")
		<-ctx.Done()
		return nil
	})
}

// withEmbedded starts the NATS server that --embedded asks for, if it does, before run and ends it after that.
func withEmbedded(ctx context.Context, settings config.Serve, logger *slog.Logger, run func() error) (err error) {
	if settings.Embedded.Enabled {
		server, err := startEmbedded(settings.Embedded, logger) //nolint:contextcheck // It ends by Shutdown, after everything that uses it.
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, server.Shutdown()) }()
		setUpEmbedded(ctx, settings, logger)
	}
	return run()
}

// startEmbedded starts the NATS server of `serve --embedded`.
func startEmbedded(e config.Embedded, logger *slog.Logger) (*embedded.Server, error) {
	host, port, err := net.SplitHostPort(e.Addr)
	if err != nil {
		return nil, err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	if host == "" {
		host = "0.0.0.0"
	}
	server, err := embedded.Start(embedded.Options{
		Host: host, Port: number, StoreDir: e.Dir, ConfigFile: e.ConfigFile, SyncAlways: e.Sync == config.SyncAlways, Logger: logger,
	})
	switch {
	case errors.Is(err, embedded.ErrPortTaken):
		return nil, fmt.Errorf("%w; is a nats-server running here? --embedded-addr chooses another port", err)
	case errors.Is(err, embedded.ErrStoreTaken):
		return nil, fmt.Errorf("%w; only one relay can be there, end the other one", err)
	case err != nil:
		return nil, err
	}
	logger.Info("nats-server is in this process", slog.String("url", e.URL()), slog.String("dir", server.StoreDir()))
	return server, nil
}

// setUpEmbedded sets the streams up, with what is there kept as it is. If that is refused, because the machine has too
// little room or the relay's user too few rights, this says why, and the relay waits for a `kexrelay setup` that works.
func setUpEmbedded(ctx context.Context, settings config.Serve, logger *slog.Logger) {
	opts := app.ConnectOptions(settings.NATS)
	opts.Name = "kexrelay setup"
	report, err := setUpOnce(ctx, opts)
	if err != nil {
		logger.Error("the streams could not be set up; kexrelay setup with the options it takes does it while this goes on",
			slog.Any("error", err), slog.String("server", settings.NATS.Servers.String()))
		return
	}
	for _, thing := range report.Things {
		if thing.Action != topology.Unchanged {
			logger.Info("set up", slog.String("name", thing.Name), slog.String("action", string(thing.Action)))
		}
	}
}

// setUpOnce sets up what is missing. Where nothing is, it needs only the right to look; a right that is denied ends it.
func setUpOnce(ctx context.Context, opts queue.ConnectOptions) (topology.Report, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn, err := queue.Connect(ctx, opts, queue.Hooks{OnPermission: func(subject string) {
		cancel(fmt.Errorf("the relay's user has no right to %s", subject))
	}})
	if err != nil {
		return topology.Report{}, err
	}
	defer disconnect(ctx, conn)
	if _, err := topology.Verify(ctx, conn.JetStream()); !errors.Is(err, topology.ErrSetupNeeded) {
		return topology.Report{}, because(ctx, err)
	}
	report, err := topology.Setup(ctx, conn.JetStream(), topology.Options{})
	return report, because(ctx, err)
}

// because is the reason why ctx ended, if that is why err came.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
