package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"kexrelay/internal/config"
	"kexrelay/internal/journal"
	"kexrelay/internal/update"
)

// updatesCancelCommand is `kexrelay updates cancel`.
type updatesCancelCommand struct {
	env    *environment
	output outputFlags
	reason string
	yes    bool
}

func newUpdatesCancelCommand(env *environment) *cobra.Command {
	c := &updatesCancelCommand{env: env}
	cmd := &cobra.Command{
		Use:   "cancel SEQ --reason TEXT",
		Short: "Take back an update that was published by mistake and not sent",
		Long: `Takes an update out of the stream. Its result is discarded, and an audit event
says who did it and why.

It is done only if the update is certainly not booked. The relay with the right
to send it keeps it back, writes the result and goes on with the Vorgang's next
update; without a running relay cancel does it by itself. An update that is
being sent at this moment is waited for, a few seconds. If it was sent by then,
or the end of one of its requests is not known, nothing is changed and code 1
says so. kexrelay pause before it makes time for it.`,
		Example: `  kexrelay updates cancel 4711 --reason 'wrong Vorgang'
  kexrelay updates list --vorgang 123456 --json | jq .seq |
    xargs -I SEQ kexrelay updates cancel SEQ --reason 'wrong Vorgang' --yes`,
		Args:              oneUpdate,
		ValidArgsFunction: env.completeUpdates,
		RunE:              func(cmd *cobra.Command, args []string) error { return c.run(cmd, args[0]) },
	}
	cmd.Flags().StringVar(&c.reason, "reason", "", "why, for the result and the audit event (required); no content of the update")
	cmd.Flags().BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	completeNothing(cmd, "reason")
	c.output.register(cmd)
	addConnectionFlags(cmd)
	return cmd
}

func (c *updatesCancelCommand) run(cmd *cobra.Command, arg string) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	seq, err := parseUpdateSeq(arg)
	if err != nil {
		return err
	}
	switch {
	case c.reason == "":
		return usagef("--reason is required: why is it taken back?\n%s", seeHelp(cmd))
	case len(c.reason) > journal.MaxCancelReason:
		return usagef("--reason: longer than %d bytes", journal.MaxCancelReason)
	case !c.yes && (!terminal(c.env.stdin) || !terminal(c.env.stderr)):
		return usagef("there is no terminal to ask on: add --yes to take it back")
	}
	relay, err := config.LoadRelay(nil, config.EnvOf(c.env.environ))
	if err != nil {
		return usageError(err)
	}
	ctx := cmd.Context()
	conn, err := connect(ctx, c.env, cmd)
	if err != nil {
		return err
	}
	defer disconnect(ctx, conn)
	js := conn.JetStream()
	w, err := journal.NewUpdates(js).Get(ctx, seq)
	if err != nil {
		return err
	}
	if !c.yes {
		fmt.Fprintf(c.env.stderr, "Take back update %d (%s for Vorgang %s, %s)? [y/N] ", w.Seq, printable(string(w.Kind)), printable(w.Vorgangsnummer), printable(w.UpdateID))
		answer, err := readAnswer(ctx, c.env)
		if err != nil {
			return err
		}
		if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
			fmt.Fprintln(c.env.stderr, "kexrelay: nothing was changed")
			return exitWith(exitFailed)
		}
	}
	publisher := journal.NewPublisher(js, journal.PublisherConfig{})
	defer publisher.Close()
	w, err = journal.Cancel(ctx, js, journal.Cancellation{
		Seq: seq, Reason: c.reason, Source: relay.Source, Name: "kexrelay updates cancel",
		Auditor: journal.NewAuditor(js, publisher, c.env.actor()),
	})
	switch {
	case errors.Is(err, journal.ErrCancelUnknown):
		return err
	case err != nil:
		return fmt.Errorf("not taken back: %w", err)
	}
	if p.json {
		return p.object(struct {
			journal.Waiting

			Outcome update.Outcome `json:"outcome"`
		}{w, update.Discarded})
	}
	fmt.Fprintf(c.env.stderr, "kexrelay: update %d is taken back; its result is discarded\n", w.Seq)
	return nil
}
