package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"kexrelay/internal/config"
	"kexrelay/internal/journal"
	"kexrelay/internal/queue"
	"kexrelay/internal/telemetry"
	"kexrelay/internal/update"
)

// defaultWait is how long --wait without a value waits.
const defaultWait = time.Minute

// publishPatience is how long one update is tried when NATS does not answer.
const publishPatience = 30 * time.Second

// publishCommand is what publish document and publish comments have in common.
type publishCommand struct {
	env     *environment
	output  outputFlags
	vorgang string
	id      string
	traceID string
	wait    time.Duration
}

func newPublishCommand(env *environment) *cobra.Command {
	return newGroupCommand("publish", "Publish documents or comments for a Vorgang",
		newPublishDocumentCommand(env), newPublishCommentsCommand(env))
}

func (c *publishCommand) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&c.vorgang, "vorgang", "", "the `Vorgangsnummer` (required)")
	flags.DurationVar(&c.wait, "wait", 0, fmt.Sprintf("wait for the results, at most this `duration` (%s without one; write --wait=30s)", defaultWait))
	flags.Lookup("wait").NoOptDefVal = defaultWait.String()
	flags.StringVar(&c.traceID, "trace-id", "", "the trace `ID` to send to the API (X-TraceId); made up if not given")
	c.output.register(cmd)
	completeNothing(cmd, "vorgang", "wait", "id", "trace-id")
	addConnectionFlags(cmd)
}

// check reads what both commands take. first is the first argument that is no flag.
func (c *publishCommand) check(cmd *cobra.Command, first string) error {
	if c.vorgang == "" {
		return usagef("--vorgang is required: which Vorgang is it for?\n%s", seeHelp(cmd))
	}
	if _, err := checkVorgang(c.vorgang); err != nil {
		return err
	}
	if cmd.Flags().Changed("wait") {
		if c.wait <= 0 {
			return usagef("--wait: %s is no time to wait", c.wait)
		}
		// pflag takes "--wait 30s" as --wait and an argument: as a comment it would be booked.
		if _, err := time.ParseDuration(first); err == nil && c.wait == defaultWait {
			return usagef("%q looks like the time to wait: write --wait=%s", first, first)
		}
	}
	if c.id != "" && !update.ValidID(c.id) {
		return usagef("--id: not 1 to %d printable ASCII characters, of which the first and the last are no spaces", update.MaxIDLength)
	}
	if c.traceID != "" && !update.ValidTraceID(c.traceID) {
		return usagef("--trace-id: not 1 to %d printable ASCII characters without spaces", update.MaxTraceIDLength)
	}
	return nil
}

// item is one update to publish. Its body is made when its turn comes, so that only one is in memory.
type item struct {
	// name is what the user calls it: the file as given, or how many comments.
	name string
	// file is the file as given, empty for what comes from no file.
	file string
	// size is about how many bytes there are to read, for the progress bar.
	size int64
	// make gives the message, storing in the bucket what is too large for one.
	make func(ctx context.Context, run *publishing) (message, error)
}

// message is what is published for an item.
type message struct {
	body []byte
	// id is the update ID unless the user chose one.
	id string
	// object is what the body names, nil for most.
	object *update.Object
}

// publish reports what could not even be read, publishes the items one after the other, reports each, and follows them
// if that is wanted.
func (c *publishCommand) publish(cmd *cobra.Command, kind update.Kind, items []item, failures []failure) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	relay, err := config.LoadRelay(nil, config.EnvOf(c.env.environ))
	if err != nil {
		return usageError(err)
	}
	run := &publishing{
		command: c, env: c.env, kind: kind, vorgang: c.vorgang, tracePrefix: relay.TracePrefix,
		report: newPublishReport(p, items),
	}
	for _, f := range failures {
		if err := run.fail(item{name: f.name, file: f.name}, f.err); err != nil {
			return err
		}
	}
	if len(items) == 0 {
		return exitWith(exitFailed)
	}
	ctx := cmd.Context()
	tracing, endTracing, err := startTracing(ctx, c.env, telemetry.NewLogger(c.env.stderr, telemetry.LogOptions{
		Format: telemetry.FormatText, Terminal: terminal(c.env.stderr), NoColor: !c.env.colour(c.env.stderr),
	}))
	if err != nil {
		return err
	}
	defer endTracing()
	run.tracing = tracing
	conn, err := connect(ctx, c.env, cmd)
	if err != nil {
		return err
	}
	defer disconnect(ctx, conn)
	run.publisher, run.results = queue.NewPublisher(conn), journal.NewResults(conn.JetStream())
	run.documents = journal.NewDocuments(conn.JetStream())
	run.publisher.OnWait = run.waits
	return run.run(ctx, items)
}

// publishing is one call of publish under way.
type publishing struct {
	command     *publishCommand
	env         *environment
	kind        update.Kind
	vorgang     string
	tracePrefix string
	publisher   *queue.Publisher
	results     *journal.Results
	documents   *journal.Documents
	report      *publishReport
	tracing     *telemetry.Tracing // nil for none
	bar         *progress
	failed      int
}

