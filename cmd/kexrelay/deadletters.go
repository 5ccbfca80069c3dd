package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kexrelay/internal/config"
	"kexrelay/internal/deadletter"
)

// completionPatience is how long a shell may wait for what it offers.
const completionPatience = 2 * time.Second

// deadLetters is what the commands on dead letters have in common.
type deadLetters struct {
	env      *environment
	output   outputFlags
	filtered deadLetterFilter
}

func newDeadLettersCommand(env *environment) *cobra.Command {
	cmd := newGroupCommand("deadletters", "List dead letters, look at one, send them back, discard them",
		newDeadLettersListCommand(env), newDeadLettersShowCommand(env), newDeadLettersReplayCommand(env),
		newDeadLettersEditCommand(env), newDeadLettersDiscardCommand(env), newDeadLettersEraseCommand(env),
		newDeadLettersExportCommand(env), newDeadLettersImportCommand(env))
	cmd.Aliases = []string{"deadletter", "dl"}
	return cmd
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
	store = deadletter.New(conn.JetStream(), deadletter.Config{Source: relay.Source, Actor: d.env.actor()})
	return store, func() {
		store.Close()
		disconnect(ctx, conn)
	}, nil
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
func (d *deadLetters) completeSeqs(cmd *cobra.Command, given []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	store, closeAll, err := d.open(ctx, cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer closeAll()
	var found []cobra.Completion
	for letter, err := range store.List(ctx, deadletter.Filter{}) {
		if err != nil || len(found) == mostCompleted {
			break
		}
		seq := strconv.FormatUint(letter.Seq, 10)
		if !strings.HasPrefix(seq, prefix) || slices.Contains(given, seq) {
			continue
		}
		about := fmt.Sprintf("%s, Vorgang %s, %s", letter.Reason, letter.Vorgangsnummer, letter.Kind)
		found = append(found, cobra.CompletionWithDesc(seq, printable(about)))
	}
	return found, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}
