package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kexrelay/internal/config"
	"kexrelay/internal/queue"
	"kexrelay/internal/topology"
)

// setupPause is how long setup waits before it tries again to reach NATS.
const setupPause = 500 * time.Millisecond

// setupCommand is `kexrelay setup`.
type setupCommand struct {
	env        *environment
	output     outputFlags
	partitions int
	replicas   int
	storage    string
	sizes      []string
	resultAge  string
	dryRun     bool
	wait       time.Duration
}

func newSetupCommand(env *environment) *cobra.Command {
	c := &setupCommand{env: env}
	cmd := &cobra.Command{
		Use:   "setup",
		Short: "Create the streams, consumers and buckets in NATS, or mend them",
		Long: `Creates what kexrelay needs in NATS, or changes what differs from it, and prints
what it did. A second call changes nothing; a flag that is not given keeps what
is there. What cannot be put right is refused before anything is changed.`,
		Example: `  kexrelay setup --dry-run
  kexrelay setup --replicas 3
  kexrelay setup --max-bytes KEX_UPDATES=20GiB --max-bytes KEX_DOCUMENTS=50GiB`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	flags := cmd.Flags()
	flags.BoolVar(&c.dryRun, "dry-run", false, "show what would be done and change nothing")
	flags.IntVar(&c.partitions, topology.FlagPartitions, 0, "`number` of consumers that share the updates, 1 for a new installation")
	flags.IntVar(&c.replicas, topology.FlagReplicas, 0, "`number` of servers that keep a copy; 1 for a new installation, take 3 in a cluster")
	flags.StringVar(&c.storage, topology.FlagStorage, "", "where NATS keeps everything, `file|memory`; file for a new installation, never changed later")
	flags.StringArrayVar(&c.sizes, topology.FlagMaxBytes, nil, "room for a stream or bucket as `name=size`, e.g. KEX_UPDATES=20GiB or KEX_RESULTS=unlimited; several times for several")
	flags.StringVar(&c.resultAge, topology.FlagResultAge, "", "`duration` results are kept, e.g. 720h or 90d; 30d for a new installation")
	flags.DurationVar(&c.wait, "wait", 0, "`duration` to wait for NATS to come up, e.g. 60s")
	c.output.register(cmd)
	completeNothing(cmd, topology.FlagPartitions, topology.FlagReplicas, topology.FlagResultAge, "wait")
	completeFixed(cmd, topology.FlagStorage, string(topology.File), string(topology.Memory))
	var names []string
	for _, name := range topology.Names() {
		names = append(names, name+"=")
	}
	completeFixed(cmd, topology.FlagMaxBytes, names...)
	addConnectionFlags(cmd)
	return cmd
}

func (c *setupCommand) run(cmd *cobra.Command) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	opts, err := c.options(cmd)
	if err != nil {
		return err
	}
	settings, err := connectionSettings(c.env, cmd)
	if err != nil {
		return err
	}
	report, err := c.setUp(cmd.Context(), settings, opts)
	if printErr := printReport(p, report); printErr != nil && err == nil {
		err = printErr
	}
	return err
}

// options reads the flags; every wrong one is told at once.
func (c *setupCommand) options(cmd *cobra.Command) (topology.Options, error) {
	opts := topology.Options{
		Partitions: c.partitions, Replicas: c.replicas, Storage: topology.Storage(c.storage), DryRun: c.dryRun,
	}
	var errs []error
	for _, flag := range []string{topology.FlagPartitions, topology.FlagReplicas} {
		if f := cmd.Flags().Lookup(flag); f.Changed && f.Value.String() == "0" {
			errs = append(errs, fmt.Errorf("--%s: 0 is too few", flag))
		}
	}
	for _, text := range c.sizes {
		name, value, ok := strings.Cut(text, "=")
		bytes, err := parseSize(value)
		if !ok || err != nil {
			errs = append(errs, fmt.Errorf("--%s: %q is not like KEX_UPDATES=20GiB or KEX_RESULTS=unlimited%s", topology.FlagMaxBytes, text, missingUnit(value)))
			continue
		}
		if opts.MaxBytes == nil {
			opts.MaxBytes = map[string]int64{}
		}
		opts.MaxBytes[name] = bytes
	}
	if c.resultAge != "" {
		age, err := parseAgo(c.resultAge)
		if err != nil || age <= 0 {
			errs = append(errs, fmt.Errorf("--%s: %q is not like 720h or 90d", topology.FlagResultAge, c.resultAge))
		}
		opts.ResultAge = age
	}
	if c.wait < 0 {
		errs = append(errs, errors.New("--wait: less than nothing"))
	}
	if err := errors.Join(append(errs, opts.Validate())...); err != nil {
		return topology.Options{}, usageError(err)
	}
	return opts, nil
}

