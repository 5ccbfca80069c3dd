package main

import (
	"encoding/csv"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"kexrelay/internal/journal"
	"kexrelay/internal/trace"
)

// reportDays is how far back report looks unless somebody says so.
const reportDays = 7

// formatCSV is a third format of report.
const formatCSV = "csv"

// reportCommand is `kexrelay report`.
type reportCommand struct {
	env       *environment
	output    outputFlags
	since     string
	selection selection
}

func newReportCommand(env *environment) *cobra.Command {
	c := &reportCommand{env: env}
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Count per day what was published and how it ended",
		Long: `Counts per day (of this machine's time zone) what was published and how it
ended, from the results, for reconciling with Europace. Published are updates
that were settled since, on the day they were stored; everything else counts on
the day it happened. What still waits is told beside the table. Results are kept
for 30 days unless setup says otherwise.`,
		Example: `  kexrelay report
  kexrelay report --since 2026-11-01 -o csv > november.csv
  kexrelay report --since 30d --kind document --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	c.selection.register(cmd)
	cmd.Flags().StringVar(&c.since, "since", fmt.Sprintf("%dd", reportDays), "from this `time` on, from the beginning of its day: 7d, 2026-01-31 or RFC 3339")
	completeFixed(cmd, "since", "1d", "7d", "30d")
	cmd.Flags().StringVarP(&c.output.format, "output", "o", formatTable, "`format` of what is printed: table, csv, or json (one object per day)")
	cmd.Flags().BoolVar(&c.output.json, "json", false, "short for -o json")
	completeFixed(cmd, "output", formatTable, formatCSV, formatJSON)
	addConnectionFlags(cmd)
	return cmd
}

func (c *reportCommand) run(cmd *cobra.Command) error {
	asCSV := c.output.format == formatCSV
	if asCSV {
		if c.output.json {
			return usagef("--json and -o csv exclude each other")
		}
		c.output.format = formatTable
	}
	p, err := c.output.open(c.env)
	if err != nil {
		return usagef("--output: %q is none of %s, %s, %s", c.output.format, formatTable, formatCSV, formatJSON)
	}
	now := time.Now()
	since, err := parseSince(c.since, now)
	if err != nil {
		return err
	}
	selected, err := c.selection.parse(now)
	if err != nil {
		return err
	}
	since = trace.DayOf(since, time.Local)
	ctx := cmd.Context()
	conn, err := connect(ctx, c.env, cmd)
	if err != nil {
		return err
	}
	defer disconnect(ctx, conn)
	count := trace.NewCount(time.Local)
	for event, err := range journal.NewResults(conn.JetStream()).List(ctx, journal.ResultFilter{
		Since: since, Kinds: selected.kinds, Vorgangsnummer: selected.vorgang,
	}) {
		if err != nil {
			return err
		}
		count.Add(event.Data)
	}
	backlog, err := conn.Backlog(ctx)
	if err != nil {
		return err
	}
	days := count.Days(since)
	if len(selected.kinds) == 0 && selected.vorgang == "" && backlog.Messages > 0 && !p.json {
		fmt.Fprintf(c.env.stderr, "kexrelay: %s still waiting, the oldest since %s; not in the table\n",
			counted(backlog.Messages), localTime(backlog.OldestAt))
	}
	if asCSV {
		return writeCSV(p, days)
	}
	return printDays(p, days)
}

func counted(n uint64) string {
	if n == 1 {
		return "1 update is"
	}
	return fmt.Sprintf("%d updates are", n)
}

var reportColumns = []string{
	"day", "published", "delivered", "documents", "comments", "deadlettered", "replayed", "discarded", "erased",
	"possibleDuplicates", "doubleBooked",
}

func values(d trace.Day) []int {
	return []int{
		d.Published, d.Delivered, d.Documents, d.Comments, d.DeadLettered, d.Replayed, d.Discarded, d.Erased,
		d.PossibleDuplicates, d.DoubleBooked,
	}
}

func writeCSV(p *printer, days []trace.Day) error {
	w := csv.NewWriter(p.w)
	rows := [][]string{reportColumns}
	for _, d := range days {
		row := []string{d.Day}
		for _, n := range values(d) {
			row = append(row, strconv.Itoa(n))
		}
		rows = append(rows, row)
	}
	if err := w.WriteAll(rows); err != nil {
		return writeError(err)
	}
	return nil
}

func printDays(p *printer, days []trace.Day) error {
	total := trace.Day{Day: "total"}
	t := p.table(column{title: "DAY", min: 10}, column{title: "PUBLISHED", right: true}, column{title: "DELIVERED", right: true},
		column{title: "DOCUMENTS", right: true, from: 110}, column{title: "COMMENTS", right: true, from: 110},
		column{title: "DEAD", right: true}, column{title: "REPLAYED", right: true, from: 80},
		column{title: "DISCARDED", right: true, from: 110}, column{title: "ERASED", right: true, from: 120},
		column{title: "PERHAPS TWICE", right: true}, column{title: "TWICE", right: true})
	row := func(d trace.Day) error {
		n := values(d)
		cells := []cell{text(d.Day)}
		for i, value := range n {
			mark := plain
			switch {
			case value == 0:
			case i == len(n)-1:
				mark = bad
			case i == len(n)-2, i == 4:
				mark = warn
			}
			cells = append(cells, cell{strconv.Itoa(value), mark})
		}
		return t.add(cells...)
	}
	for _, d := range days {
		if p.json {
			if err := p.object(d); err != nil {
				return err
			}
			continue
		}
		total.Sum(d)
		if err := row(d); err != nil {
			return err
		}
	}
	if p.json {
		return nil
	}
	if err := row(total); err != nil {
		return err
	}
	return t.flush()
}
