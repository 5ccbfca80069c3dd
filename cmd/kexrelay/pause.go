package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kexrelay/internal/journal"
	"kexrelay/internal/queue"
	"kexrelay/internal/update"
)

// pauseCommand is `kexrelay pause`.
type pauseCommand struct {
	env    *environment
	output outputFlags

	lasts  string
	kind   string
	until  string
	reason string
}

func newPauseCommand(env *environment) *cobra.Command {
	c := &pauseCommand{env: env}
	cmd := &cobra.Command{
		Use:   "pause",
		Short: "Stop all sending, or that of one kind, on all replicas",
		Long: `Stops all replicas from sending, within a second. What is being sent is
finished; publishing goes on, and nothing is lost or dead-lettered. The pause is
kept in NATS: it outlives every process and ends by kexrelay resume, or at its
deadline, by the clock of NATS. A pause that is on is replaced.

With --kind only updates of that kind wait, and what is behind one of them in
its Vorgang, because a Vorgang's order is kept; everything else is sent. It is a
pause of its own: kexrelay resume --kind ends it. Relays older than this command
do not know of it.`,
		Example: `  kexrelay pause --reason 'maintenance of the CRM'
  kexrelay pause --for 30m
  kexrelay pause --kind document --reason 'scanner sends garbage'
  kexrelay pause --until '2026-01-31 13:00' --reason 'release of KreditSmart'`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&c.lasts, "for", "", "end by itself after this `duration`: 90s, 30m, 2h, 1d")
	flags.StringVar(&c.until, "until", "", "end by itself at this `time`: 13:00, '2026-01-31 13:00' or RFC 3339")
	flags.StringVar(&c.reason, "reason", "", "why, for those who look: `text`")
	registerPauseKind(cmd, &c.kind)
	completeFixed(cmd, "for", "15m", "1h", "8h")
	completeNothing(cmd, "until")
	completeNothing(cmd, "reason")
	c.output.register(cmd)
	addConnectionFlags(cmd)
	return cmd
}

// pauseReport is what pause and resume did, as -o json prints it.
type pauseReport struct {
	Action journal.Action `json:"action"`
	// Kind is the only kind it is about, absent for all.
	Kind update.Kind `json:"kind,omitempty"`
	// Paused says how it is now, WasPaused how it was before.
	Paused    bool `json:"paused"`
	WasPaused bool `json:"wasPaused"`
	// Since is when the pause began, Until when it ends by itself, absent if it does not.
	Since  time.Time `json:"since,omitzero"`
	Until  time.Time `json:"until,omitzero"`
	Reason string    `json:"reason,omitempty"`
	By     string    `json:"by,omitempty"`
	// StillHeld are the other reasons why nobody sends, after a resume.
	StillHeld []string `json:"stillHeld,omitempty"`
	// StillPaused are the kinds that are paused alone, after a resume of another or of all.
	StillPaused []update.Kind `json:"stillPaused,omitempty"`
}

func (c *pauseCommand) run(cmd *cobra.Command) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	wish, err := c.wish(time.Now())
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	conn, err := connect(ctx, c.env, cmd)
	if err != nil {
		return err
	}
	defer disconnect(ctx, conn)
	is, was, err := journal.NewHolds(conn.JetStream()).Pause(ctx, wish)
	if errors.Is(err, journal.ErrPauseOver) {
		return usageError(err)
	}
	if err != nil {
		return err
	}
	report := pauseReport{
		Action: journal.ActionPause, Kind: wish.Kind, Paused: true, WasPaused: was.Revision != 0,
		Since: is.Since, Until: is.Until, Reason: is.Detail, By: is.Replica,
	}
	if err := report.print(p); err != nil {
		return err
	}
	details := map[string]string{"until": "resume"}
	if !is.Until.IsZero() {
		details["until"] = is.Until.Format(time.RFC3339)
	}
	return c.env.auditPause(ctx, conn, report, details)
}

// wish is what the flags ask for.
func (c *pauseCommand) wish(now time.Time) (journal.Pause, error) {
	kind, err := parsePauseKind(c.kind)
	if err != nil {
		return journal.Pause{}, err
	}
	wish := journal.Pause{Kind: kind, Text: c.reason, By: c.env.whoPauses()}
	if c.lasts != "" && c.until != "" {
		return journal.Pause{}, usagef("--for and --until: only one of them")
	}
	if c.lasts != "" {
		lasts, err := parseAgo(c.lasts)
		if err != nil || lasts < time.Second {
			return journal.Pause{}, usagef("--for: %q is no duration of a second or more: write 90s, 30m, 2h or 1d", c.lasts)
		}
		wish.For = lasts
	}
	if c.until != "" {
		until, err := parseUntil(c.until, now)
		if err != nil {
			return journal.Pause{}, err
		}
		wish.Until = until
	}
	return wish, nil
}

