package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"kexrelay/internal/deadletter"
)

// deadLettersReplayCommand is `kexrelay deadletters replay`.
type deadLettersReplayCommand struct {
	deadLetters

	all    bool
	yes    bool
	unsure bool
}

func newDeadLettersReplayCommand(env *environment) *cobra.Command {
	c := &deadLettersReplayCommand{deadLetters: deadLetters{env: env}}
	cmd := &cobra.Command{
		Use:   "replay SEQ... | --all",
		Short: "Send dead letters back to be booked",
		Long: `Publishes the updates of dead letters again, at the end of the stream, and
removes the dead letters once that is acknowledged. Whoever else does the same
at the same time, and wherever a former call was interrupted: each is published
once.

Cure the cause first: an update that fails again is a dead letter again.`,
		Example: `  kexrelay deadletters replay 17 18
  kexrelay deadletters replay --all --reason forbidden
  kexrelay deadletters replay --all --vorgang 123456 --yes`,
		Args: func(_ *cobra.Command, args []string) error {
			if (len(args) > 0) == c.all {
				return errors.New("either SEQ... or --all is wanted")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, args) },
	}
	cmd.ValidArgsFunction = c.completeSeqs
	flags := cmd.Flags()
	flags.BoolVar(&c.all, "all", false, "all dead letters there are now, or all that the filters select")
	c.registerFilter(cmd)
	flags.BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	flags.BoolVar(&c.unsure, "unsure", false, "replay also what may have been replayed already: look into the Vorgang first")
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
	asks := terminal(c.env.stdin) && terminal(c.env.stderr)
	if c.all && !c.yes && !asks {
		return usagef("--all without a terminal to ask on needs --yes")
	}
	ctx := cmd.Context()
	store, closeAll, err := c.open(ctx, cmd)
	if err != nil {
		return err
	}
	defer closeAll()
	if asks && !c.yes {
		if err := c.confirm(ctx, store, selection); err != nil {
			return err
		}
	}
	return c.replay(ctx, store, selection, p)
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
	for _, flag := range []string{"reason", "kind", "vorgang", "since"} {
		if cmd.Flags().Changed(flag) && !c.all {
			return deadletter.Selection{}, usagef("--%s goes with --all, not with single dead letters", flag)
		}
	}
	return deadletter.Selection{Seqs: seqs, All: c.all, Filter: filter}, nil
}

// confirm asks on the terminal, with what is about to happen.
func (c *deadLettersReplayCommand) confirm(ctx context.Context, store *deadletter.Store, selection deadletter.Selection) error {
	n, vorgaenge := len(selection.Seqs), ""
	if selection.All {
		found := map[string]bool{}
		n = 0
		for letter, err := range store.List(ctx, selection.Filter) {
			if err != nil {
				return err
			}
			n++
			found[letter.Vorgangsnummer] = true
		}
		vorgaenge = " of " + count(len(found), "Vorgang", "Vorgänge")
	}
	if n == 0 {
		return nil // What follows says that there is nothing to do.
	}
	fmt.Fprintf(c.env.stderr, "Replay %s%s? [y/N] ", count(n, "dead letter", "dead letters"), vorgaenge)
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

// readAnswer reads a line, and stops waiting for it when ctx ends.
func readAnswer(ctx context.Context, env *environment) (string, error) {
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(env.stdin).ReadString('\n') // An end without an answer is no.
		line <- text
	}()
	select {
	case text := <-line:
		return text, nil
	case <-ctx.Done():
		fmt.Fprintln(env.stderr)
		return "", fmt.Errorf("asking: %w", ctx.Err())
	}
}

// replayed is one line of the JSON output.
type replayed struct {
	deadletter.Item

	Error string `json:"error,omitempty"`
}

func (c *deadLettersReplayCommand) replay(ctx context.Context, store *deadletter.Store, selection deadletter.Selection, p *printer) error {
	t := p.table(
		column{title: "SEQ", min: 6, right: true}, column{title: "RESULT", min: 9}, column{title: "VORGANG", min: 10},
		column{title: "KIND", min: 10, from: 100}, column{title: "NEW SEQ", right: true, min: 7}, column{title: "TRACE ID", min: 23, from: 120},
		column{title: "WHY"},
	)
	var printErr error
	open := 0
	totals, err := store.Replay(ctx, selection, deadletter.ReplayOptions{Unsure: c.unsure, Report: func(item deadletter.Item) {
		if printErr == nil {
			printErr = printItem(p, t, item)
		}
		// One that is gone was replayed by somebody else meanwhile; only who asked for it by number wants to know.
		gone := selection.All && errors.Is(item.Err, deadletter.ErrNotFound)
		if (item.Result == deadletter.Failed || item.Result == deadletter.Skipped) && !gone {
			open++
		}
	}})
	if !p.json && (err == nil || totals != (deadletter.Totals{})) { // Programs count the lines.
		fmt.Fprintf(c.env.stderr, "kexrelay: %s\n", summary(totals))
	}
	switch {
	case err != nil:
		return err
	case printErr != nil:
		return printErr
	case open > 0:
		return exitWith(exitDeadLetter)
	}
	return nil
}

func printItem(p *printer, t *table, item deadletter.Item) error {
	why := ""
	if item.Err != nil {
		why = strings.TrimPrefix(item.Err.Error(), fmt.Sprintf("dead letter %d: ", item.Seq))
	}
	if p.json {
		return p.object(replayed{Item: item, Error: why})
	}
	mark := good
	switch item.Result {
	case deadletter.Replayed:
	case deadletter.Duplicate:
		mark, why = warn, "published by a former or another replay"
	case deadletter.Skipped:
		mark = warn
	case deadletter.Failed:
		mark = bad
	}
	newSeq := "-"
	if item.UpdateSeq != 0 {
		newSeq = strconv.FormatUint(item.UpdateSeq, 10)
	}
	if err := t.stream(); err != nil {
		return err
	}
	return t.add(text(strconv.FormatUint(item.Seq, 10)), cell{string(item.Result), mark}, text(item.Vorgangsnummer),
		text(string(item.Kind)), text(newSeq), text(item.TraceID), text(why))
}

// summary is the totals in a sentence.
func summary(t deadletter.Totals) string {
	if t == (deadletter.Totals{}) {
		return "no dead letters to replay"
	}
	words := []string{count(t.Replayed, "dead letter", "dead letters") + " replayed"}
	if t.Duplicate > 0 {
		words = append(words, fmt.Sprintf("%d replayed before", t.Duplicate))
	}
	if t.Skipped > 0 {
		words = append(words, fmt.Sprintf("%d skipped", t.Skipped))
	}
	if t.Failed > 0 {
		words = append(words, fmt.Sprintf("%d failed", t.Failed))
	}
	return strings.Join(words, ", ")
}
