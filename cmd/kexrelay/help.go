package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Help is as wide as the terminal within these bounds, and defaultWidth where there is none.
const (
	minWidth     = 60
	defaultWidth = 80
	maxWidth     = 120
)

// flagGroup is the annotation that puts a flag into a section of its own in the help.
const flagGroup = "kexrelay-group"

// newHelpCommand is cobra's, except that an unknown topic is a usage error.
func newHelpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Help about any command",
		Args:  cobra.ArbitraryArgs,
		ValidArgsFunction: func(_ *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
			cmd, _, err := root.Find(args)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []cobra.Completion
			for _, sub := range cmd.Commands() {
				if sub.IsAvailableCommand() && strings.HasPrefix(sub.Name(), prefix) {
					names = append(names, cobra.CompletionWithDesc(sub.Name(), sub.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usagef("there is no command %q\n%s", strings.Join(args, " "), seeHelp(root))
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

// printUsage is everything of the help below its text.
func printUsage(env *environment, cmd *cobra.Command) error {
	w := cmd.OutOrStderr()
	use := cmd.CommandPath() + " COMMAND"
	if !cmd.HasAvailableSubCommands() {
		use = cmd.UseLine()
	}
	fmt.Fprintf(w, "Usage:\n  %s\n", use)
	if cmd.HasExample() {
		fmt.Fprintf(w, "\nExamples:\n%s\n", cmd.Example)
	}
	if cmd.HasAvailableSubCommands() {
		printCommands(w, cmd)
	}
	printFlags(w, cmd.LocalFlags(), helpWidth(env))
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "\nMore about a command: %s COMMAND --help\n", cmd.CommandPath())
	}
	return nil
}

func helpWidth(env *environment) int {
	width := terminalWidth(env.stdout)
	if width == 0 {
		return defaultWidth
	}
	return min(max(width, minWidth), maxWidth)
}

func printCommands(w io.Writer, cmd *cobra.Command) {
	section := func(title, group string) {
		for _, sub := range cmd.Commands() {
			if !sub.IsAvailableCommand() || sub.GroupID != group {
				continue
			}
			if title != "" {
				fmt.Fprintf(w, "\n%s\n", title)
				title = ""
			}
			fmt.Fprintf(w, "  %-*s %s\n", sub.NamePadding(), sub.Name(), sub.Short)
		}
	}
	for _, group := range cmd.Groups() {
		section(group.Title, group.ID)
	}
	if len(cmd.Groups()) > 0 {
		section("More:", "")
		return
	}
	section("Commands:", "")
}

// printFlags prints the command's own flags first and those of a group, shared by many commands, behind them.
func printFlags(w io.Writer, flags *pflag.FlagSet, width int) {
	var titles []string
	sections := map[string]*pflag.FlagSet{}
	flags.VisitAll(func(flag *pflag.Flag) {
		title := "Flags:"
		if group := flag.Annotations[flagGroup]; len(group) > 0 {
			title = group[0]
		}
		if sections[title] == nil {
			titles = append(titles, title)
			sections[title] = pflag.NewFlagSet("", pflag.ContinueOnError)
			sections[title].SortFlags = false
		}
		sections[title].AddFlag(flag)
	})
	show := func(title string) {
		if sections[title].HasAvailableFlags() {
			fmt.Fprintf(w, "\n%s\n%s", title, trimLines(sections[title].FlagUsagesWrapped(width)))
		}
	}
	if sections["Flags:"] != nil {
		show("Flags:")
	}
	for _, title := range titles {
		if title != "Flags:" {
			show(title)
		}
	}
}

// trimLines drops the spaces that wrapping leaves at the ends of lines.
func trimLines(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " ")
	}
	return strings.Join(lines, "\n")
}
