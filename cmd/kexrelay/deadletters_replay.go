package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kexrelay/internal/deadletter"
)

// deadLettersReplayCommand is `kexrelay deadletters replay`.
type deadLettersReplayCommand struct {
	deadLetters

	all             bool
	yes             bool
	dryRun          bool
	fresh           bool
	noCanary        bool
	rate            float64
	wait            time.Duration
	maxFailures     int
	maxReplays      int
	force           bool
	allowDuplicates bool
}

func newDeadLettersReplayCommand(env *environment) *cobra.Command {
	c := &deadLettersReplayCommand{deadLetters: deadLetters{env: env}}
	cmd := &cobra.Command{
		Use:   "replay SEQ... | --all | FILTER...",
		Short: "Send dead letters back to be booked",
		Long: `Publishes the updates of dead letters again, at the end of the stream, and
removes the dead letters once that is acknowledged. It shows the plan first and
asks: the dead letters that are there now, by what they failed for. Then one of
each group, the canary, is sent; the others follow, in their order per Vorgang,
only if that one is delivered.

Interrupted, the same command goes on where it was, and two at the same time do
the work of one: each dead letter is sent once. What may have been booked stays
without --allow-duplicates: look into the Vorgang first.

Cure the cause first: an update that fails again is a dead letter again.

Code 0: all are delivered. Code 4: part of them is, or stays, a dead letter.
Code 5: part of them still waits; the same command goes on.`,
		Example: `  kexrelay deadletters replay 17 18
  kexrelay deadletters replay --reason forbidden --dry-run
  kexrelay deadletters replay --all --rate 20 --max-failures 3
  kexrelay deadletters replay --vorgang 123456 --yes`,
		Args: func(cmd *cobra.Command, args []string) error {
			if (len(args) > 0) == (c.all || c.filters(cmd) != "") {
				return errors.New("either SEQ... or --all or a filter is wanted")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, args) },
	}
	cmd.ValidArgsFunction = c.completeSeqs
	const rate, wait, maxFailures, maxReplays = 50, 2 * time.Minute, 10, 3
	flags := cmd.Flags()
	flags.BoolVar(&c.all, "all", false, "all dead letters there are now, or all that the filters select")
	c.registerFilter(cmd)
	flags.BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	flags.BoolVar(&c.dryRun, "dry-run", false, "show the plan and change nothing")
	flags.Float64Var(&c.rate, "rate", rate, "send so `many` in a second at most, 0 for no limit")
	flags.DurationVar(&c.wait, "wait", wait, "stop when for this `duration` nothing happens to what was sent; 0 waits for no outcome")
	flags.BoolVar(&c.noCanary, "no-canary", false, "send all at once, without one of each group first")
	flags.IntVar(&c.maxFailures, "max-failures", maxFailures, "stop when so `many` are dead letters again, 0 for no limit")
	flags.IntVar(&c.maxReplays, "max-replays", maxReplays, "leave out what was replayed so `often` already, 0 for no limit")
	flags.BoolVar(&c.force, "force", false, "send also what was replayed too often already")
	flags.BoolVar(&c.allowDuplicates, "allow-duplicates", false, "send also what may have been booked: it may be booked twice then")
	flags.BoolVar(&c.fresh, "fresh", false, "begin anew instead of going on with a replay that was interrupted")
	completeNothing(cmd, "rate", "max-failures", "max-replays")
	completeFixed(cmd, "wait", "30s", "2m", "10m")
	c.output.register(cmd)
	addConnectionFlags(cmd)
	return cmd
}

func (c *deadLettersReplayCommand) run(cmd *cobra.Command, args []string) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	selection, err := c.selected(cmd, args)
	if err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	asks := terminal(c.env.stdin) && terminal(c.env.stderr) && !c.yes && !c.dryRun
	if len(args) == 0 && !c.yes && !c.dryRun && !asks {
		return usagef("without a terminal to ask on --yes is needed (or --dry-run)")
	}
	ctx := cmd.Context()
	store, closeAll, err := c.open(ctx, cmd)
	if err != nil {
		return err
	}
	defer closeAll()
	plan, err := store.Plan(ctx, selection, c.planOptions())
	if err != nil {
		return err
	}
	if c.dryRun {
		return c.showPlan(p, plan)
	}
	if asks && plan.Send > 0 {
		if err := c.confirm(ctx, plan); err != nil {
			return err
		}
	}
	c.warn(plan)
	return c.carryOut(cmd, store, plan, p)
}

