package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"kexrelay/internal/deadletter"
	"kexrelay/internal/journal"
	"kexrelay/internal/queue"
	"kexrelay/internal/trace"
	"kexrelay/internal/update"
)

// slowTrace is how many results to read one by one are worth a word to who waits for it.
const slowTrace = 50_000

// traceCommand is `kexrelay trace`.
type traceCommand struct {
	env     *environment
	output  outputFlags
	vorgang string
}

func newTraceCommand(env *environment) *cobra.Command {
	c := &traceCommand{env: env}
	cmd := &cobra.Command{
		Use:   "trace ID",
		Short: "Tell the whole story of one update",
		Long: `Tells everything that is known of an update in the order it happened: when it
was published, its requests, its dead letter, replays, and how it ended; of one
that still waits, what it waits for. ID is the update ID (Nats-Msg-Id), the
trace ID (X-TraceId), or the trace ID of one of its requests.

Code 0: found. Code 1: nothing is known of it; it says where was looked.`,
		Example: `  kexrelay trace sys12345678
  kexrelay trace KEX_UPDATES-4711
  kexrelay trace sys12345678-2 --vorgang 123456 --json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return errors.New("one ID is wanted: an update ID or a trace ID")
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return c.run(cmd, args[0]) },
	}
	cmd.Flags().StringVar(&c.vorgang, "vorgang", "", "its `Vorgangsnummer`, if you know it: then less has to be looked at")
	completeNothing(cmd, "vorgang")
	c.output.register(cmd)
	addConnectionFlags(cmd)
	return cmd
}

func (c *traceCommand) run(cmd *cobra.Command, id string) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	if c.vorgang != "" {
		if _, err := parseVorgang(c.vorgang); err != nil {
			return err
		}
	}
	if !update.ValidID(id) {
		return usagef("%q is no ID: not 1 to %d printable ASCII characters", shorten(printable(id), 80), update.MaxIDLength)
	}
	ctx := cmd.Context()
	conn, err := connect(ctx, c.env, cmd)
	if err != nil {
		return err
	}
	defer disconnect(ctx, conn)
	tracer, closeAll := newTracer(conn)
	defer closeAll()
	stories, looked, err := tracer.Look(ctx, trace.Query{ID: id, Vorgangsnummer: c.vorgang, OnRead: func(results uint64) {
		if results >= slowTrace {
			fmt.Fprintf(c.env.stderr, "kexrelay: reading %d results that no running relay has put into the index yet; --vorgang makes it short\n", results)
		}
	}})
	if err != nil {
		return err
	}
	if len(stories) == 0 {
		return c.unknown(p, id, looked)
	}
	for i, story := range stories {
		if err := printStory(p, story, i > 0); err != nil {
			return err
		}
	}
	return nil
}

func newTracer(conn *queue.Conn) (tracer *trace.Tracer, closeAll func()) {
	js := conn.JetStream()
	store := deadletter.New(js, deadletter.Config{})
	leases := journal.NewLeases(js, "", slog.New(slog.DiscardHandler))
	return &trace.Tracer{Sources: trace.Sources{
		Index: journal.NewIndex(js), Results: journal.NewResults(js), Updates: journal.NewUpdates(js),
		DeadLetters: store, Claims: journal.NewClaims(js), Holds: journal.NewHolds(js),
		Ledger:  func(ctx context.Context) (map[uint64]journal.InFlight, error) { return journal.ReadLedger(ctx, js) },
		Holders: leases.Holders,
		Standing: func(ctx context.Context, process string, w journal.Waiting) (journal.Standing, error) {
			return journal.AskStanding(ctx, js, process, w)
		},
	}}, store.Close
}

// unknown says where was looked, and what that means.
func (c *traceCommand) unknown(p *printer, id string, l trace.Looked) error {
	if p.json {
		if err := p.object(struct {
			Query  string       `json:"query"`
			State  string       `json:"state"`
			Looked trace.Looked `json:"looked"`
		}{id, "unknown", l}); err != nil {
			return err
		}
		return exitWith(exitFailed)
	}
	w := c.env.stderr
	of := ""
	if c.vorgang != "" {
		of = " of Vorgang " + printable(c.vorgang)
	}
	fmt.Fprintf(w, "kexrelay: nothing is known of %s. It is not among\n", printable(id))
	where := func(format string, args ...any) { fmt.Fprintf(w, "  - "+format+"\n", args...) }
	if l.ResultsSince.IsZero() {
		where("the results%s: there are none", of)
	} else {
		where("%s%s, kept since %s", count(l.Results, "result", "results"), of, localTime(l.ResultsSince))
	}
	where("%s%s", count(l.DeadLetters, "dead letter", "dead letters"), of)
	where("%s%s%s", count(l.Waiting, "waiting update", "waiting updates"), of, partial(l))
	where("%s in the ledger of what is being sent, or was last", count(l.Ledger, "record", "records"))
	fmt.Fprintln(w, "Either it was never published (publishers: only an answer of NATS without error counts),\n"+
		"or its result is not kept any more, or it has another ID.")
	return exitWith(exitFailed)
}

func partial(l trace.Looked) string {
	if l.WaitingPartial {
		return " (not all of them could be looked at in time: give --vorgang)"
	}
	return ""
}

func printStory(p *printer, s trace.Story, another bool) error {
	if p.json {
		return p.object(s)
	}
	if another {
		if err := p.line(""); err != nil {
			return err
		}
	}
	state, mark := stateText(s)
	for _, fact := range []struct {
		name, value string
		mark        colour
	}{
		{"State", state, mark},
		{"Update ID", s.UpdateID, plain},
		{"Trace ID", s.TraceID, plain},
		{"Vorgang", s.Vorgangsnummer + " (" + string(s.Kind) + ")", plain},
	} {
		if fact.value == "" {
			continue
		}
		if err := p.fact(fact.name, fact.value, fact.mark); err != nil {
			return err
		}
	}
	if err := p.line(""); err != nil {
		return err
	}
	for _, step := range s.Steps {
		if err := printStep(p, step); err != nil {
			return err
		}
	}
	if s.Wait != nil {
		return printWait(p, *s.Wait)
	}
	return nil
}

// stepIndent is where the text of a step begins: behind the time.
const stepIndent = 25

func printStep(p *printer, step trace.Step) error {
	return p.hanging(stepTime(step), stepWords(step), stepColour(step), stepIndent)
}

func stepWords(step trace.Step) string {
	words := step.Text
	if ids := step.RequestIDs; len(ids) > 0 {
		if step.Attempts > len(ids) {
			ids = slices.Insert(slices.Clone(ids), len(ids)-1, "…")
		}
		words += " (" + strings.Join(ids, ", ") + ")"
	}
	return words
}

func stepTime(step trace.Step) string {
	if step.At.IsZero() {
		return "-"
	}
	return step.At.Local().Format("2006-01-02 15:04:05.000")
}

func stepColour(step trace.Step) colour {
	if step.What == trace.Claimed {
		return warn
	}
	switch update.Outcome(step.What) {
	case update.Delivered:
		return good
	case update.DeadLettered, update.DoubleBooked:
		return bad
	case update.Discarded, update.Erased:
		return warn
	case update.Replayed:
	}
	return plain
}

// stateText is how an update stands, in a sentence.
func stateText(s trace.Story) (string, colour) {
	if s.DoubleBooked {
		return "booked twice: look into the Vorgang", bad
	}
	switch s.State {
	case trace.Delivered:
		if s.PossibleDuplicate {
			return "delivered, possibly twice: look into the Vorgang", warn
		}
		return "delivered", good
	case trace.DeadLetter:
		if s.DeadLetterSeq == 0 {
			return "dead letter, which is not there any more", bad
		}
		return fmt.Sprintf("dead letter %d: kexrelay deadletters show %d says what to do", s.DeadLetterSeq, s.DeadLetterSeq), bad
	case trace.Waiting:
		return "waiting", warn
	case trace.Sending:
		return "being sent", warn
	case trace.Replayed:
		return "replayed; a result of the replay is not known", warn
	case trace.Discarded, trace.Erased:
		return string(s.State), warn
	}
	return string(s.State), plain
}