// missingUnit is the hint for a number alone: bytes are seldom meant.
func missingUnit(size string) string {
	if _, err := strconv.ParseUint(size, 10, 64); err != nil {
		return ""
	}
	return "; " + size + " of what? For bytes write " + size + "B"
}

// parseSize reads a size like 20GiB, 500MB or unlimited.
func parseSize(text string) (int64, error) {
	if text == "unlimited" || text == "-1" {
		return topology.Unlimited, nil
	}
	units := []struct {
		name  string
		bytes int64
	}{
		{"KiB", 1 << 10},
		{"MiB", 1 << 20},
		{"GiB", 1 << 30},
		{"TiB", 1 << 40},
		{"KB", 1e3},
		{"MB", 1e6},
		{"GB", 1e9},
		{"TB", 1e12},
		{"K", 1 << 10},
		{"M", 1 << 20},
		{"G", 1 << 30},
		{"T", 1 << 40},
		{"B", 1},
	}
	for _, unit := range units {
		digits, ok := strings.CutSuffix(text, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n <= 0 || n > (1<<62)/unit.bytes {
			break
		}
		return n * unit.bytes, nil
	}
	return 0, fmt.Errorf("%q is no size", text)
}

// setUp sets up the topology, and while it may wait for NATS tries again.
func (c *setupCommand) setUp(ctx context.Context, settings config.Connection, opts topology.Options) (topology.Report, error) {
	deadline := time.Now().Add(c.wait)
	told := []string{}
	for {
		report, err := c.attempt(ctx, settings, opts)
		if err == nil || ctx.Err() != nil || time.Until(deadline) < setupPause || !worthWaiting(err) {
			return report, err
		}
		if !slices.Contains(told, err.Error()) {
			told = append(told, err.Error())
			fmt.Fprintf(c.env.stderr, "kexrelay: %s; trying on for %s\n", harmless(err.Error()), duration(time.Until(deadline)))
		}
		select {
		case <-time.After(setupPause):
		case <-ctx.Done():
			return report, fmt.Errorf("waiting for NATS: %w", ctx.Err())
		}
	}
}

func (c *setupCommand) attempt(ctx context.Context, settings config.Connection, opts topology.Options) (topology.Report, error) {
	conn, err := dial(ctx, c.env, settings)
	if err != nil {
		return topology.Report{}, err
	}
	defer disconnect(ctx, conn)
	return topology.Setup(ctx, conn.JetStream(), opts)
}

// worthWaiting reports whether a failed setup may succeed by waiting alone.
func worthWaiting(err error) bool {
	_, refused := errors.AsType[*topology.RefusedError](err)
	return !refused && !errors.Is(err, topology.ErrServerTooOld) && !errors.Is(err, queue.ErrPermission)
}

// printReport prints what setup did: all of it for programs, a line per thing for people.
func printReport(p *printer, report topology.Report) error {
	if report.Server == "" {
		return nil // Nothing was even looked at.
	}
	if p.json {
		return p.object(report)
	}
	for _, thing := range report.Things {
		mark := faint
		if thing.Action != topology.Unchanged {
			mark = good
		}
		action := string(thing.Action)
		if report.DryRun && thing.Action != topology.Unchanged {
			action = "would be " + action
		}
		if err := p.line("%s: %s", thing.Name, p.paint(mark, action)); err != nil {
			return err
		}
		for _, change := range thing.Changes {
			if err := p.line("    %s", printable(change.String())); err != nil {
				return err
			}
		}
		if thing.Note != "" {
			if err := p.line("    %s", printable(thing.Note)); err != nil {
				return err
			}
		}
	}
	return nil
}
