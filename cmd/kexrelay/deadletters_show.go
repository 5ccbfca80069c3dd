package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"kexrelay/internal/deadletter"
	"kexrelay/internal/journal"
)

// deadLettersShowCommand is `kexrelay deadletters show`.
type deadLettersShowCommand struct {
	deadLetters

	reveal bool
}

func newDeadLettersShowCommand(env *environment) *cobra.Command {
	c := &deadLettersShowCommand{deadLetters: deadLetters{env: env}}
	cmd := &cobra.Command{
		Use:   "show SEQ | UPDATE-ID | TRACE-ID",
		Short: "Show one dead letter, without its content unless --reveal",
		Long: `Shows everything that is known of one dead letter: why and when, what the API
answered, its headers, what its body is like, what happened to the update
before, what to do next. The content itself (file, file name, comments) is shown
with --reveal alone, which leaves an audit event.`,
		Example: `  kexrelay deadletters show 17
  kexrelay deadletters show crm-4711 --json
  kexrelay deadletters show 17 --reveal`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("one SEQ, as kexrelay deadletters list shows it, an update ID or a trace ID is wanted")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, args[0]) },
	}
	cmd.ValidArgsFunction = c.completeOneSeq
	cmd.Flags().BoolVar(&c.reveal, "reveal", false, "show the content too, which leaves an audit event")
	c.output.register(cmd)
	addConnectionFlags(cmd)
	return cmd
}

// completeOneSeq offers sequences for the one argument.
func (d *deadLetters) completeOneSeq(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return d.completeSeqs(cmd, args, prefix)
}

// findOne finds the one dead letter that somebody means.
func findOne(ctx context.Context, store *deadletter.Store, ref string) (deadletter.Summary, error) {
	found, err := store.Find(ctx, ref)
	switch {
	case errors.Is(err, deadletter.ErrNotFound):
		if _, isSeq := strconv.ParseUint(ref, 10, 64); isSeq == nil {
			ref = "dead letter " + ref
		}
		return deadletter.Summary{}, fmt.Errorf("%s: %w; kexrelay trace tells what became of an update", shorten(printable(ref), 80), deadletter.ErrNotFound)
	case err != nil:
		return deadletter.Summary{}, err
	case len(found) > 1:
		var seqs []string
		for _, letter := range found {
			seqs = append(seqs, strconv.FormatUint(letter.Seq, 10))
		}
		return deadletter.Summary{}, usagef("%s is the ID of several dead letters: give one of their sequences, %s", shorten(printable(ref), 80), strings.Join(seqs, ", "))
	}
	return found[0], nil
}

// shown is a dead letter with all that is told of it.
type shown struct {
	deadletter.DeadLetter

	// History is the result events of its update, InWork what somebody has begun with it.
	History  []journal.Event `json:"history,omitempty"`
	InWork   string          `json:"inWork,omitempty"`
	WhatToDo string          `json:"whatToDo"`
	// Body is the content, BodyBase64 one that is no UTF-8; only if it was asked for.
	Body       *string `json:"body,omitempty"`
	BodyBase64 []byte  `json:"bodyBase64,omitempty"`

	notKnown error // Why there is no history.
}

func (c *deadLettersShowCommand) run(cmd *cobra.Command, ref string) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	store, closeAll, err := c.open(ctx, cmd)
	if err != nil {
		return err
	}
	defer closeAll()
	found, err := findOne(ctx, store, ref)
	if err != nil {
		return err
	}
	letter, err := c.read(ctx, store, found)
	if err != nil {
		return err
	}
	if p.json {
		return p.object(letter)
	}
	return showDeadLetter(p, letter)
}

// read reads all that is told. What else is known of it must not keep it from being shown.
func (c *deadLettersShowCommand) read(ctx context.Context, store *deadletter.Store, found deadletter.Summary) (shown, error) {
	letter, err := store.Show(ctx, found.Seq)
	if err != nil {
		return shown{}, err
	}
	s := shown{DeadLetter: letter, WhatToDo: whatToDo(letter)}
	s.History, s.notKnown = store.History(ctx, letter.Summary)
	if claim, there, err := store.Claim(ctx, letter.Summary); err == nil && there {
		s.InWork = (&journal.ClaimedError{Claim: claim}).Error()
	}
	if !c.reveal {
		return s, nil
	}
	body, err := store.Reveal(ctx, letter.Summary)
	if err != nil {
		return shown{}, err
	}
	if utf8.Valid(body.Data) {
		s.Body = new(string(body.Data))
	} else {
		s.BodyBase64 = body.Data
	}
	return s, nil
}
