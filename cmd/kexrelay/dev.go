package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/spf13/cobra"

	"kexrelay/internal/app"
	"kexrelay/internal/config"
	"kexrelay/internal/embedded"
	"kexrelay/internal/queue"
	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
)

const (
	devHTTPAddr    = "127.0.0.1:8080"
	devStreamBytes = 64 << 20
	// devLimit is how long the samples may take in all; they need a few seconds.
	devLimit = time.Minute
)

// devCommand is everything in one process.
type devCommand struct {
	env  *environment
	once bool
	dir  string
	port int
	// out serialises what the publisher, the relay and the results say.
	out *lineWriter

	server *embedded.Server
	sim    *simulator.Simulator
	api    *simulator.Server
	conn   *queue.Conn
}

func newDevCommand(env *environment) *cobra.Command {
	c := &devCommand{env: env}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run everything in one process, with sample updates",
		Long: `dev starts a NATS server, a simulated KEX API and the relay in this process,
publishes sample updates (documents and comments; some fail on purpose) and
shows the way of each. Then it stays up for your own updates.

Everything listens on this machine only. Without --dir nothing is left behind.`,
		Example: `  kexrelay dev
  kexrelay dev --once          # exit code 0 only if every sample came out right
  kexrelay dev --dir ./data    # keep the streams for the next time`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	cmd.Flags().BoolVar(&c.once, "once", false, "exit after the summary: 0 only if every sample came out as it should")
	cmd.Flags().StringVar(&c.dir, "dir", "", "keep the streams in this directory instead of a temporary one")
	cmd.Flags().IntVar(&c.port, "port", embedded.DefaultPort, "port of the NATS server; another free one if it is taken")
	return cmd
}

func (c *devCommand) run(ctx context.Context) (err error) {
	if c.port < 0 || c.port > 65535 {
		return usagef("--port: %d is no port: 1 to 65535, or 0 for any free one", c.port)
	}
	c.out = &lineWriter{w: c.env.stdout}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() { err = errors.Join(err, c.close(context.WithoutCancel(ctx))) }()
	if err := c.startSurroundings(ctx); err != nil {
		return err
	}

	// The relay of dev is the relay: same wiring, same configuration, only its surroundings are made up.
	serving, ended := make(chan string, 1), make(chan error, 1)
	settings, err := c.settings(ctx)
	if err != nil {
		return err
	}
	logger := slog.New(newWayHandler(c.out, c.env.colour(c.env.stdout)))
	takeLibraryLog(logger)
	go func() {
		ended <- app.Run(ctx, app.Options{
			Config: settings, Logger: logger, Build: telemetryBuild(),
			OnServing: func(addr string) { serving <- addr },
		})
	}()
	var health string
	select {
	case health = <-serving:
	case err := <-ended:
		return errors.Join(err, ctx.Err())
	}
	c.sayWhere(health)

	right, err := c.samples(ctx)
	switch {
	case err != nil:
	case c.once && !right:
		err = errors.New("not every sample came out as it should: see the table")
	case !c.once:
		c.sayWhatNow()
		select {
		case <-ctx.Done():
			fmt.Fprintln(c.env.stderr, "stopping")
		case err := <-ended:
			return errors.Join(errors.New("the relay ended"), err)
		}
	}
	cancel()
	return errors.Join(err, <-ended)
}

// startSurroundings starts NATS, the API and the topology, and connects.
func (c *devCommand) startSurroundings(ctx context.Context) (err error) {
	//nolint:contextcheck // the server ends by Shutdown, after everything that uses it
	c.server, err = embedded.Start(embedded.Options{Port: c.port, FallBack: true, StoreDir: c.dir})
	if err != nil {
		return err
	}
	if c.sim, err = simulator.New(simulator.Config{
		ClientID: simulateClientID, ClientSecret: simulateClientSecret, Script: devScript(), KeepBodies: true,
	}); err != nil {
		return err
	}
	if c.api, err = c.sim.Start(context.WithoutCancel(ctx), freeAddr(ctx, simulateAddr)); err != nil {
		return err
	}
	servers, err := config.ServersOf(c.server.URL())
	if err != nil {
		return err
	}
	if c.conn, err = dial(ctx, c.env, config.Connection{Servers: servers}); err != nil {
		return err
	}
	// JetStream reserves what a stream may grow to at once; a nearly full disk must not keep dev from starting.
	sizes := map[string]int64{
		topology.StreamUpdates: devStreamBytes, topology.StreamDeadLetters: devStreamBytes, topology.BucketDocuments: devStreamBytes,
	}
	_, err = topology.Setup(ctx, c.conn.JetStream(), topology.Options{MaxBytes: sizes})
	return err
}

// close ends the surroundings, in the reverse order.
func (c *devCommand) close(ctx context.Context) error {
	if c.conn != nil {
		disconnect(ctx, c.conn)
	}
	var errs []error
	if c.api != nil {
		c.sim.Close()
		errs = append(errs, c.api.Close())
	}
	if c.server != nil {
		errs = append(errs, c.server.Shutdown())
	}
	return errors.Join(errs...)
}

// settings are the relay's, as if they had been given in the environment. The user's own environment plays no part:
// dev must never reach a real API.
func (c *devCommand) settings(ctx context.Context) (config.Serve, error) {
	return config.LoadServe(nil, config.EnvOf([]string{
		"NATS_URL=" + c.server.URL(),
		"KEX_BASE_URL=" + c.api.BaseURL(), "KEX_TOKEN_URL=" + c.api.TokenURL(),
		"KEX_CLIENT_ID=" + simulateClientID, "KEX_CLIENT_SECRET=" + simulateClientSecret,
		"KEXRELAY_NAME=dev",
		"KEXRELAY_HTTP_ADDR=" + freeAddr(ctx, devHTTPAddr),
	}), "")
}

func (c *devCommand) sayWhere(health string) {
	taken := ""
	if c.server.FellBack() {
		taken = fmt.Sprintf("   (port %d is taken)", c.port)
	}
	c.out.printf("NATS       %s%s\n", c.server.URL(), taken)
	c.out.printf("API        %s   (simulated)\n", c.api.BaseURL())
	c.out.printf("relay      http://%s/readyz and /metrics\n", health)
	if c.dir != "" {
		c.out.printf("streams    %s\n", c.server.StoreDir())
	}
}

func (c *devCommand) sayWhatNow() {
	me, at := programName(), " --server "+c.server.URL()
	c.out.printf(`
Everything stays up; end it with ctrl-c. In another terminal:

  publish your own
    %[1]s publish comments%[2]s --vorgang 123456 'Testkommentar' --wait
    nats pub%[2]s --jetstream kex.vorgang.123456.kommentare '["Testkommentar"]'
  watch the results
    %[1]s results watch%[2]s
  look at the dead letters, mend the simulated API, send them again
    %[1]s deadletters list%[2]s
    curl -X PUT --data '{}' %[3]s/script
    %[1]s deadletters replay%[2]s --all --yes
  see what the API booked
    curl %[3]s/ledger

`, me, at, c.api.AdminURL())
}

// freeAddr is the preferred address, or any free one on this machine.
func freeAddr(ctx context.Context, preferred string) string {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", preferred)
	if err != nil {
		return "127.0.0.1:0"
	}
	_ = l.Close() // Nothing was sent over it.
	return preferred
}
