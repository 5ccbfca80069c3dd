package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"kexrelay/internal/deadletter"
	"kexrelay/internal/update"
)

// deadLettersEditCommand is `kexrelay deadletters edit`.
type deadLettersEditCommand struct {
	deadLetters

	file            string
	filename        string
	yes             bool
	dryRun          bool
	allowDuplicates bool
}

func newDeadLettersEditCommand(env *environment) *cobra.Command {
	c := &deadLettersEditCommand{deadLetters: deadLetters{env: env}}
	cmd := &cobra.Command{
		Use:   "edit SEQ | UPDATE-ID | TRACE-ID",
		Short: "Mend a dead letter's content and send it again",
		Long: `Opens the body in your editor (VISUAL, EDITOR, else vi), checks what you wrote,
shows the difference and sends it as a replay. Of a document the editor has the
file name; --file gives it a new content without an editor. The editor shows
content, which leaves an audit event; so does sending, with both digests.

An editor that fails or changes nothing leaves the dead letter as it is.`,
		Example: `  kexrelay deadletters edit 17
  kexrelay deadletters edit 17 --file Antrag.pdf
  kexrelay deadletters edit crm-4711 --filename Antrag.pdf --yes`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("one SEQ, as kexrelay deadletters list shows it, an update ID or a trace ID is wanted")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, args[0]) },
	}
	cmd.ValidArgsFunction = c.completeOneSeq
	flags := cmd.Flags()
	flags.StringVar(&c.file, "file", "", "a document's new content from this `file`, - for standard input; no editor")
	flags.StringVar(&c.filename, "filename", "", "a document's new `name`; no editor")
	flags.BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	flags.BoolVar(&c.dryRun, "dry-run", false, "check and show the difference, and send nothing")
	flags.BoolVar(&c.allowDuplicates, "allow-duplicates", false, "send also what may have been booked: look into the Vorgang first")
	completeNothing(cmd, "filename")
	c.output.register(cmd)
	addConnectionFlags(cmd)
	return cmd
}

// byHand reports whether an editor is opened.
func (c *deadLettersEditCommand) byHand() bool { return c.file == "" && c.filename == "" }

func (c *deadLettersEditCommand) run(cmd *cobra.Command, ref string) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	if !c.yes && !c.dryRun && (!c.env.canAsk() || c.file == "-") {
		return usagef("without a terminal to ask on --yes is needed (or --dry-run)")
	}
	if c.filename != "" {
		if err := checkFilename(c.filename); err != nil {
			return usagef("--filename: %w", err)
		}
	}
	edit := &editor{env: c.env}
	edit.sweep()
	ctx := cmd.Context()
	store, closeAll, err := c.open(ctx, cmd)
	if err != nil {
		return err
	}
	defer closeAll()
	letter, err := findOne(ctx, store, ref)
	if err != nil {
		return err
	}
	if err := c.fits(letter); err != nil {
		return err
	}
	was, err := store.Editable(ctx, letter, c.byHand())
	if err != nil {
		return err
	}
	if !c.byHand() {
		return c.exchange(ctx, store, letter, was.Data, p)
	}
	return c.editByHand(ctx, store, edit, letter, was.Data, p)
}

// fits refuses what cannot be meant.
func (c *deadLettersEditCommand) fits(letter deadletter.Summary) error {
	if !c.byHand() && letter.Kind != update.Document {
		return usagef("--file and --filename are for documents, and dead letter %d is of kind %s", letter.Seq, letter.Kind)
	}
	if letter.MayBeBooked && !c.allowDuplicates && !c.dryRun {
		return fmt.Errorf("dead letter %d may have been booked: look into the Vorgang, then discard it or use --allow-duplicates", letter.Seq)
	}
	return nil
}

// exchange sends a document with another name or content.
func (c *deadLettersEditCommand) exchange(ctx context.Context, store *deadletter.Store, letter deadletter.Summary, was []byte, p *printer) error {
	var content []byte
	if c.file != "" {
		data, err := c.read()
		if err != nil {
			return fmt.Errorf("--file: %w", err)
		}
		content = []byte(`"` + base64.StdEncoding.EncodeToString(data) + `"`)
	}
	body, err := withFile(was, c.filename, content)
	if err != nil {
		return err
	}
	if err := deadletter.CheckEdit(letter, body); err != nil {
		return err
	}
	var changes []string
	if c.filename != "" {
		changes = append(changes, "- filename", "+ filename "+strconv.Quote(c.filename))
	}
	changes = append(changes, contentChange(was, body)...)
	yes, err := c.agreed(ctx, letter, changes)
	if err != nil || !yes {
		return err
	}
	return c.send(ctx, store, letter, body, p)
}

// read reads the new content, and no more of it than any message can have.
func (c *deadLettersEditCommand) read() ([]byte, error) {
	const most = 64 << 20
	in := c.env.stdin
	if c.file != "-" {
		file, err := os.Open(c.file)
		if err != nil {
			return nil, err
		}
		defer func() { _ = file.Close() }() // Only read.
		in = file
	}
	data, err := io.ReadAll(io.LimitReader(in, most+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) == 0:
		return nil, errors.New("it is empty")
	case len(data) > most:
		return nil, deadletter.ErrTooLarge
	}
	return data, nil
}