func (c *deadLettersReplayCommand) planOptions() deadletter.PlanOptions {
	opts := deadletter.PlanOptions{MaxReplays: c.maxReplays, AllowDuplicates: c.allowDuplicates, Fresh: c.fresh}
	if c.force {
		opts.MaxReplays = 0
	}
	return opts
}

// check finds numbers that make no sense.
func (c *deadLettersReplayCommand) check() error {
	switch {
	case c.rate < 0:
		return usagef("--rate: less than none")
	case c.wait < 0:
		return usagef("--wait: less than no time")
	case c.maxFailures < 0:
		return usagef("--max-failures: less than none")
	case c.maxReplays < 0:
		return usagef("--max-replays: less than none")
	case c.wait == 0 && !c.noCanary:
		return usagef("--wait 0 goes with --no-canary: a canary is sent to see how it ends")
	}
	return nil
}

func (c *deadLettersReplayCommand) selected(cmd *cobra.Command, args []string) (deadletter.Selection, error) {
	seqs, err := parseSeqs(args)
	if err != nil {
		return deadletter.Selection{}, err
	}
	filter, err := c.filter()
	if err != nil {
		return deadletter.Selection{}, err
	}
	name := strings.Join(args, " ")
	if len(args) == 0 {
		name = strings.TrimSpace("--all " + c.filters(cmd))
	}
	return deadletter.Selection{Seqs: seqs, All: len(args) == 0, Filter: filter, Name: name}, nil
}

// filters is the filter as it was asked for, the same text for the same flags: by it a later call finds the replay that
// was interrupted, although a time like 7d means another one then.
func (c *deadLettersReplayCommand) filters(cmd *cobra.Command) string {
	var words []string
	for _, name := range slices.Sorted(slices.Values(filterFlags())) {
		if flag := cmd.Flags().Lookup(name); flag != nil && flag.Changed {
			words = append(words, "--"+name+"="+flag.Value.String())
		}
	}
	return strings.Join(words, " ")
}

// confirm shows the plan on the terminal and asks.
func (c *deadLettersReplayCommand) confirm(ctx context.Context, plan *deadletter.Plan) error {
	onTerminal := &printer{w: c.env.stderr, colour: c.env.colour(c.env.stderr), width: terminalWidth(c.env.stderr)}
	if err := c.printPlan(onTerminal, plan); err != nil {
		return err
	}
	twice := ""
	if c.allowDuplicates && plan.MayBeBooked > 0 {
		twice = fmt.Sprintf(", %d of which may be booked twice", plan.MayBeBooked)
	}
	fmt.Fprintf(c.env.stderr, "Replay %s of %s%s? [y/N] ", count(plan.Send, "dead letter", "dead letters"),
		count(plan.Vorgaenge, "Vorgang", "Vorgänge"), twice)
	answer, err := readAnswer(ctx, c.env)
	if err != nil {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes", "j", "ja":
		return nil
	}
	return errors.New("nothing was replayed")
}

// carryOut replays, and tells of it.
func (c *deadLettersReplayCommand) carryOut(cmd *cobra.Command, store *deadletter.Store, plan *deadletter.Plan, p *printer) error {
	ctx := cmd.Context()
	r := newReplayReport(ctx, c, cmd, plan, p)
	defer r.close()
	report, err := store.Replay(ctx, plan, deadletter.RunOptions{
		Canary: !c.noCanary, Wait: c.wait, Rate: c.rate, MaxFailures: c.maxFailures, By: c.by(),
		Report: r.item, Progress: r.progress,
	})
	r.close()
	if !p.json { // Programs count the lines.
		r.summary(report, err)
	}
	switch {
	case err != nil && report.Replayed+report.Duplicate > 0:
		return fmt.Errorf("%w (nothing is sent twice: the same command goes on where this one stopped)", err)
	case err != nil:
		return err
	case r.err != nil:
		return r.err
	case report.DeadAgain+report.Failed > 0, r.stays > 0, report.Stop == deadletter.StopFailures, refused(report):
		return exitWith(exitDeadLetter)
	case report.Stop == deadletter.StopWaiting:
		return exitWith(exitWaiting)
	}
	return nil
}

func refused(report deadletter.Report) bool {
	return slices.ContainsFunc(report.Groups, deadletter.GroupReport.Refused)
}

// by is who replays, for others who replay the same.
func (c *deadLettersReplayCommand) by() string {
	actor := c.env.actor()
	return actor.OSUser + "@" + actor.Host
}
