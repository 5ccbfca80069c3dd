package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"kexrelay/internal/deadletter"
	"kexrelay/internal/update"
)

const (
	// fewItems is how many dead letters are worth a line each on a terminal; of more only what went wrong is.
	fewItems = 20
	// quietFor is how long nothing has to happen until it is asked why, and askAgain how often.
	quietFor = 3 * time.Second
	askAgain = 10 * time.Second
)

// replayed is one line of the JSON output.
type replayed struct {
	deadletter.Item

	Error string `json:"error,omitempty"`
}

// replayReport tells of a replay while it runs: a line per dead letter on stdout, a bar and what it waits for on stderr.
type replayReport struct {
	c     *deadLettersReplayCommand
	plan  *deadletter.Plan
	p     *printer
	table *table
	bar   *progress
	brief bool
	err   error
	// stays counts what was not sent, or not well, and is still there.
	stays int

	// why is asked in the background, one at a time.
	ask     func() string
	asking  sync.WaitGroup
	askedAt time.Time
	mu      sync.Mutex // Of stderr and said, which the background writes too.
	said    string
	// shown is what the bar shows.
	shown string
}

func newReplayReport(ctx context.Context, c *deadLettersReplayCommand, cmd *cobra.Command, plan *deadletter.Plan, p *printer) *replayReport {
	r := &replayReport{c: c, plan: plan, p: p, ask: func() string { return whyNothingMoves(ctx, c.env, cmd) }}
	r.table = p.table(
		column{title: "SEQ", min: 6, right: true}, column{title: "RESULT", min: 9}, column{title: "OUTCOME", min: 12},
		column{title: "VORGANG", min: 10}, column{title: "KIND", min: 10, from: 100}, column{title: "NEW SEQ", right: true, min: 7, from: 100},
		column{title: "TRACE ID", min: 23, from: 120}, column{title: "WHY"},
	)
	r.brief = terminal(c.env.stdout) && plan.Send > fewItems
	if terminal(c.env.stderr) && plan.Send > 1 {
		bar := newBar(c.env.stderr, int64(plan.Send), progressbar.OptionSetDescription("replaying"), progressbar.OptionShowCount())
		_ = bar.RenderBlank() // Nothing depends on the bar.
		r.bar = &progress{bar: bar, alone: !terminal(c.env.stdout)}
	}
	return r
}

// close takes the bar away and waits for what is being asked.
func (r *replayReport) close() {
	r.asking.Wait()
	r.bar.done()
}

// item prints what became of a dead letter.
func (r *replayReport) item(item deadletter.Item) {
	wrong := item.Err != nil || item.End != nil && item.End.Outcome == update.DeadLettered
	// One that is gone was replayed by somebody else meanwhile; only who asked for it by number wants to know.
	gone := errors.Is(item.Err, deadletter.ErrNotFound)
	if item.Err != nil && (!gone || len(r.plan.Missing) > 0) {
		r.stays++
	}
	if r.err != nil || r.brief && (!wrong || gone) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bar.clearForOutput()
	r.err = printReplayed(r.p, r.table, item)
}

func printReplayed(p *printer, t *table, item deadletter.Item) error {
	why := ""
	if item.Err != nil {
		why = strings.TrimPrefix(item.Err.Error(), fmt.Sprintf("dead letter %d: ", item.Seq))
	}
	if p.json {
		return p.object(replayed{Item: item, Error: why})
	}
	mark, outcome := good, cell{text: "-"}
	switch item.Result {
	case deadletter.Replayed:
	case deadletter.Duplicate:
		mark, why = warn, "published by a former or another replay"
	case deadletter.Skipped:
		mark = warn
	case deadletter.Failed:
		mark = bad
	}
	if end := item.End; end != nil {
		outcome = cell{string(end.Outcome), good}
		if end.Outcome != update.Delivered {
			outcome.colour = bad
		}
		if end.DeadLetterSeq != 0 {
			why = fmt.Sprintf("dead letter %d: %s", end.DeadLetterSeq, endWords(*end))
		}
	}
	newSeq := "-"
	if item.UpdateSeq != 0 {
		newSeq = strconv.FormatUint(item.UpdateSeq, 10)
	}
	if err := t.stream(); err != nil {
		return err
	}
	return t.add(text(strconv.FormatUint(item.Seq, 10)), cell{string(item.Result), mark}, outcome, text(item.Vorgangsnummer),
		text(string(item.Kind)), text(newSeq), text(item.TraceID), text(why))
}

// endWords is why an update is a dead letter again.
func endWords(end deadletter.End) string {
	words := string(end.Reason)
	if end.Status != 0 {
		words += " " + strconv.Itoa(end.Status)
	}
	if end.Detail != "" {
		words += ", " + end.Detail
	}
	return words
}

