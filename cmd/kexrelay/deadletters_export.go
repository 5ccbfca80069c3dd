package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"kexrelay/internal/deadletter"
)

// deadLettersExportCommand is `kexrelay deadletters export`.
type deadLettersExportCommand struct {
	deadLetters

	reveal bool
	to     string
}

func newDeadLettersExportCommand(env *environment) *cobra.Command {
	c := &deadLettersExportCommand{deadLetters: deadLetters{env: env}}
	cmd := &cobra.Command{
		Use:   "export [SEQ...]",
		Short: "Write dead letters as JSON lines",
		Long: `Writes dead letters as JSON, one per line: all, single ones or what the filters
select. Without --reveal they have no content, and import takes none of them.
With it audit events name each. An export removes nothing.

A document that lies in the object store is exported as its reference.`,
		Example: `  kexrelay deadletters export --reason gone > gone.jsonl
  kexrelay deadletters export --reveal --to dead-letters.jsonl
  kexrelay deadletters export 17 18 --reveal --to two.jsonl`,
		Args: func(cmd *cobra.Command, args []string) error {
			if filter := changedFilter(cmd); filter != "" && len(args) > 0 {
				return fmt.Errorf("either SEQ... or filters are wanted, but there is --%s too", filter)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, args) },
	}
	cmd.ValidArgsFunction = c.completeSeqs
	flags := cmd.Flags()
	flags.BoolVar(&c.reveal, "reveal", false, "with the content, which leaves audit events")
	flags.StringVar(&c.to, "to", "", "write to this new `file`, readable by its owner alone, instead of standard output")
	c.registerFilter(cmd)
	addConnectionFlags(cmd)
	return cmd
}

func (c *deadLettersExportCommand) run(cmd *cobra.Command, args []string) error {
	seqs, err := parseSeqs(args)
	if err != nil {
		return err
	}
	filter, err := c.filter()
	if err != nil {
		return err
	}
	filters := []deadletter.Filter{filter}
	if len(seqs) > 0 {
		filters = filters[:0]
		for _, seq := range seqs {
			filters = append(filters, deadletter.Filter{After: seq - 1, UpTo: seq})
		}
	}
	ctx := cmd.Context()
	store, closeAll, err := c.open(ctx, cmd)
	if err != nil {
		return err
	}
	defer closeAll()
	if c.to == "" {
		return c.export(ctx, store, filters, &printer{w: c.env.stdout, json: true})
	}
	return c.toFile(ctx, store, filters)
}

// toFile writes a file that has its name only when it is whole.
func (c *deadLettersExportCommand) toFile(ctx context.Context, store *deadletter.Store, filters []deadletter.Filter) error {
	if _, err := os.Lstat(c.to); err == nil {
		return fmt.Errorf("%s is there already: give the export another name", c.to)
	}
	part := c.to + ".part"
	file, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // The user names it.
	if err != nil {
		return fmt.Errorf("creating the file: %w", err)
	}
	out := bufio.NewWriter(file)
	err = c.export(ctx, store, filters, &printer{w: out, json: true})
	err = errors.Join(err, out.Flush(), file.Close())
	if err == nil {
		err = os.Rename(part, c.to)
	}
	if err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return nil
}

func (c *deadLettersExportCommand) export(ctx context.Context, store *deadletter.Store, filters []deadletter.Filter, p *printer) error {
	given := 0
	for _, filter := range filters {
		n, err := store.Export(ctx, filter, c.reveal, func(e deadletter.Exported) error { return p.object(e) })
		given += n
		if err != nil {
			return fmt.Errorf("%w (after %s)", err, count(given, "dead letter", "dead letters"))
		}
		if n == 0 && filter.UpTo != 0 {
			return fmt.Errorf("dead letter %d: %w", filter.UpTo, deadletter.ErrNotFound)
		}
	}
	with := "without content"
	if c.reveal {
		with = "with content"
	}
	if terminal(c.env.stderr) || c.to != "" || given == 0 {
		fmt.Fprintf(c.env.stderr, "kexrelay: %s exported, %s\n", count(given, "dead letter", "dead letters"), with)
	}
	return nil
}
