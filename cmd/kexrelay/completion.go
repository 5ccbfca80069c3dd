package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"kexrelay/internal/journal"
)

// mostCompleted is how many sequences a shell is offered.
const mostCompleted = 50

// completeFixed completes a flag with fixed values, also behind the last comma of a list.
func completeFixed(cmd *cobra.Command, flag string, values ...string) {
	register(cmd, flag, func(_ *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		list := ""
		if comma := strings.LastIndexByte(prefix, ','); comma >= 0 {
			list, prefix = prefix[:comma+1], prefix[comma+1:]
		}
		var matching []cobra.Completion
		for _, value := range values {
			if strings.HasPrefix(value, prefix) {
				matching = append(matching, list+value)
			}
		}
		return matching, cobra.ShellCompDirectiveNoFileComp
	})
}

// completeNothing keeps the shell from offering files for flags that take none.
func completeNothing(cmd *cobra.Command, flags ...string) {
	for _, flag := range flags {
		register(cmd, flag, cobra.NoFileCompletions)
	}
}

// register fails only for a flag that is not there or is registered twice: a mistake of ours that every start shows.
func register(cmd *cobra.Command, flag string, complete cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic(err)
	}
}

// completeUpdates offers the sequence of one update that waits, with what it is about.
func (e *environment) completeUpdates(cmd *cobra.Command, given []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	conn, err := connect(ctx, e, cmd)
	if err != nil || len(given) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer disconnect(ctx, conn)
	var found []cobra.Completion
	for waiting, err := range journal.NewUpdates(conn.JetStream()).List(ctx, journal.UpdateFilter{}) {
		if err != nil || len(found) == mostCompleted {
			break
		}
		if seq := strconv.FormatUint(waiting.Seq, 10); strings.HasPrefix(seq, prefix) {
			about := fmt.Sprintf("Vorgang %s, %s", waiting.Vorgangsnummer, waiting.Kind)
			found = append(found, cobra.CompletionWithDesc(seq, printable(about)))
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}