// registerPauseKind is --kind of pause and resume.
func registerPauseKind(cmd *cobra.Command, kind *string) {
	cmd.Flags().StringVar(kind, "kind", "", "only this `kind` of updates: document or comments")
	completeFixed(cmd, "kind", "document", "comments", string(update.Document), string(update.Comments))
}

// parsePauseKind reads it; empty means all. What is invalid is never sent, so there is nothing to pause.
func parsePauseKind(text string) (update.Kind, error) {
	if text == "" {
		return "", nil
	}
	kind, err := parseKind(text)
	if err != nil || kind == update.Invalid {
		return "", usagef("--kind: %q is neither document (dokument) nor comments (kommentare)", text)
	}
	return kind, nil
}

// parseUntil reads a moment to come: an hour of the next 24, a local date and time, or RFC 3339.
func parseUntil(text string, now time.Time) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	if hour, err := time.Parse("15:04", text); err == nil {
		at := time.Date(now.Year(), now.Month(), now.Day(), hour.Hour(), hour.Minute(), 0, 0, now.Location())
		if !at.After(now) {
			at = time.Date(now.Year(), now.Month(), now.Day()+1, hour.Hour(), hour.Minute(), 0, 0, now.Location())
		}
		return at, nil
	}
	for _, layout := range []string{time.DateTime, "2006-01-02 15:04", "2006-01-02T15:04"} {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return at, nil
		}
	}
	return time.Time{}, usagef("--until: %q is no time: write 13:00, '2026-01-31 13:00' or RFC 3339", text)
}

// whoPauses names the operator for people who look at the pause.
func (e *environment) whoPauses() string {
	who := e.actor()
	return strings.Trim(who.OSUser+"@"+who.Host, "@")
}

// auditPause tells the audit what was done. What was done stays done if that fails.
func (e *environment) auditPause(ctx context.Context, conn *queue.Conn, r pauseReport, details map[string]string) error {
	publisher := journal.NewPublisher(conn.JetStream(), journal.PublisherConfig{})
	defer publisher.Close()
	auditor := journal.NewAuditor(conn.JetStream(), publisher, e.actor())
	err := auditor.Audit(ctx, journal.AuditEvent{
		ID: string(r.Action) + "." + rand.Text(), Action: r.Action, Kind: string(r.Kind), Reason: r.Reason, Details: details,
	})
	if err != nil {
		return fmt.Errorf("%s is done, but: %w", r.Action, err)
	}
	return nil
}

// print says what was done and until when.
func (r *pauseReport) print(p *printer) error {
	if p.json {
		return p.object(r)
	}
	if !r.Paused {
		return r.printResumed(p)
	}
	end := "until kexrelay resume"
	if r.Kind != "" {
		end += " --kind " + string(r.Kind)
	}
	if !r.Until.IsZero() {
		end = "until " + localTime(r.Until)
	}
	if r.WasPaused {
		end += "; it was paused before"
	}
	what := "no replica sends"
	if r.Kind != "" {
		what += " updates of kind " + string(r.Kind)
	}
	return p.line("%s: %s %s", p.paint(warn, "paused"), what, end)
}

func (r *pauseReport) printResumed(p *printer) error {
	what := "sending"
	if r.Kind != "" {
		what += " of kind " + string(r.Kind)
	}
	verdict, words := "not paused", what+" was not paused"
	if r.WasPaused {
		verdict = "resumed"
		words = fmt.Sprintf("%s goes on; it was paused since %s by %s", what, localTime(r.Since), cmp.Or(printable(r.By), "somebody"))
		if r.Reason != "" {
			words += ": " + printable(r.Reason)
		}
	}
	if err := p.line("%s: %s", p.paint(good, verdict), words); err != nil {
		return err
	}
	for _, kind := range r.StillPaused {
		if err := p.line("%s: updates of kind %s; kexrelay resume --kind %s ends that", p.paint(bad, "still paused"), kind, kind); err != nil {
			return err
		}
	}
	if len(r.StillHeld) == 0 {
		return nil
	}
	return p.line("%s: %s; kexrelay status says more", p.paint(bad, "still held"), printable(strings.Join(r.StillHeld, ", ")))
}
