package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kexrelay/internal/app"
	"kexrelay/internal/config"
	"kexrelay/internal/deadletter"
	"kexrelay/internal/journal"
	"kexrelay/internal/queue"
	"kexrelay/internal/topology"
)

// doctorPatience bounds all checks together.
const doctorPatience = time.Minute

// doctorCommand is `kexrelay doctor`.
type doctorCommand struct {
	env    *environment
	output outputFlags
}

func newDoctorCommand(env *environment) *cobra.Command {
	c := &doctorCommand{env: env}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check everything that serve needs, and say what to do",
		Long: `Checks, with serve's configuration and from this machine: the configuration,
NATS, the rights to read there, the topology, DNS, proxy, TLS, the token and its
scopes, and whether the API answers. It sends no update and changes nothing.
That a relay may also write in NATS only serve itself shows.

Code 0: all is well. Code 3: something is not, and each line says what to do.`,
		Example: `  kexrelay doctor
  kexrelay doctor --config /etc/kexrelay.yaml
  kexrelay doctor --json | jq 'select(.ok | not)'`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	c.output.register(cmd)
	registerServeFlags(cmd)
	return cmd
}

func (c *doctorCommand) run(cmd *cobra.Command) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), doctorPatience)
	defer cancel()
	lookup := config.EnvOf(c.env.environ)
	file := config.File(cmd.Flags(), lookup)
	settings, wrong := config.LoadServe(cmd.Flags(), lookup, file, serveChecks()...)
	sick := false
	say := func(findings ...app.Finding) error {
		for _, f := range findings {
			sick = sick || !f.OK
			if err := printFinding(p, f); err != nil {
				return err
			}
		}
		return nil
	}
	if err := say(finding("configuration", wrong, "", "mend it; kexrelay config print shows where each value comes from")); err != nil {
		return err
	}
	if err := say(c.checkNATS(ctx, cmd, settings, wrong)...); err != nil {
		return err
	}
	if wrong == nil {
		if err := say(app.CheckAPI(ctx, settings, buildVersion())...); err != nil {
			return err
		}
	} else if err := say(app.Finding{Check: "API", Detail: "not looked at", Do: "mend the configuration first"}); err != nil {
		return err
	}
	switch {
	case cmd.Context().Err() != nil:
		return cmd.Context().Err()
	case sick:
		return exitWith(exitUnhealthy)
	}
	return nil
}

// finding is a check that either went well or gave an error.
func finding(check string, err error, well, do string) app.Finding {
	if err != nil {
		return app.Finding{Check: check, Detail: strings.ReplaceAll(err.Error(), "\n", "; "), Do: do}
	}
	return app.Finding{Check: check, OK: true, Detail: well}
}

func (c *doctorCommand) checkNATS(ctx context.Context, cmd *cobra.Command, settings config.Serve, wrong error) []app.Finding {
	connection := settings.NATS
	if wrong != nil { // What is wrong elsewhere need not hide how NATS is.
		var err error
		if connection, err = connectionSettings(c.env, cmd); err != nil {
			return []app.Finding{{Check: "NATS", Detail: "not looked at", Do: "mend the configuration first"}}
		}
	}
	conn, err := dial(ctx, c.env, connection)
	if err != nil {
		return []app.Finding{finding("NATS", err, "", "check --server, the credentials and the network; is nats-server running?")}
	}
	defer disconnect(ctx, conn)
	found := []app.Finding{{Check: "NATS", OK: true, Detail: conn.Server()}}
	there, err := topology.Verify(ctx, conn.JetStream())
	do := "check the user's rights to $JS.API.STREAM.INFO and $JS.API.CONSUMER.INFO"
	if errors.Is(err, topology.ErrSetupNeeded) {
		do = "run kexrelay setup; kexrelay setup --dry-run shows what it would do"
	} else if errors.Is(err, topology.ErrServerTooOld) {
		do = "upgrade nats-server"
	}
	found = append(found, finding("topology", err, "as it should be, nats-server "+there.Server, do))
	if err != nil {
		return found
	}
	return append(found, checkRights(ctx, conn)...)
}

// checkRights reads everything that commands and the relay read.
func checkRights(ctx context.Context, conn *queue.Conn) []app.Finding {
	js := conn.JetStream()
	store := deadletter.New(js, deadletter.Config{})
	defer store.Close()
	var found []app.Finding
	for _, right := range []struct {
		name string
		read func() error
	}{
		{"the updates", func() error {
			_, err := conn.Backlog(ctx)
			return err
		}},
		{"the results", func() error {
			for _, err := range journal.NewResults(js).List(ctx, journal.ResultFilter{Since: time.Now().Add(-time.Second)}) {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"the dead letters", func() error {
			for _, err := range store.List(ctx, deadletter.Filter{Limit: 1}) {
				return err
			}
			return nil
		}},
		{"holds and leases", func() error {
			_, err := journal.NewHolds(js).List(ctx)
			if err == nil {
				_, err = journal.NewLeases(js, "", slog.New(slog.DiscardHandler)).Holders(ctx)
			}
			return err
		}},
		{"the ledger", func() error {
			_, err := journal.ReadLedger(ctx, js)
			return err
		}},
	} {
		found = append(found, finding("right to read "+right.name, right.read(), "", "give this user the right that the detail names"))
	}
	return found
}

func printFinding(p *printer, f app.Finding) error {
	if p.json {
		return p.object(f)
	}
	const indent = 38 // For the longest name of a check.
	mark, word := good, "ok   "
	if !f.OK {
		mark, word = bad, "WRONG"
	}
	words := f.Detail
	if words == "" {
		words = "-"
	}
	// The label is not painted: its width counts.
	if err := p.hanging(word+" "+f.Check, words, mark, indent); err != nil {
		return err
	}
	if f.Do == "" {
		return nil
	}
	return p.hanging("", "→ "+f.Do, strong, indent)
}