func (r *publishing) run(ctx context.Context, items []item) error {
	var from journal.Position
	if r.command.wait > 0 {
		var err error
		if from, err = r.results.Position(ctx); err != nil {
			return err
		}
	}
	r.bar = newProgress(r.env, items)
	sent, err := r.all(ctx, items)
	r.bar.done()
	if r.command.wait == 0 || len(sent) == 0 {
		return r.end(err, 0)
	}
	code, waitErr := r.follow(ctx, from, sent)
	if err == nil {
		err = waitErr
	}
	return r.end(err, code)
}

// end chooses the exit code: what was not published counts more than how the others ended.
func (r *publishing) end(err error, code int) error {
	switch {
	case err != nil:
		return err
	case r.failed > 0:
		return exitWith(exitFailed)
	case code != 0:
		return exitWith(code)
	}
	return nil
}

// all publishes every item. What concerns one item alone is said and the next one goes on; the error is what
// stopped it.
func (r *publishing) all(ctx context.Context, items []item) ([]*published, error) {
	var sent []*published
	for _, one := range items {
		r.bar.begin(one)
		line, err := r.one(ctx, one)
		switch {
		case err != nil && ctx.Err() != nil:
			// Whether it was stored is worth more words than an interrupt usually gets.
			return sent, &exitError{code: exitInterrupted, err: fmt.Errorf("interrupted: %s: %w", printable(one.name), err)}
		case err != nil && hopeless(err):
			return sent, fmt.Errorf("publishing %s: %w", printable(one.name), err)
		case err != nil:
			if err := r.fail(one, err); err != nil {
				return sent, err
			}
		default:
			sent = append(sent, line)
			if err := r.reportStored(line); err != nil {
				return sent, err
			}
		}
		r.bar.end(one)
	}
	return sent, nil
}

// reportStored reports what was stored, unless its result is waited for.
func (r *publishing) reportStored(line *published) error {
	if r.command.wait > 0 {
		return nil
	}
	r.bar.clearForOutput()
	return r.report.add(line)
}

// fail says what is wrong with one item.
func (r *publishing) fail(one item, err error) error {
	r.failed++
	r.bar.clear()
	fmt.Fprintf(r.env.stderr, "kexrelay: %s: not published: %s\n", printable(one.name), harmless(err.Error()))
	return r.report.failure(unpublished{File: one.file, Vorgangsnummer: r.vorgang, Kind: r.kind, Error: err.Error()})
}

// waits says why an item is not stored yet: nobody should look at a command that only seems to hang.
func (r *publishing) waits(why error) {
	r.bar.clear()
	fmt.Fprintf(r.env.stderr, "kexrelay: waiting, and trying again: %s\n", harmless(why.Error()))
}

// hopeless reports whether an error would hit every item alike.
func hopeless(err error) bool {
	return errors.Is(err, queue.ErrFull) || errors.Is(err, queue.ErrNoStream) || errors.Is(err, queue.ErrPermission) ||
		errors.Is(err, queue.ErrConnectionClosed) || errors.Is(err, context.DeadlineExceeded)
}

func (r *publishing) one(ctx context.Context, one item) (*published, error) {
	m, err := one.make(ctx, r)
	if err != nil {
		return nil, err
	}
	id := m.id
	if r.command.id != "" {
		id = r.command.id
	}
	trace := r.command.traceID
	if trace == "" {
		trace = newTraceID(r.tracePrefix)
	}
	patience, cancel := context.WithTimeout(ctx, publishPatience)
	defer cancel()
	header, shown := r.traced(ctx, trace)
	result, err := r.publisher.Publish(patience, queue.PublishRequest{
		Vorgangsnummer: r.vorgang, Kind: r.kind, Body: m.body, MsgID: id, TraceID: trace, Header: header,
	})
	shown(result.MsgID, result.Seq, err)
	// What was not stored again, or surely not at all, needs no object. After any other error the update may be there.
	if m.object != nil && (result.Duplicate || errors.Is(err, queue.ErrFull) || errors.Is(err, queue.ErrPermission) || errors.Is(err, queue.ErrNoStream)) {
		r.remove(ctx, m.object)
	}
	if err != nil {
		return nil, err
	}
	line := &published{
		Name: one.name, File: one.file, Vorgangsnummer: r.vorgang, Kind: r.kind,
		UpdateID: result.MsgID, Seq: result.Seq, TraceID: trace, Duplicate: result.Duplicate,
	}
	if line.Duplicate {
		line.TraceID = "" // What is stored has the trace ID of the first time.
	}
	return line, nil
}

// remove takes back an object that no update names. If it cannot, nothing is lost: the relay sweeps it after a day.
func (r *publishing) remove(ctx context.Context, o *update.Object) {
	if err := r.documents.TakeBack(context.WithoutCancel(ctx), o); err != nil {
		r.bar.clear()
		fmt.Fprintf(r.env.stderr, "kexrelay: the stored document is not needed and could not be removed; it goes after a day: %s\n", harmless(err.Error()))
	}
}

// newTraceID is the prefix and 80 random bits.
func newTraceID(prefix string) string {
	var random [10]byte
	_, _ = rand.Read(random[:]) // Never fails.
	return prefix + hex.EncodeToString(random[:])
}
