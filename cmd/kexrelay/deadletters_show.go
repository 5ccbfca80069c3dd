package main

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kexrelay/internal/deadletter"
	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// deadLettersShowCommand is `kexrelay deadletters show`.
type deadLettersShowCommand struct{ deadLetters }

func newDeadLettersShowCommand(env *environment) *cobra.Command {
	c := &deadLettersShowCommand{deadLetters{env: env}}
	cmd := &cobra.Command{
		Use:   "show SEQ",
		Short: "Show one dead letter, without its content",
		Long: `Shows everything that is known of one dead letter: why and when, its headers,
what its body is like. The content itself (file, file name, comments) is not
shown.`,
		Example: "  kexrelay deadletters show 17\n  kexrelay deadletters show 17 --json",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("one SEQ, as kexrelay deadletters list shows it, is wanted")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, args) },
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.completeSeqs(cmd, args, prefix)
	}
	c.output.register(cmd)
	addConnectionFlags(cmd)
	return cmd
}

func (c *deadLettersShowCommand) run(cmd *cobra.Command, args []string) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	seqs, err := parseSeqs(args)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	store, closeAll, err := c.open(ctx, cmd)
	if err != nil {
		return err
	}
	defer closeAll()
	letter, err := store.Show(ctx, seqs[0])
	if err != nil {
		return err
	}
	if p.json {
		return p.object(letter)
	}
	return showDeadLetter(p, letter)
}

func showDeadLetter(p *printer, letter deadletter.DeadLetter) error {
	facts := [][2]string{
		{"Dead letter", strconv.FormatUint(letter.Seq, 10)},
		{"Reason", string(letter.Reason)},
		{"Status", number(letter.Status)},
		{"Detail", letter.Detail},
		{"Vorgang", letter.Vorgangsnummer},
		{"Kind", string(letter.Kind)},
		{"Update ID", letter.UpdateID},
		{"Trace ID", letter.TraceID},
		{"Last request", letter.RequestID},
		{"Attempts", strconv.Itoa(letter.Attempts)},
		{"Replays", strconv.Itoa(letter.Replays)},
		{"Published", moment(letter.UpdateAt)},
		{"First attempt", moment(letter.FirstAttemptAt)},
		{"Dead letter since", moment(letter.DeadLetteredAt)},
		{"Published to", letter.Subject},
		{"Body", content(letter.Content)},
		{"Body object", letter.BodyObject},
	}
	for name, value := range publishersHeaders(letter) {
		facts = append(facts, [2]string{"Header", name + ": " + value})
	}
	facts = append(facts, [2]string{"What to do", whatToDo(letter)})
	for _, fact := range facts {
		if fact[1] == "" {
			continue
		}
		if err := p.fact(fact[0], fact[1], factColour(fact[0])); err != nil {
			return err
		}
	}
	return nil
}

// whatToDo is the operator's next step.
func whatToDo(letter deadletter.DeadLetter) string {
	replay := fmt.Sprintf("kexrelay deadletters replay %d", letter.Seq)
	switch letter.Reason {
	case fault.BadRequest, fault.Invalid:
		return "mend the publisher and publish anew: a replay sends the same body"
	case fault.Gone:
		return "nothing to book; should the Vorgang be there again: " + replay
	case fault.Forbidden:
		return "give the API client the right to this Vorgang, then " + replay
	case fault.NotFound:
		return "check the Vorgangsnummer (if it is wrong, publish anew) and KEX_BASE_URL, then " + replay
	case fault.Redirected:
		return "check KEX_BASE_URL, then " + replay
	case fault.UnknownOutcome:
		return "look into the Vorgang; only if it is not there " + replay
	case fault.Exhausted:
		return "find out why this one fails, then " + replay
	case fault.Rejected, fault.ObjectMissing, fault.CrashLoop: // The detail says more.
	case fault.Unauthorized, fault.Throttling, fault.Outage, fault.Storage, fault.Operator: // Of holds alone.
	}
	return "cure what the detail says, then " + replay
}

func factColour(name string) colour {
	if name == "Reason" {
		return bad
	}
	return plain
}

// publishersHeaders are the headers that are not told above already.
func publishersHeaders(letter deadletter.DeadLetter) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for _, name := range slices.Sorted(maps.Keys(letter.Header)) {
			lower := strings.ToLower(name)
			if strings.HasPrefix(lower, "kex-") || strings.HasPrefix(lower, "nats-") || name == update.HeaderTraceID {
				continue
			}
			for _, value := range letter.Header[name] {
				if !yield(name, value) {
					return
				}
			}
		}
	}
}

// number is a number, nothing for 0.
func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// moment is a time with how long ago it was, nothing for none.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return localTime(t) + " (" + duration(time.Since(t)) + " ago)"
}

// content says what a body is like.
func content(c deadletter.Content) string {
	if c.Missing {
		return "missing: its object is gone"
	}
	words := size(c.Size)
	switch c.JSON {
	case "":
		return words + ", no JSON"
	case "array":
		return words + ", JSON array of " + count(c.Elements, "element", "elements")
	case "object":
		fields := strings.Join(c.Fields, ", ")
		if c.OtherFields > 0 {
			fields += fmt.Sprintf(" and %d more", c.OtherFields)
		}
		return words + ", JSON object with " + fields
	}
	return words + ", JSON " + c.JSON
}
