package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"kexrelay/internal/deadletter"
	"kexrelay/internal/journal"
)

// deadLettersEraseCommand is `kexrelay deadletters erase`.
type deadLettersEraseCommand struct {
	deadLetters

	vorgang string
	because string
	yes     bool
	dryRun  bool
}

func newDeadLettersEraseCommand(env *environment) *cobra.Command {
	c := &deadLettersEraseCommand{deadLetters: deadLetters{env: env}}
	cmd := &cobra.Command{
		Use:   "erase --vorgang NUMBER --because TEXT",
		Short: "Erase the content of everything held for one Vorgang",
		Long: `Erases what is held for one Vorgang: waiting updates, dead letters, objects. The
server overwrites them in its files. Results and audit events stay, they hold no
content; an event 'erased' tells of each. What cannot be reached is named at the
end. Stop the publisher before; relays may run, or be paused.

A waiting update is erased only if it is certainly not booked, as 'updates
cancel' takes it back. What is being sent at this moment is waited for, a few
seconds. Updates that are left are listed with the reason and what to do; the
code is 1 then, and the same command goes on with them.`,
		Example: `  kexrelay deadletters erase --vorgang 123456 --because 'Art. 17 GDPR' --dry-run
  kexrelay deadletters erase --vorgang 123456 --because 'Art. 17 GDPR' --yes`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&c.vorgang, "vorgang", "", "the Vorgang's `number`")
	flags.StringVar(&c.because, "because", "", "why, in a few `words`, for the events; without content or names")
	flags.BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	flags.BoolVar(&c.dryRun, "dry-run", false, "count what would be erased and change nothing")
	completeNothing(cmd, "vorgang", "because")
	c.output.register(cmd)
	addConnectionFlags(cmd)
	return cmd
}

// erased is the JSON output.
type erased struct {
	Vorgangsnummer string `json:"vorgangsnummer"`
	DryRun         bool   `json:"dryRun,omitempty"`
	deadletter.Holding

	Left       []leftUpdate `json:"left,omitempty"`
	NotReached []string     `json:"notReached,omitempty"`
}

// leftUpdate is an update that could not be erased.
type leftUpdate struct {
	deadletter.Left

	Reason string `json:"reason"`
}

func (c *deadLettersEraseCommand) check() error {
	if c.vorgang == "" {
		return usagef("--vorgang is wanted: whose content is to be erased?")
	}
	if _, err := checkVorgang(c.vorgang); err != nil {
		return err
	}
	if c.dryRun {
		return nil
	}
	if err := checkBecause(c.because); err != nil {
		return err
	}
	if len(c.because) > journal.MaxCancelReason {
		return usagef("--because: longer than %d bytes", journal.MaxCancelReason)
	}
	if !c.yes && !c.env.canAsk() {
		return usagef("without a terminal to ask on --yes is needed (or --dry-run)")
	}
	return nil
}

func (c *deadLettersEraseCommand) run(cmd *cobra.Command) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	ctx := cmd.Context()
	store, closeAll, err := c.open(ctx, cmd)
	if err != nil {
		return err
	}
	defer closeAll()
	if c.dryRun || !c.yes {
		held, err := store.Held(ctx, c.vorgang)
		if err != nil {
			return err
		}
		if c.dryRun {
			return c.print(p, erased{Vorgangsnummer: c.vorgang, DryRun: true, Holding: held})
		}
		yes, err := confirmed(ctx, c.env, fmt.Sprintf("Erase %s and %s of Vorgang %s, with their objects, for good?",
			count(held.Updates, "waiting update", "waiting updates"), count(held.DeadLetters, "dead letter", "dead letters"), c.vorgang))
		if err != nil {
			return err
		}
		if !yes {
			return errors.New("nothing was erased")
		}
	}
	done, err := store.Erase(ctx, c.vorgang, c.because)
	if left, some := errors.AsType[*deadletter.LeftError](err); some {
		return c.incomplete(p, erased{Vorgangsnummer: c.vorgang, Holding: done, NotReached: notReached(ctx, store)}, left)
	}
	if err != nil && done != (deadletter.Holding{}) {
		err = fmt.Errorf("%w (%s; the same command goes on with the rest)", err, holding(done))
	}
	if err != nil {
		return err
	}
	return c.print(p, erased{Vorgangsnummer: c.vorgang, Holding: done, NotReached: notReached(ctx, store)})
}

