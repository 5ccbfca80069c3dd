package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"kexrelay/internal/deadletter"
)

// deadLettersListCommand is `kexrelay deadletters list`.
type deadLettersListCommand struct {
	deadLetters

	grouped bool
	limit   int
	after   uint64
}

func newDeadLettersListCommand(env *environment) *cobra.Command {
	c := &deadLettersListCommand{deadLetters: deadLetters{env: env}}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the dead letters, oldest first, or what they have in common",
		Long: `Lists the dead letters there are, oldest first, from their headers alone. With
--group it counts those of the same cause: kind, reason, status and error text,
with numbers and IDs masked.

Pages: --limit ends the list after so many, --after goes on behind the last one.
Nothing is missed or comes twice, whatever arrives or leaves in between.`,
		Example: `  kexrelay deadletters list --group
  kexrelay deadletters list --fingerprint 1f0c9a7e
  kexrelay deadletters list --reason bad_request,gone --newer-than 7d
  kexrelay deadletters list --status 5xx --replays 1+ --text 'timed out'
  kexrelay deadletters list --vorgang 123456 --json
  kexrelay deadletters list --limit 100 --after 4711`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	flags := cmd.Flags()
	flags.BoolVarP(&c.grouped, "group", "g", false, "count by cause instead of listing")
	c.registerFilter(cmd)
	flags.IntVar(&c.limit, "limit", 0, "the oldest `number` only, 0 for all")
	flags.Uint64Var(&c.after, "after", 0, "only those behind this `sequence`")
	completeNothing(cmd, "limit", "after")
	c.output.register(cmd)
	addConnectionFlags(cmd)
	return cmd
}

func (c *deadLettersListCommand) run(cmd *cobra.Command) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	filter, err := c.filter()
	if err != nil {
		return err
	}
	switch {
	case c.limit < 0:
		return usagef("--limit: less than none")
	case c.grouped && c.limit > 0:
		return usagef("--limit goes with a list, not with --group")
	}
	filter.Limit, filter.After = c.limit, c.after
	ctx := cmd.Context()
	store, closeAll, err := c.open(ctx, cmd)
	if err != nil {
		return err
	}
	defer closeAll()
	if c.grouped {
		return c.groups(ctx, store, filter, p)
	}
	return c.list(ctx, store, filter, p)
}

func (c *deadLettersListCommand) list(ctx context.Context, store *deadletter.Store, filter deadletter.Filter, p *printer) error {
	rows, last := 0, uint64(0)
	t := newDeadLetterTable(p)
	for letter, err := range store.List(ctx, filter) {
		if err != nil {
			return errors.Join(t.flush(), err)
		}
		rows, last = rows+1, letter.Seq
		if err := addDeadLetter(p, t, letter); err != nil {
			return err
		}
	}
	if err := t.flush(); err != nil || p.json {
		return err
	}
	switch rows {
	case 0:
		fmt.Fprintln(c.env.stderr, "kexrelay: no dead letters")
	case c.limit:
		fmt.Fprintf(c.env.stderr, "kexrelay: %s shown; --after %d shows the next\n", count(rows, "dead letter", "dead letters"), last)
	}
	return nil
}

// groups shows what the dead letters have in common.
func (c *deadLettersListCommand) groups(ctx context.Context, store *deadletter.Store, filter deadletter.Filter, p *printer) error {
	groups, err := store.Groups(ctx, filter)
	if err != nil {
		return err
	}
	if err := printGroups(p, groups); err != nil || p.json {
		return err
	}
	if len(groups) == 0 {
		fmt.Fprintln(c.env.stderr, "kexrelay: no dead letters")
	}
	return nil
}

// printGroups shows groups in a table, or an object for each.
func printGroups(p *printer, groups []deadletter.Group) error {
	t := p.table(
		column{title: "GROUP", min: 8}, column{title: "COUNT", right: true}, column{title: "OLDEST", right: true, min: 6},
		column{title: "NEWEST", right: true, min: 6, from: 100}, column{title: "REASON"}, column{title: "STATUS", from: 90}, column{title: "KIND"},
		column{title: "REPLAYED", right: true, from: 120}, column{title: "SIZE", right: true, from: 120}, column{title: "ERROR"},
	)
	for _, g := range groups {
		if p.json {
			if err := p.object(g); err != nil {
				return err
			}
			continue
		}
		id := g.ID
		if id == "" {
			id = "-"
		}
		err := t.add(
			text(id), cell{strconv.Itoa(g.Count), strong}, text(duration(time.Since(g.Oldest))), text(duration(time.Since(g.Newest))),
			cell{string(g.Reason), bad}, text(statusText(g.Status)), text(string(g.Kind)),
			text(strconv.Itoa(g.Replayed)), text(size(g.Bytes)), text(g.Error),
		)
		if err != nil {
			return err
		}
	}
	return t.flush()
}

func newDeadLetterTable(p *printer) *table {
	return p.table(
		column{title: "SEQ", right: true}, column{title: "AGE", right: true, min: 6}, column{title: "REASON"},
		column{title: "STATUS", from: 100}, column{title: "VORGANG"}, column{title: "KIND"},
		column{title: "TRIES", right: true, from: 120}, column{title: "REPLAYS", right: true, from: 120},
		column{title: "SIZE", right: true, from: 120}, column{title: "TRACE ID", from: 140, share: 25}, column{title: "DETAIL"},
	)
}

func addDeadLetter(p *printer, t *table, letter deadletter.Summary) error {
	if p.json {
		return p.object(letter)
	}
	return t.add(
		text(strconv.FormatUint(letter.Seq, 10)), text(duration(time.Since(letter.StoredAt))), cell{string(letter.Reason), bad},
		text(statusText(letter.Status)), text(letter.Vorgangsnummer), text(string(letter.Kind)), text(strconv.Itoa(letter.Attempts)),
		text(strconv.Itoa(letter.Replays)), text(size(letter.Size)), text(letter.TraceID), text(letter.Detail),
	)
}

// statusText is a status, - where no answer came.
func statusText(status int) string {
	if status == 0 {
		return "-"
	}
	return strconv.Itoa(status)
}
