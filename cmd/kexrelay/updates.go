package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kexrelay/internal/deadletter"
	"kexrelay/internal/journal"
	"kexrelay/internal/update"
)

// defaultUpdates is how many waiting updates are listed unless somebody wants more: each is read with its body.
const defaultUpdates = 100

func newUpdatesCommand(env *environment) *cobra.Command {
	return newGroupCommand("updates", "List, show or cancel updates that wait",
		newUpdatesListCommand(env), newUpdatesShowCommand(env), newUpdatesCancelCommand(env))
}

// updatesListCommand is `kexrelay updates list`.
type updatesListCommand struct {
	env     *environment
	output  outputFlags
	vorgang string
	kind    string
	id      string
	traceID string
	since   string
	limit   int
}

func newUpdatesListCommand(env *environment) *cobra.Command {
	c := &updatesListCommand{env: env}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the updates that wait, oldest first",
		Long: `Lists the updates that are published and not settled, oldest first, without
their content. NATS gives them one by one with their bodies: --vorgang and
--kind narrow on the server, the other filters read every one.`,
		Example: `  kexrelay updates list
  kexrelay updates list --vorgang 123456
  kexrelay updates list --limit 0 --json | jq -r .updateId`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&c.vorgang, "vorgang", "", "only of this `Vorgangsnummer`; '~' stands for updates that have no valid one")
	flags.StringVar(&c.kind, "kind", "", "only of this `kind`: document or comments")
	flags.StringVar(&c.id, "update-id", "", "only with this update `ID`")
	flags.StringVar(&c.traceID, "trace-id", "", "only with this trace `ID`")
	flags.StringVar(&c.since, "since", "", "only published from this `time` on: 90s, 15m, 2h, 7d, 2026-01-31 or RFC 3339")
	flags.IntVar(&c.limit, "limit", defaultUpdates, "the oldest `number` only, 0 for all")
	completeFixed(cmd, "kind", "document", "comments", string(update.Document), string(update.Comments), string(update.Invalid))
	completeNothing(cmd, "vorgang", "update-id", "trace-id", "since", "limit")
	c.output.register(cmd)
	addConnectionFlags(cmd)
	return cmd
}

func (c *updatesListCommand) filter() (f journal.UpdateFilter, err error) {
	if c.limit < 0 {
		return f, usagef("--limit: less than none")
	}
	f.UpdateID, f.TraceID = c.id, c.traceID
	if c.vorgang != "" {
		if f.Vorgangsnummer, err = parseVorgang(c.vorgang); err != nil {
			return f, err
		}
	}
	if c.kind != "" {
		if f.Kind, err = parseKind(c.kind); err != nil {
			return f, err
		}
	}
	f.Since, err = parseSince(c.since, time.Now())
	return f, err
}

func (c *updatesListCommand) run(cmd *cobra.Command) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	filter, err := c.filter()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	conn, err := connect(ctx, c.env, cmd)
	if err != nil {
		return err
	}
	defer disconnect(ctx, conn)
	doing, err := journal.ReadLedger(ctx, conn.JetStream())
	if err != nil {
		return err
	}
	t := p.table(column{title: "SEQ", right: true}, column{title: "AGE", right: true, min: 6}, column{title: "VORGANG", min: 8},
		column{title: "KIND", min: 10}, column{title: "SIZE", right: true, from: 100}, column{title: "TRIES", right: true, from: 100},
		column{title: "STATE", min: 7}, column{title: "TRACE ID", from: 120, min: 23}, column{title: "UPDATE ID"})
	rows, more := 0, false
	for w, err := range journal.NewUpdates(conn.JetStream()).List(ctx, filter) {
		if err != nil {
			return err
		}
		if more = c.limit > 0 && rows == c.limit; more {
			break
		}
		rows++
		if err := addWaiting(p, t, w, doing); err != nil {
			return err
		}
	}
	switch {
	case p.json:
	case rows == 0:
		fmt.Fprintln(c.env.stderr, "kexrelay: no updates wait")
	case more:
		defer fmt.Fprintf(c.env.stderr, "kexrelay: there are more than %d; --limit 0 shows all\n", c.limit)
	}
	return t.flush()
}

// waitingUpdate is a line of the JSON output.
type waitingUpdate struct {
	journal.Waiting

	State    journal.Doing `json:"state"`
	Attempts int           `json:"attempts"`
}

// queued is the state of an update that the ledger does not know: nothing was sent of it, as far as can be seen.
const queued journal.Doing = "queued"