// incomplete prints what was erased and what was not.
func (c *deadLettersEraseCommand) incomplete(p *printer, e erased, left *deadletter.LeftError) error {
	for _, u := range left.Updates {
		reason := strings.TrimPrefix(u.Err.Error(), fmt.Sprintf("update %d: ", u.UpdateSeq))
		e.Left = append(e.Left, leftUpdate{Left: u, Reason: reason})
	}
	if err := c.print(p, e); err != nil {
		return err
	}
	return fmt.Errorf("%s of Vorgang %s left; do what is said of each, then run the same command again",
		count(len(left.Updates), "waiting update", "waiting updates"), c.vorgang)
}

// notReached names what erasing does not reach.
func notReached(ctx context.Context, store *deadletter.Store) []string {
	var places []string
	copies, err := store.Copies(ctx)
	for _, name := range copies {
		places = append(places, "the stream "+name)
	}
	if err != nil {
		places = append(places, "streams that mirror KEX_UPDATES, KEX_DEADLETTERS or OBJ_KEX_DOCUMENTS: this user may not list streams")
	}
	return append(places,
		"mirrors in other accounts and clusters",
		"backups and snapshots of the streams or of the servers' disks",
		"files of deadletters export",
		"what left the streams before (delivered, replayed, discarded): no stream gives it any more; its bytes may stay in the servers' files until they are compacted",
		"in a cluster, the servers' replication logs, which hold what was stored until they are compacted",
		"what Europace and the CRM hold",
	)
}

func holding(h deadletter.Holding) string {
	return fmt.Sprintf("%s, %s and %s erased", count(h.Updates, "update", "updates"),
		count(h.DeadLetters, "dead letter", "dead letters"), count(h.Objects, "object", "objects"))
}

func (c *deadLettersEraseCommand) print(p *printer, e erased) error {
	if p.json {
		return p.object(e)
	}
	if e.DryRun {
		return p.line("Vorgang %s: %s and %s would be erased, with their objects; nothing was changed", e.Vorgangsnummer,
			count(e.Updates, "waiting update", "waiting updates"), count(e.DeadLetters, "dead letter", "dead letters"))
	}
	words := holding(e.Holding)
	if e.Holding == (deadletter.Holding{}) && len(e.Left) == 0 {
		words = "nothing is held for it"
	}
	if err := p.line("Vorgang %s: %s", e.Vorgangsnummer, words); err != nil {
		return err
	}
	if err := printList(p, "Left:", leftWords(e.Left)); err != nil {
		return err
	}
	return printList(p, "Not reached:", e.NotReached)
}

// mostNamed is how many of the updates that are left for one reason are named to people.
const mostNamed = 10

// leftWords says what is left, those with the same reason together.
func leftWords(left []leftUpdate) []string {
	var reasons []string
	by := map[string][]uint64{}
	for _, u := range left {
		if by[u.Reason] == nil {
			reasons = append(reasons, u.Reason)
		}
		by[u.Reason] = append(by[u.Reason], u.UpdateSeq)
	}
	words := make([]string, len(reasons))
	for i, reason := range reasons {
		var named []string
		for _, seq := range by[reason][:min(mostNamed, len(by[reason]))] {
			named = append(named, strconv.FormatUint(seq, 10))
		}
		words[i] = "update " + named[0] + ": " + reason
		if n := len(by[reason]); n > len(named) {
			words[i] = fmt.Sprintf("updates %s and %d more: %s", strings.Join(named, ", "), n-len(named), reason)
		} else if n > 1 {
			words[i] = "updates " + strings.Join(named, ", ") + ": " + reason
		}
	}
	return words
}

// printList prints a heading and one thing after the other, nothing if there is none.
func printList(p *printer, heading string, things []string) error {
	if len(things) == 0 {
		return nil
	}
	if err := p.line("%s", heading); err != nil {
		return err
	}
	for _, thing := range things {
		label := "  - "
		for line := range wrap(thing, p.width-len(label)) {
			if err := p.line("%s%s", label, printable(line)); err != nil {
				return err
			}
			label = strings.Repeat(" ", len(label))
		}
	}
	return nil
}
