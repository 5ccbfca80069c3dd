package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"kexrelay/internal/simulator"
	"kexrelay/internal/telemetry"
)

// Where simulate listens and whom it knows if nobody says otherwise.
const (
	simulateAddr         = "127.0.0.1:8089"
	simulateClientID     = "dev"
	simulateClientSecret = "dev-secret" // The simulator's, good for nothing else.
)

// simulateCommand is `kexrelay simulate`.
type simulateCommand struct {
	env      *environment
	output   outputFlags
	addr     string
	script   string
	seed     uint64
	id       string
	secret   string
	maxBody  string
	requests bool
}

func newSimulateCommand(env *environment) *cobra.Command {
	c := &simulateCommand{env: env}
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Run a simulated KEX API with its token endpoint",
		Long: `Answers like the KEX Vorgang Update API and its token endpoint, as a script
says, and remembers what it booked. Its admin endpoints, on the same address,
show and change all of it. They ask for no credentials: keep it out of reach of
others.`,
		Example: `  kexrelay simulate
  kexrelay simulate --script script.yaml --seed 7
  curl 'http://127.0.0.1:8089/admin'
  curl 'http://127.0.0.1:8089/admin/ledger?vorgang=123456'`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&c.addr, "addr", simulateAddr, "`host:port` to listen on, port 0 for any free one")
	flags.StringVar(&c.script, "script", "", "YAML or JSON `file` that says how the API behaves; an API that works without one")
	flags.Uint64Var(&c.seed, "seed", 0, "`number` that makes chance repeatable")
	flags.StringVar(&c.id, "client-id", simulateClientID, "the `id` of the only client that gets a token; serve's KEX_CLIENT_ID")
	flags.StringVar(&c.secret, "client-secret", simulateClientSecret, "that client's `secret`; serve's KEX_CLIENT_SECRET")
	flags.StringVar(&c.maxBody, "max-body", "64MiB", "the largest request body; a larger one is answered 413 (`size`, as 200MiB)")
	flags.BoolVar(&c.requests, "log-requests", false, "log every request, without its content")
	c.output.register(cmd)
	completeNothing(cmd, "addr", "seed", "client-id", "client-secret", "max-body")
	return cmd
}

func (c *simulateCommand) run(ctx context.Context) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	config, err := c.options()
	if err != nil {
		return err
	}
	level := slog.LevelInfo
	if c.requests {
		level = slog.LevelDebug
	}
	config.Logger = telemetry.NewLogger(c.env.stderr, telemetry.LogOptions{
		Level: level, Terminal: terminal(c.env.stderr), NoColor: !c.env.colour(c.env.stderr),
	})
	sim, err := simulator.New(config)
	if err != nil {
		return usageError(err)
	}
	server, err := sim.Start(ctx, c.addr)
	if err != nil {
		return err
	}
	if err := c.say(p, server); err != nil {
		_ = server.Close() // That nobody can read where it is goes before.
		return err
	}
	return server.Wait() // Being told to stop is how it ends well.
}

// options reads the flags; every wrong one is told at once.
func (c *simulateCommand) options() (simulator.Config, error) {
	config := simulator.Config{ClientID: c.id, ClientSecret: c.secret, Seed: c.seed}
	var errs []error
	if c.id == "" {
		errs = append(errs, errors.New("--client-id: is empty"))
	}
	if c.secret == "" {
		errs = append(errs, errors.New("--client-secret: is empty"))
	}
	var err error
	if config.MaxBody, err = parseSize(c.maxBody); err != nil || config.MaxBody <= 0 {
		errs = append(errs, fmt.Errorf("--max-body: %q is not like 200MiB%s", c.maxBody, missingUnit(c.maxBody)))
	}
	if c.script != "" {
		if config.Script, err = simulator.LoadScript(c.script); err != nil {
			errs = append(errs, fmt.Errorf("--script: %w", err))
		}
	}
	return config, wrongUse(errs)
}

// wrongUse joins mistakes to one usage error, nil if there are none.
func wrongUse(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	return usageError(errors.Join(errs...))
}

// say prints where everything is, in the words of serve's options.
func (c *simulateCommand) say(p *printer, server *simulator.Server) error {
	if p.json {
		return p.object(struct {
			BaseURL  string `json:"baseUrl"`
			TokenURL string `json:"tokenUrl"`
			AdminURL string `json:"adminUrl"`
			ClientID string `json:"clientId"`
		}{server.BaseURL(), server.TokenURL(), server.AdminURL(), c.id})
	}
	for _, line := range [][2]string{
		{"KEX_BASE_URL", server.BaseURL()},
		{"KEX_TOKEN_URL", server.TokenURL()},
		{"KEX_CLIENT_ID", c.id},
		{"admin endpoints", server.AdminURL()},
	} {
		if err := p.line("%-15s  %s", line[0], line[1]); err != nil {
			return err
		}
	}
	return nil
}