// progress moves the bar, and asks why when nothing happens.
func (r *replayReport) progress(now deadletter.Progress) {
	r.mu.Lock()
	if r.bar != nil {
		description := "replaying"
		if now.Canaries > 0 {
			description = "waiting for " + count(now.Canaries, "canary", "canaries")
		}
		if line := fmt.Sprint(description, now.Done); line != r.shown { // Each call draws it.
			r.shown = line
			r.bar.bar.Describe(description)
			_ = r.bar.bar.Set(now.Done) // Nothing depends on the bar.
		}
	}
	r.mu.Unlock()
	if now.Quiet < quietFor || time.Since(r.askedAt) < askAgain || r.p.json {
		return
	}
	r.askedAt = time.Now()
	r.asking.Go(func() {
		waits := count(now.Sent, "sent one waits", "sent ones wait")
		if now.Sent == 0 {
			waits = count(now.Canaries, "canary waits", "canaries wait")
		}
		why := r.ask()
		if why == "" {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if line := fmt.Sprintf("kexrelay: %s: %s", waits, why); line != r.said {
			r.said = line
			r.bar.clear()
			fmt.Fprintln(r.c.env.stderr, printable(line))
		}
	})
}

// whyNothingMoves is what status says, nothing if that is not known.
func whyNothingMoves(ctx context.Context, env *environment, cmd *cobra.Command) string {
	settings, err := connectionSettings(env, cmd)
	if err != nil {
		return ""
	}
	conn, err := dial(ctx, env, settings)
	if err != nil {
		return err.Error()
	}
	defer disconnect(ctx, conn)
	found := newStatus()
	found.ask(ctx, conn, false)
	found.judge()
	if found.Healthy && found.waiting() == 0 {
		return "" // All has ended: the results are on their way here.
	}
	return found.Verdict
}

// summary says how it ended.
func (r *replayReport) summary(report deadletter.Report, err error) {
	say := func(format string, args ...any) {
		fmt.Fprintln(r.c.env.stderr, "kexrelay:", printable(fmt.Sprintf(format, args...)))
	}
	if sent := summaryWords(report, r.c.wait == 0); sent != "" {
		say("%s", sent)
	}
	for g, group := range report.Groups {
		if group.Refused() && group.NotSent > 0 {
			say("%s: the canary %d %s: %s", groupWords(r.plan.Groups[g]), group.Canary, canaryWords(*group.End),
				count(group.NotSent, "other stays", "others stay"))
		}
	}
	switch {
	case err != nil:
	case report.Stop == deadletter.StopFailures:
		say("stopped after %s: %s; cure the cause, or raise --max-failures",
			count(report.DeadAgain+report.Failed, "failure", "failures"), count(report.NotSent, "was not sent and stays", "were not sent and stay"))
	case report.Stop == deadletter.StopWaiting && report.NotSent > 0:
		say("stopped, because nothing happened for %s: %s; the same command goes on",
			duration(r.c.wait), count(report.NotSent, "was not sent and stays", "were not sent and stay"))
	case report.Stop == deadletter.StopWaiting:
		say("not waiting any longer: kexrelay results watch --outcome delivered,deadlettered shows how they end")
	}
}

func groupWords(group deadletter.PlannedGroup) string {
	words := string(group.Reason)
	if group.Status != 0 {
		words += " " + strconv.Itoa(group.Status)
	}
	if group.ID != "" {
		words = "group " + group.ID + " (" + words + ")"
	}
	return words
}

// canaryWords is how a canary ended that did not end well.
func canaryWords(end deadletter.End) string {
	if end.DeadLetterSeq != 0 {
		end.Detail = "" // It is in the dead letter's own line.
		return fmt.Sprintf("is dead letter %d now (%s)", end.DeadLetterSeq, endWords(end))
	}
	return "was " + string(end.Outcome)
}

// summaryWords is the report in a sentence, nothing if nothing was done.
func summaryWords(report deadletter.Report, unwaited bool) string {
	var words []string
	add := func(n int, text string) {
		if n > 0 {
			words = append(words, strconv.Itoa(n)+" "+text)
		}
	}
	if sent := report.Replayed + report.Duplicate; sent > 0 {
		words = append(words, count(sent, "dead letter", "dead letters")+" replayed")
		add(report.Duplicate, "of them by a former or another replay")
	}
	add(report.Delivered, "delivered")
	add(report.DeadAgain, "dead again")
	add(report.Removed, "removed meanwhile")
	if !unwaited {
		add(report.Waiting, "still waiting")
	}
	add(report.Skipped, "skipped")
	add(report.Failed, "failed")
	return strings.Join(words, ", ")
}
