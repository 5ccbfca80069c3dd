package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"kexrelay/internal/config"
	"kexrelay/internal/queue"
)

// configCommand is `kexrelay config check` and `kexrelay config print`.
type configCommand struct {
	env    *environment
	output outputFlags
}

func newConfigCommand(env *environment) *cobra.Command {
	return newGroupCommand("config", "Check or print the configuration of serve",
		newConfigCheckCommand(env), newConfigPrintCommand(env))
}

func newConfigCheckCommand(env *environment) *cobra.Command {
	c := &configCommand{env: env}
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say everything that is wrong with the configuration",
		Long: `Reads the configuration exactly as serve would, from flags, environment and
file, and says everything that is wrong with it. It connects to nothing.`,
		Example: `  kexrelay config check
  kexrelay config check --config /etc/kexrelay.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.check(cmd) },
	}
	registerServeFlags(cmd)
	return cmd
}

func newConfigPrintCommand(env *environment) *cobra.Command {
	c := &configCommand{env: env}
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Print the configuration with where each value comes from",
		Long: `Prints the configuration exactly as serve would use it, each value with where it
comes from. Secrets are not shown. Of a wrong configuration it prints what was
given, and what is wrong with it as config check does.`,
		Example: `  kexrelay config print
  kexrelay config print --config /etc/kexrelay.yaml --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.print(cmd) },
	}
	c.output.register(cmd)
	registerServeFlags(cmd)
	return cmd
}

// serveChecks are what only NATS itself can say about the settings.
func serveChecks() []config.Check {
	return []config.Check{
		config.CheckContext(queue.CheckContext), config.CheckIdentity(queue.CheckCreds, queue.CheckNKey), config.CheckEmbedded(checkEmbedded),
	}
}

// loadServe reads serve's configuration from flags, environment and file. All mistakes together are one usage error.
func loadServe(env *environment, cmd *cobra.Command) (config.Serve, error) {
	lookup := config.EnvOf(env.environ)
	settings, err := config.LoadServe(cmd.Flags(), lookup, config.File(cmd.Flags(), lookup), serveChecks()...)
	if err != nil {
		return config.Serve{}, wrongConfiguration(err)
	}
	return settings, nil
}

func (c *configCommand) check(cmd *cobra.Command) error {
	if _, err := loadServe(c.env, cmd); err != nil {
		return err
	}
	fmt.Fprintln(c.env.stderr, "kexrelay: the configuration is right")
	return nil
}

func (c *configCommand) print(cmd *cobra.Command) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	lookup := config.EnvOf(c.env.environ)
	settings, wrong := config.Inspect(cmd.Flags(), lookup, config.File(cmd.Flags(), lookup), serveChecks()...)
	if err := printSettings(p, settings); err != nil {
		return err
	}
	if wrong != nil {
		return wrongConfiguration(wrong)
	}
	return nil
}

func wrongConfiguration(err error) error { return usagef("the configuration is wrong:\n%w", err) }

func printSettings(p *printer, settings config.Serve) error {
	if p.json {
		return settings.Print(p.w, config.FormatJSON)
	}
	t := p.table(column{title: "OPTION"}, column{title: "FROM"}, column{title: "VALUE"})
	for _, s := range settings.Settings() {
		value := s.Value
		if value == "" {
			value = "-"
		}
		mark := plain
		if s.Source == config.FromDefault {
			mark = faint
		}
		if err := t.add(text(s.Key), cell{string(s.Source), mark}, cell{value, mark}); err != nil {
			return err
		}
	}
	return t.flush()
}

// registerServeFlags adds every option of serve, in the sections of the option table.
func registerServeFlags(cmd *cobra.Command) {
	for _, group := range []struct {
		title string
		set   config.OptionSet
	}{
		{"KEX API:", config.KEXOptions},
		{"Relay:", config.RelayOptions},
		{"Health and metrics:", config.HTTPOptions},
		{"Logs:", config.LogOptions},
		{"NATS in the process:", config.EmbeddedOptions},
	} {
		addOptions(cmd, group.title, group.set)
	}
	addConnectionFlags(cmd)
}
