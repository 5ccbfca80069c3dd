package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"kexrelay/internal/deadletter"
	"kexrelay/internal/update"
)

// deadLettersDiscardCommand is `kexrelay deadletters discard`.
type deadLettersDiscardCommand struct {
	deadLetters

	all     bool
	yes     bool
	force   bool
	dryRun  bool
	because string
}

func newDeadLettersDiscardCommand(env *environment) *cobra.Command {
	c := &deadLettersDiscardCommand{deadLetters: deadLetters{env: env}}
	cmd := &cobra.Command{
		Use:   "discard --because TEXT SEQ... | --all",
		Short: "Remove dead letters that nobody is going to send again",
		Long: `Removes dead letters for good, with the object that holds a large body. Each
leaves a result event 'discarded' and an audit event with your reason. With
--all or a filter the groups are shown first; dead letters that come later are
not touched.

Of which a replay was begun is left as it is.`,
		Example: `  kexrelay deadletters discard 17 --because 'the customer withdrew'
  kexrelay deadletters discard --reason gone --older-than 30d --dry-run
  kexrelay deadletters discard --fingerprint 1f0c9a7e --because 'a test' --yes`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch filtered := changedFilter(cmd); {
			case len(args) > 0 && (c.all || filtered != ""):
				return errors.New("either SEQ... or --all and filters is wanted, not both")
			case len(args) == 0 && !c.all && filtered == "":
				return errors.New("either SEQ..., --all or a filter is wanted")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, args) },
	}
	cmd.ValidArgsFunction = c.completeSeqs
	flags := cmd.Flags()
	flags.StringVar(&c.because, "because", "", "why, in a few `words`, for the events; without content or names")
	flags.BoolVar(&c.all, "all", false, "all dead letters there are now, or all that the filters select")
	c.registerFilter(cmd)
	flags.BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	flags.BoolVar(&c.dryRun, "dry-run", false, "show what would be discarded and change nothing")
	flags.BoolVar(&c.force, "force", false, "also what somebody began to replay more than 10 minutes ago and did not send")
	completeNothing(cmd, "because")
	c.output.register(cmd)
	addConnectionFlags(cmd)
	return cmd
}

// changedFilter is a filter's flag that was given, "" for none.
func changedFilter(cmd *cobra.Command) string {
	for _, name := range filterFlags() {
		if cmd.Flags().Changed(name) {
			return name
		}
	}
	return ""
}

// checkBecause wants the operator's reason.
func checkBecause(because string) error {
	if strings.TrimSpace(because) == "" {
		return usagef("--because is wanted: why, in a few words for the audit event")
	}
	return nil
}

func (c *deadLettersDiscardCommand) run(cmd *cobra.Command, args []string) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	seqs, err := parseSeqs(args)
	if err != nil {
		return err
	}
	filter, err := c.filter()
	if err != nil {
		return err
	}
	if !c.dryRun {
		if err := checkBecause(c.because); err != nil {
			return err
		}
	}
	if !c.yes && !c.dryRun && !c.env.canAsk() {
		return usagef("without a terminal to ask on --yes is needed (or --dry-run)")
	}
	ctx := cmd.Context()
	store, closeAll, err := c.open(ctx, cmd)
	if err != nil {
		return err
	}
	defer closeAll()
	plan, err := store.PlanDiscard(ctx, seqs, filter)
	if err != nil {
		return err
	}
	if c.dryRun {
		return c.show(p, plan)
	}
	if !c.yes && plan.Count > 0 {
		if err := printGroups(c.env.onTerminal(), plan.Groups); err != nil {
			return err
		}
		yes, err := confirmed(ctx, c.env, fmt.Sprintf("Discard %s for good?", count(plan.Count, "dead letter", "dead letters")))
		if err != nil {
			return err
		}
		if !yes {
			return errors.New("nothing was discarded")
		}
	}
	return c.discard(ctx, store, plan, p)
}

// show shows a plan without carrying it out.
func (c *deadLettersDiscardCommand) show(p *printer, plan *deadletter.DiscardPlan) error {
	if err := printGroups(p, plan.Groups); err != nil {
		return err
	}
	if !p.json {
		fmt.Fprintf(c.env.stderr, "kexrelay: %s would be discarded; nothing was changed\n", count(plan.Count, "dead letter", "dead letters"))
	}
	return nil
}

// discarded is one line of the JSON output.
type discarded struct {
	Seq            uint64      `json:"seq"`
	Result         string      `json:"result"`
	UpdateID       string      `json:"updateId,omitempty"`
	Vorgangsnummer string      `json:"vorgangsnummer,omitempty"`
	Kind           update.Kind `json:"kind,omitempty"`
	TraceID        string      `json:"traceId,omitempty"`
	Error          string      `json:"error,omitempty"`
}

func (c *deadLettersDiscardCommand) discard(ctx context.Context, store *deadletter.Store, plan *deadletter.DiscardPlan, p *printer) error {
	t := p.table(
		column{title: "SEQ", min: 6, right: true}, column{title: "RESULT", min: 9}, column{title: "VORGANG", min: 10},
		column{title: "KIND", min: 10, from: 100}, column{title: "TRACE ID", min: 23, from: 120}, column{title: "WHY"},
	)
	gone, left := 0, 0
	var printErr error
	err := store.DiscardAll(ctx, plan, deadletter.DiscardOptions{Because: c.because, Force: c.force}, func(d deadletter.Discarded) {
		line := discarded{Seq: d.Seq, Result: "discarded", UpdateID: d.UpdateID, Vorgangsnummer: d.Vorgangsnummer, Kind: d.Kind, TraceID: d.TraceID}
		if d.Err == nil {
			gone++
		} else {
			left++
			line.Result = "skipped"
			line.Error = strings.TrimPrefix(d.Err.Error(), fmt.Sprintf("dead letter %d: ", d.Seq))
		}
		if printErr == nil {
			printErr = c.print(p, t, line)
		}
	})
	if !p.json {
		c.sum(gone, left)
	}
	switch {
	case err != nil && gone > 0:
		return fmt.Errorf("%w (the same command goes on where this one stopped)", err)
	case err != nil:
		return err
	case printErr != nil:
		return printErr
	case left > 0:
		return exitWith(exitFailed)
	}
	return nil
}

func (*deadLettersDiscardCommand) print(p *printer, t *table, line discarded) error {
	if p.json {
		return p.object(line)
	}
	mark := good
	if line.Error != "" {
		mark = warn
	}
	if err := t.stream(); err != nil {
		return err
	}
	return t.add(text(strconv.FormatUint(line.Seq, 10)), cell{line.Result, mark}, text(line.Vorgangsnummer), text(string(line.Kind)),
		text(line.TraceID), text(line.Error))
}

func (c *deadLettersDiscardCommand) sum(gone, left int) {
	switch {
	case gone+left == 0:
		fmt.Fprintln(c.env.stderr, "kexrelay: no dead letters to discard")
	case left > 0:
		fmt.Fprintf(c.env.stderr, "kexrelay: %s discarded, %d left as they are\n", count(gone, "dead letter", "dead letters"), left)
	default:
		fmt.Fprintf(c.env.stderr, "kexrelay: %s discarded\n", count(gone, "dead letter", "dead letters"))
	}
}
