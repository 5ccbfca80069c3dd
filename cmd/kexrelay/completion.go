package main

import (
	"strings"

	"github.com/spf13/cobra"
)

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
