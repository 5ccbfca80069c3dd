package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"kexrelay/internal/config"
	"kexrelay/internal/deadletter"
	"kexrelay/internal/fault"
	"kexrelay/internal/queue"
)

// deadLetters is what the commands on dead letters have in common.
type deadLetters struct {
	env       *environment
	output    outputFlags
	selection selection
	reasons   []string
}

func newDeadLettersCommand(env *environment) *cobra.Command {
	cmd := newGroupCommand("deadletters", "List dead letters, look at one, send them back",
		newDeadLettersListCommand(env), newDeadLettersShowCommand(env), newDeadLettersReplayCommand(env))
	cmd.Aliases = []string{"deadletter", "dl"}
	return cmd
}

func (d *deadLetters) registerFilter(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&d.reasons, "reason", nil, "only for this `reason`: bad_request, gone, …; several with commas")
	d.selection.register(cmd)
	d.selection.registerSince(cmd)
	completeFixed(cmd, "reason", names(fault.DeadLetterReasons())...)
}

func (d *deadLetters) filter() (deadletter.Filter, error) {
	selected, err := d.selection.parse(time.Now())
	if err != nil {
		return deadletter.Filter{}, err
	}
	reasons, err := parseReasons(d.reasons)
	if err != nil {
		return deadletter.Filter{}, err
	}
	return deadletter.Filter{
		Reasons: reasons, Kinds: selected.kinds, Vorgangsnummer: selected.vorgang, Since: selected.since,
	}, nil
}

// open connects and opens the store; the returned function closes both.
func (d *deadLetters) open(ctx context.Context, cmd *cobra.Command) (store *deadletter.Store, closeAll func(), err error) {
	relay, err := config.LoadRelay(nil, config.EnvOf(d.env.environ))
	if err != nil {
		return nil, nil, usageError(err)
	}
	conn, err := connect(ctx, d.env, cmd)
	if err != nil {
		return nil, nil, err
	}
	store = openStore(conn, relay)
	return store, func() {
		store.Close()
		disconnect(ctx, conn)
	}, nil
}

func openStore(conn *queue.Conn, relay config.Relay) *deadletter.Store {
	return deadletter.New(conn.JetStream(), deadletter.Config{Source: relay.Source})
}

// parseSeqs reads sequences of dead letters.
func parseSeqs(args []string) ([]uint64, error) {
	seqs := make([]uint64, len(args))
	for i, arg := range args {
		seq, err := strconv.ParseUint(arg, 10, 64)
		if err != nil || seq == 0 {
			return nil, usagef("%q is no sequence of a dead letter; kexrelay deadletters list shows them", arg)
		}
		seqs[i] = seq
	}
	return seqs, nil
}

// completeSeqs offers the sequences there are, with what they are about.
func (d *deadLetters) completeSeqs(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const most, patience = 50, 2 * time.Second
	ctx, cancel := context.WithTimeout(cmd.Context(), patience)
	defer cancel()
	store, closeAll, err := d.open(ctx, cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer closeAll()
	var found []cobra.Completion
	for letter, err := range store.List(ctx, deadletter.Filter{Limit: most}) {
		if err != nil {
			break
		}
		about := fmt.Sprintf("%s, Vorgang %s, %s", letter.Reason, letter.Vorgangsnummer, letter.Kind)
		found = append(found, cobra.CompletionWithDesc(strconv.FormatUint(letter.Seq, 10), printable(about)))
	}
	return found, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}