// contentChange tells of another content of a document by its size alone.
func contentChange(before, after []byte) []string {
	value := func(body []byte) string {
		members, _ := objectMembers(body) // None of something else.
		for _, m := range members {
			if m.name == contentMember {
				return string(m.value)
			}
		}
		return ""
	}
	was, is := value(before), value(after)
	if was == is {
		return nil
	}
	return []string{
		fmt.Sprintf("- %s (%s)", contentMember, size(int64(len(was)))),
		fmt.Sprintf("+ %s (%s)", contentMember, size(int64(len(is)))),
	}
}

// editByHand opens the editor until what is written is valid and agreed to, or nobody wants to go on.
func (c *deadLettersEditCommand) editByHand(ctx context.Context, store *deadletter.Store, edit *editor, letter deadletter.Summary, was []byte, p *printer) error {
	begin, err := newEditText(was)
	if err != nil {
		return fmt.Errorf("dead letter %d: %w", letter.Seq, err)
	}
	for text := begin.text; ; {
		text, err = edit.edit(ctx, fmt.Sprintf("dead-letter-%d.json", letter.Seq), text)
		if err != nil {
			return err
		}
		// ^C in the editor was for the editor.
		after, stop := signal.NotifyContext(context.WithoutCancel(ctx), os.Interrupt, syscall.SIGTERM)
		again, err := c.edited(after, store, letter, begin, text, was, p)
		stop()
		if err != nil || !again {
			return err
		}
	}
}

// edited does with a text what the user wants; again says to open it once more.
func (c *deadLettersEditCommand) edited(ctx context.Context, store *deadletter.Store, letter deadletter.Summary, begin editText, text string, was []byte, p *printer) (again bool, err error) {
	if text == begin.text {
		return false, fmt.Errorf("dead letter %d: %w", letter.Seq, deadletter.ErrUnchanged)
	}
	body, err := begin.body(text)
	if err == nil {
		err = deadletter.CheckEdit(letter, body)
	}
	if err != nil {
		return c.retry(ctx, fmt.Errorf("%w: %w", err, errNotSent))
	}
	changes := append(diffLines(begin.text, text), contentChange(was, body)...)
	yes, err := c.agreed(ctx, letter, changes)
	if err != nil || !yes {
		return false, err
	}
	err = c.send(ctx, store, letter, body, p)
	if errors.Is(err, deadletter.ErrNotFound) || errors.Is(err, deadletter.ErrClaimed) || errors.Is(err, deadletter.ErrUnchanged) {
		return false, err
	}
	if err != nil {
		return c.retry(ctx, err)
	}
	return false, nil
}

// errNotSent ends the explanation of a text that cannot be sent.
var errNotSent = errors.New("nothing was sent")

// retry offers to go on with a text that was not sent, so that it is not lost.
func (c *deadLettersEditCommand) retry(ctx context.Context, why error) (again bool, err error) {
	if !c.env.canAsk() || ctx.Err() != nil {
		return false, why
	}
	fmt.Fprintln(c.env.stderr, "kexrelay:", printable(why.Error()))
	again, err = confirmed(ctx, c.env, "Go on editing?")
	if err != nil {
		return false, err
	}
	if !again {
		return false, errNotSent
	}
	return true, nil
}

// agreed shows what changed and asks; without --yes only a yes is one.
func (c *deadLettersEditCommand) agreed(ctx context.Context, letter deadletter.Summary, changes []string) (bool, error) {
	p := c.env.onTerminal()
	fmt.Fprintf(c.env.stderr, "Dead letter %d, Vorgang %s, %s:\n", letter.Seq, printable(letter.Vorgangsnummer), printable(string(letter.Kind)))
	for _, change := range changes {
		mark := good
		if strings.HasPrefix(change, "-") {
			mark = bad
		}
		change = printable(change)
		if p.width > 0 {
			change = shorten(change, max(p.width-2, minLastWidth))
		}
		if err := p.line("  %s", p.paint(mark, change)); err != nil {
			return false, err
		}
	}
	if c.dryRun {
		fmt.Fprintln(c.env.stderr, "kexrelay: it is valid; nothing was sent")
		return false, nil
	}
	if c.yes {
		return true, nil
	}
	yes, err := confirmed(ctx, c.env, "Send it?")
	if err == nil && !yes {
		err = errNotSent
	}
	return yes, err
}

// send sends the new body and says as what.
func (c *deadLettersEditCommand) send(ctx context.Context, store *deadletter.Store, letter deadletter.Summary, body []byte, p *printer) error {
	item, err := store.Edit(ctx, letter, body)
	if errors.Is(err, deadletter.ErrNotFound) {
		return fmt.Errorf("dead letter %d was sent again, changed or removed meanwhile; your change was not sent: %w", letter.Seq, err)
	}
	if err != nil {
		return err
	}
	if p.json {
		return p.object(item)
	}
	if item.Result == deadletter.Duplicate {
		fmt.Fprintf(c.env.stderr, "kexrelay: a former edit of it was sent already, as update %d; this change was not sent\n", item.UpdateSeq)
		return exitWith(exitFailed)
	}
	return p.line("dead letter %d sent again, changed, as update %d; kexrelay trace %s tells what becomes of it",
		item.Seq, item.UpdateSeq, printable(item.UpdateID))
}
