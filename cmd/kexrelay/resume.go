package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
)

// resumeCommand is `kexrelay resume`.
type resumeCommand struct {
	env    *environment
	output outputFlags
	kind   string
}

func newResumeCommand(env *environment) *cobra.Command {
	c := &resumeCommand{env: env}
	cmd := &cobra.Command{
		Use:   "resume",
		Short: "End a pause",
		Long: `Ends a pause, whatever its deadline: all replicas go on within a second. Without
a pause there is nothing to do, and that is no error. Other reasons why nothing
is sent are not touched, but told; a pause of one kind ends with --kind.`,
		Example: `  kexrelay resume
  kexrelay resume --kind document
  kexrelay resume --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	registerPauseKind(cmd, &c.kind)
	c.output.register(cmd)
	addConnectionFlags(cmd)
	return cmd
}

func (c *resumeCommand) run(cmd *cobra.Command) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	kind, err := parsePauseKind(c.kind)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	conn, err := connect(ctx, c.env, cmd)
	if err != nil {
		return err
	}
	defer disconnect(ctx, conn)
	holds := journal.NewHolds(conn.JetStream())
	was, err := holds.Resume(ctx, kind)
	if err != nil && !errors.Is(err, journal.ErrNoHold) {
		return err
	}
	report := pauseReport{
		Action: journal.ActionResume, Kind: kind, WasPaused: err == nil,
		Since: was.Since, Reason: was.Detail, By: was.Replica,
	}
	others, err := holds.List(ctx)
	if err != nil {
		return err
	}
	for _, h := range others {
		if h.Reason != fault.Operator || kind != "" { // Else somebody may have paused again already.
			report.StillHeld = append(report.StillHeld, string(h.Reason))
		}
	}
	pauses, err := holds.Kinds(ctx)
	if err != nil {
		return err
	}
	for _, pause := range pauses {
		if pause.Kind() != kind {
			report.StillPaused = append(report.StillPaused, pause.Kind())
		}
	}
	if err := report.print(p); err != nil || !report.WasPaused {
		return err
	}
	details := map[string]string{"pausedBy": was.Replica, "pausedSince": was.Since.Format(time.RFC3339)}
	return c.env.auditPause(ctx, conn, report, details)
}
