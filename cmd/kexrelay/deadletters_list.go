package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"kexrelay/internal/deadletter"
)

// deadLettersListCommand is `kexrelay deadletters list`.
type deadLettersListCommand struct {
	deadLetters

	limit int
}

func newDeadLettersListCommand(env *environment) *cobra.Command {
	c := &deadLettersListCommand{deadLetters: deadLetters{env: env}}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the dead letters, oldest first",
		Example: `  kexrelay deadletters list
  kexrelay deadletters list --reason bad_request,gone --since 7d
  kexrelay deadletters list --vorgang 123456 --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	c.registerFilter(cmd)
	cmd.Flags().IntVar(&c.limit, "limit", 0, "the oldest `number` only, 0 for all")
	completeNothing(cmd, "limit")
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
	if c.limit < 0 {
		return usagef("--limit: less than none")
	}
	filter.Limit = c.limit
	ctx := cmd.Context()
	store, closeAll, err := c.open(ctx, cmd)
	if err != nil {
		return err
	}
	defer closeAll()
	rows := 0
	t := newDeadLetterTable(p)
	for letter, err := range store.List(ctx, filter) {
		if err != nil {
			return err
		}
		rows++
		if err := addDeadLetter(p, t, letter); err != nil {
			return err
		}
	}
	if rows == 0 && !p.json {
		fmt.Fprintln(c.env.stderr, "kexrelay: no dead letters")
	}
	return t.flush()
}

func newDeadLetterTable(p *printer) *table {
	return p.table(
		column{title: "SEQ", right: true}, column{title: "AGE", right: true, min: 6}, column{title: "REASON"},
		column{title: "STATUS", from: 100}, column{title: "VORGANG"}, column{title: "KIND"},
		column{title: "TRIES", right: true, from: 120}, column{title: "REPLAYS", right: true, from: 120},
		column{title: "SIZE", right: true, from: 120}, column{title: "TRACE ID", from: 140}, column{title: "DETAIL"},
	)
}

func addDeadLetter(p *printer, t *table, letter deadletter.Summary) error {
	if p.json {
		return p.object(letter)
	}
	status := "-"
	if letter.Status != 0 {
		status = strconv.Itoa(letter.Status)
	}
	return t.add(
		text(strconv.FormatUint(letter.Seq, 10)), text(duration(time.Since(letter.StoredAt))), cell{string(letter.Reason), bad},
		text(status), text(letter.Vorgangsnummer), text(string(letter.Kind)), text(strconv.Itoa(letter.Attempts)),
		text(strconv.Itoa(letter.Replays)), text(size(letter.Size)), text(letter.TraceID), text(letter.Detail),
	)
}
