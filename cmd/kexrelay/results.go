package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"kexrelay/internal/journal"
	"kexrelay/internal/update"
)

// clockSkew is how far the relay's clock may be from this one for --follow to miss nothing between list and watch.
const clockSkew = 10 * time.Minute

// resultsCommand is `kexrelay results list` and `kexrelay results watch`.
type resultsCommand struct {
	env       *environment
	output    outputFlags
	selection selection
	outcomes  []string
	updateID  string
	traceID   string
	until     string
	limit     int
	follow    bool
}

func newResultsCommand(env *environment) *cobra.Command {
	return newGroupCommand("results", "List results or watch them come",
		newResultsListCommand(env), newResultsWatchCommand(env))
}

func newResultsListCommand(env *environment) *cobra.Command {
	c := &resultsCommand{env: env}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the results there are, oldest first",
		Long: `Lists the result events of updates, oldest first. With -o json each line is the
event as it was published (CloudEvents 1.0).`,
		Example: `  kexrelay results list --limit 20
  kexrelay results list --outcome deadlettered --since 24h
  kexrelay results list --vorgang 123456 --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	c.register(cmd)
	cmd.Flags().StringVar(&c.until, "until", "", "only up to this `time`, written like --since")
	cmd.Flags().IntVar(&c.limit, "limit", 0, "the newest `number` only, 0 for all")
	cmd.Flags().BoolVarP(&c.follow, "follow", "f", false, "go on with the results that come, until interrupted")
	completeNothing(cmd, "limit", "until")
	addConnectionFlags(cmd)
	return cmd
}

func newResultsWatchCommand(env *environment) *cobra.Command {
	c := &resultsCommand{env: env, follow: true, limit: 0}
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Show results as they come",
		Long: `Shows each result event when it comes, until interrupted. It survives restarts
of NATS without a gap. With -o json each line is the event as it was published
(CloudEvents 1.0).`,
		Example: `  kexrelay results watch
  kexrelay results watch --outcome deadlettered --json
  kexrelay results watch --since 10m --vorgang 123456`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	c.register(cmd)
	addConnectionFlags(cmd)
	return cmd
}

func (c *resultsCommand) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&c.outcomes, "outcome", nil, "only with this `outcome`: delivered, deadlettered, replayed, …; several with commas")
	c.selection.register(cmd)
	c.selection.registerSince(cmd)
	flags.StringVar(&c.updateID, "update-id", "", "only of the update with this `ID` (the publisher's Nats-Msg-Id)")
	flags.StringVar(&c.traceID, "trace-id", "", "only with this trace `ID`, the update's or its last request's")
	c.output.register(cmd)
	completeFixed(cmd, "outcome", names(update.Outcomes())...)
	completeNothing(cmd, "update-id", "trace-id")
}

func (c *resultsCommand) filter() (journal.ResultFilter, error) {
	selected, err := c.selection.parse(time.Now())
	if err != nil {
		return journal.ResultFilter{}, err
	}
	outcomes, err := parseOutcomes(c.outcomes)
	if err != nil {
		return journal.ResultFilter{}, err
	}
	if c.limit < 0 {
		return journal.ResultFilter{}, usagef("--limit: less than none")
	}
	until, err := parseTime("until", c.until, time.Now())
	if err != nil {
		return journal.ResultFilter{}, err
	}
	switch {
	case until.IsZero():
	case c.follow:
		return journal.ResultFilter{}, usagef("--until and --follow exclude each other: what comes later is not wanted")
	case until.Before(selected.since):
		return journal.ResultFilter{}, usagef("--until: %s is before --since", c.until)
	}
	return journal.ResultFilter{
		Until: until,
		Since: selected.since, Kinds: selected.kinds, Vorgangsnummer: selected.vorgang,
		Outcomes: outcomes, UpdateID: c.updateID, TraceID: c.traceID,
	}, nil
}

func (c *resultsCommand) run(cmd *cobra.Command) error {
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
	printed := newResultTable(p)
	results := journal.NewResults(conn.JetStream())
	if c.follow {
		return c.watch(ctx, results, filter, printed, cmd.Name() == "list")
	}
	events := results.List(ctx, filter)
	if c.limit > 0 {
		events = newest(ctx, results, filter, c.limit)
	}
	if _, err := printed.all(events, 0); err != nil {
		return err
	}
	if printed.rows == 0 && !p.json {
		fmt.Fprintln(c.env.stderr, "kexrelay: no results")
	}
	return printed.flush()
}

// watch shows what comes. A list shows what is there before that.
func (c *resultsCommand) watch(ctx context.Context, results *journal.Results, filter journal.ResultFilter, printed *resultTable, list bool) error {
	var last uint64
	switch {
	case list && c.limit > 0:
		start := time.Now()
		var err error
		if last, err = printed.all(newest(ctx, results, filter, c.limit), 0); err != nil {
			return err
		}
		filter.Since = start.Add(-clockSkew)
	case list && filter.Since.IsZero():
		filter.Since = time.Unix(0, 0) // From the beginning, where the zero time would mean from now on.
	}
	if err := printed.stream(); err != nil {
		return err
	}
	// The header comes with the first result: a table that begins and then fails says less than the failure alone.
	_, err := printed.all(results.Watch(ctx, filter), last)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return exitWith(exitInterrupted) // The ordinary end: nothing to say.
	}
	return err
}

// newest gives the newest events of a filter, oldest first. It looks back in growing steps, so that the last few of
// many are found without reading them all.
func newest(ctx context.Context, results *journal.Results, filter journal.ResultFilter, limit int) iter.Seq2[journal.Event, error] {
	return func(yield func(journal.Event, error) bool) {
		events, err := lastEvents(ctx, results, filter, limit)
		if err != nil {
			yield(journal.Event{}, err)
			return
		}
		for _, event := range events {
			if !yield(event, nil) {
				return
			}
		}
	}
}

func lastEvents(ctx context.Context, results *journal.Results, filter journal.ResultFilter, limit int) ([]journal.Event, error) {
	for _, back := range []time.Duration{15 * time.Minute, 3 * time.Hour, 36 * time.Hour} {
		step := filter
		if step.Since = time.Now().Add(-back); !step.Since.After(filter.Since) {
			break
		}
		events, err := tail(results.List(ctx, step), limit)
		if err != nil || len(events) == limit {
			return events, err
		}
	}
	return tail(results.List(ctx, filter), limit)
}

// tail keeps the last events.
func tail(events iter.Seq2[journal.Event, error], limit int) ([]journal.Event, error) {
	var kept []journal.Event
	for event, err := range events {
		if err != nil {
			return nil, err
		}
		if len(kept) == limit {
			kept = kept[:copy(kept, kept[1:])]
		}
		kept = append(kept, event)
	}
	return kept, nil
}

// resultTable prints events, one line each.
type resultTable struct {
	p     *printer
	table *table
	rows  int
	// narrow says that the terminal has no room for years, kinds and whole sentences; live that each row is printed
	// at once.
	narrow, live bool
}

// wideResults is how wide a terminal must be for everything but the IDs of updates.
const wideResults = 110

func newResultTable(p *printer) *resultTable {
	t := &resultTable{p: p, narrow: p.width > 0 && p.width < wideResults}
	settled := 19
	if t.narrow {
		settled = 14
	}
	t.table = p.table(
		column{title: "SETTLED", min: settled}, column{title: "OUTCOME", min: 12}, column{title: "VORGANG", min: 8},
		column{title: "KIND", min: 10, from: wideResults}, column{title: "STATUS", from: wideResults},
		column{title: "TRIES", right: true, from: 140}, column{title: "TOOK", right: true, min: 6, from: 140},
		column{title: "UPDATE ID", min: 24, from: 170}, column{title: "TRACE ID", min: 23, share: traceShare}, column{title: "DETAIL"},
	)
	return t
}

// all prints the events behind a sequence and returns the last one's.
func (t *resultTable) all(events iter.Seq2[journal.Event, error], behind uint64) (last uint64, err error) {
	last = behind
	for event, err := range events {
		if err != nil {
			return last, err
		}
		if event.Seq <= behind {
			continue
		}
		last = event.Seq
		if err := t.add(event); err != nil {
			return last, err
		}
	}
	return last, nil
}

func (t *resultTable) add(event journal.Event) error {
	t.rows++
	if t.p.json {
		return t.p.object(event)
	}
	if t.live {
		if err := t.table.stream(); err != nil {
			return err
		}
	}
	d := event.Data
	took, status := "-", "-"
	if d.DurationMs != nil {
		took = duration(time.Duration(*d.DurationMs) * time.Millisecond)
	}
	if d.Status != 0 {
		status = strconv.Itoa(d.Status)
	}
	settled, detail := localTime(d.SettledAt), resultDetail(d)
	if t.narrow {
		settled, detail = d.SettledAt.Local().Format("01-02 15:04:05"), shortDetail(d)
	}
	return t.table.add(
		text(settled), outcomeCell(d), text(d.Vorgangsnummer), text(string(d.Kind)), text(status),
		text(strconv.Itoa(d.Attempts)), text(took), text(d.UpdateID), text(d.TraceID), text(detail),
	)
}

func outcomeCell(d journal.EventData) cell {
	mark := plain
	switch d.Outcome {
	case update.Delivered:
		mark = good
		if d.PossibleDuplicate {
			mark = warn
		}
	case update.DeadLettered, update.DoubleBooked:
		mark = bad
	case update.Replayed, update.Discarded, update.Erased:
		mark = warn
	}
	return cell{string(d.Outcome), mark}
}

// resultDetail is what is worth saying beside the outcome.
func resultDetail(d journal.EventData) string {
	words := ""
	switch {
	case d.Outcome == update.DeadLettered:
		words = fmt.Sprintf("dead letter %d: %s", d.DeadLetterSeq, d.Reason)
	case d.Outcome == update.Replayed:
		words = fmt.Sprintf("dead letter %d as update %d", d.DeadLetterSeq, d.UpdateSeq)
	case d.PossibleDuplicate:
		words = "possibly booked twice"
	}
	if d.Detail != "" {
		if words != "" {
			words += ": "
		}
		words += d.Detail
	}
	return words
}

// shortDetail is resultDetail for where its first word has to do.
func shortDetail(d journal.EventData) string {
	switch {
	case d.Outcome == update.DeadLettered:
		return fmt.Sprintf("%s (%d)", d.Reason, d.DeadLetterSeq)
	case d.PossibleDuplicate:
		return "perhaps twice"
	}
	return resultDetail(d)
}

// stream begins to print each line at once.
func (t *resultTable) stream() error {
	t.live = true
	return t.table.flush()
}

func (t *resultTable) flush() error { return t.table.flush() }