func stateOf(w journal.Waiting, ledger map[uint64]journal.InFlight) waitingUpdate {
	out := waitingUpdate{Waiting: w, State: queued}
	if doing, ok := ledger[w.Seq]; ok && doing.StoredAt.Equal(w.StoredAt) {
		out.State, out.Attempts = doing.Doing, doing.Attempts
	}
	return out
}

func addWaiting(p *printer, t *table, w journal.Waiting, ledger map[uint64]journal.InFlight) error {
	line := stateOf(w, ledger)
	if p.json {
		return p.object(line)
	}
	mark := plain
	if line.State != queued {
		mark = warn
	}
	return t.add(text(strconv.FormatUint(w.Seq, 10)), text(duration(time.Since(w.StoredAt))), text(w.Vorgangsnummer), text(string(w.Kind)),
		text(size(w.Size)), text(strconv.Itoa(line.Attempts)), cell{string(line.State), mark}, text(w.TraceID), text(w.UpdateID))
}

// updatesShowCommand is `kexrelay updates show`.
type updatesShowCommand struct {
	env    *environment
	output outputFlags
}

func newUpdatesShowCommand(env *environment) *cobra.Command {
	c := &updatesShowCommand{env: env}
	cmd := &cobra.Command{
		Use:   "show SEQ",
		Short: "Show one update that waits, without its content",
		Long: `Shows everything that is known of one waiting update: its headers, what its body
is like, and what a relay has done with it. The content itself (file, file name,
comments) is not shown. kexrelay trace also tells what it waits for.`,
		Example:           "  kexrelay updates show 4711\n  kexrelay updates show 4711 --json",
		Args:              oneUpdate,
		ValidArgsFunction: env.completeUpdates,
		RunE:              func(cmd *cobra.Command, args []string) error { return c.run(cmd, args[0]) },
	}
	c.output.register(cmd)
	addConnectionFlags(cmd)
	return cmd
}

func oneUpdate(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errors.New("one SEQ, as kexrelay updates list shows it, is wanted")
	}
	return nil
}

func parseUpdateSeq(arg string) (uint64, error) {
	seq, err := strconv.ParseUint(arg, 10, 64)
	if err != nil || seq == 0 {
		return 0, usagef("%q is no sequence: a number as kexrelay updates list shows it", shorten(printable(arg), 80))
	}
	return seq, nil
}

// shownUpdate is an update with what may be shown of its body.
type shownUpdate struct {
	waitingUpdate

	RequestID string             `json:"requestId,omitempty"`
	Header    map[string]string  `json:"header"`
	Content   deadletter.Content `json:"content"`
}

func (c *updatesShowCommand) run(cmd *cobra.Command, arg string) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	seq, err := parseUpdateSeq(arg)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	conn, err := connect(ctx, c.env, cmd)
	if err != nil {
		return err
	}
	defer disconnect(ctx, conn)
	w, err := journal.NewUpdates(conn.JetStream()).Get(ctx, seq)
	if err != nil {
		return fmt.Errorf("%w; kexrelay trace %s says more", err, "KEX_UPDATES-"+strconv.FormatUint(seq, 10))
	}
	ledger, err := journal.ReadLedger(ctx, conn.JetStream())
	if err != nil {
		return err
	}
	shown := shownUpdate{waitingUpdate: stateOf(w, ledger), RequestID: ledger[w.Seq].RequestID, Header: map[string]string{}, Content: deadletter.Describe(w.Body)}
	for name, values := range w.Header {
		shown.Header[name] = strings.Join(values, ", ")
	}
	if p.json {
		return p.object(shown)
	}
	return printUpdate(p, shown)
}

func printUpdate(p *printer, u shownUpdate) error {
	replay := ""
	if u.ReplayOf != 0 {
		replay = fmt.Sprintf("%d of dead letter %d", u.Replays, u.ReplayOf)
	}
	facts := [][2]string{
		{"Update", strconv.FormatUint(u.Seq, 10)},
		{"State", string(u.State)},
		{"Vorgang", u.Vorgangsnummer},
		{"Kind", string(u.Kind)},
		{"Update ID", u.UpdateID},
		{"Trace ID", u.TraceID},
		{"Replay", replay},
		{"Attempts", strconv.Itoa(u.Attempts)},
		{"Last request", u.RequestID},
		{"Published", moment(u.StoredAt)},
		{"Published to", u.Subject},
		{"Partition", strconv.Itoa(u.Partition)},
		{"Body", content(u.Content)},
	}
	for _, name := range slices.Sorted(maps.Keys(u.Header)) {
		facts = append(facts, [2]string{"Header", name + ": " + u.Header[name]})
	}
	for _, fact := range facts {
		if fact[1] == "" {
			continue
		}
		if err := p.fact(fact[0], fact[1], plain); err != nil {
			return err
		}
	}
	return nil
}
