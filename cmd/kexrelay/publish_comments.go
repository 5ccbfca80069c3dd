package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"kexrelay/internal/update"
	"kexrelay/schemas"
)

// maxCommentsInput bounds what is read from standard input: far more than any server takes in a message.
const maxCommentsInput = 64 << 20

// publishCommentsCommand is `kexrelay publish comments`.
type publishCommentsCommand struct {
	publishCommand

	jsonInput bool
}

func newPublishCommentsCommand(env *environment) *cobra.Command {
	c := &publishCommentsCommand{publishCommand: publishCommand{env: env}}
	cmd := &cobra.Command{
		Use:     "comments --vorgang NUMBER TEXT... | -",
		Aliases: []string{"comment", "kommentare"},
		Short:   "Publish comments",
		Long: `Publishes one update with a comment per TEXT; of - one per line of standard
input that is not blank, or with --json-input the JSON array of strings that
stands there.

Two equal comments are two comments: each call has an ID of its own. Give one
with --id if the call may be repeated.`,
		Example: `  kexrelay publish comments --vorgang 123456 'Testkommentar'
  kexrelay publish comments --vorgang 123456 'Erster' 'Zweiter' --wait
  kexrelay publish comments --vorgang 123456 --json-input - < comments.json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("no TEXT: which comments are to be published?")
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return c.run(cmd, args) },
	}
	flags := cmd.Flags()
	flags.BoolVar(&c.jsonInput, "json-input", false, "standard input (-) is a JSON array of strings")
	flags.StringVar(&c.id, "id", "", "the update `ID` (Nats-Msg-Id); a random one if not given")
	c.register(cmd)
	return cmd
}

func (c *publishCommentsCommand) run(cmd *cobra.Command, args []string) error {
	for _, arg := range args {
		if err := c.check(cmd, arg); err != nil {
			return err
		}
	}
	body, err := c.body(args)
	if err != nil {
		return err
	}
	if err := problems(schemas.Validate(schemas.Comments, body)); err != nil {
		return fmt.Errorf("the comments: %w", err)
	}
	var comments []json.RawMessage
	if err := json.Unmarshal(body, &comments); err != nil {
		return fmt.Errorf("counting the comments: %w", err)
	}
	return c.publish(cmd, update.Comments, []item{{
		name: count(len(comments), "comment", "comments"), size: int64(len(body)),
		make: func(context.Context, *publishing) (message, error) {
			return message{body: body, id: "comments-" + uuid.NewString()}, nil
		},
	}}, nil)
}

// body is the API's body. Errors never repeat a comment.
func (c *publishCommentsCommand) body(args []string) ([]byte, error) {
	stdin := len(args) == 1 && args[0] == "-"
	if c.jsonInput && !stdin {
		return nil, usagef("--json-input is for standard input: write - instead of the comments")
	}
	if !stdin {
		for i, comment := range args {
			switch {
			case strings.TrimSpace(comment) == "":
				return nil, usagef("comment %d is empty", i+1)
			case !utf8.ValidString(comment):
				return nil, usagef("comment %d is not UTF-8", i+1)
			}
		}
		return encodeComments(args)
	}
	input, err := io.ReadAll(io.LimitReader(c.env.stdin, maxCommentsInput+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading standard input: %w", err)
	case len(input) > maxCommentsInput:
		return nil, fmt.Errorf("standard input is larger than %s", size(maxCommentsInput))
	case c.jsonInput:
		return input, nil
	case !utf8.Valid(input):
		return nil, errors.New("standard input is not UTF-8")
	}
	var comments []string
	lines := bufio.NewScanner(bytes.NewReader(input))
	lines.Buffer(nil, maxCommentsInput+1)
	for lines.Scan() {
		if line := lines.Text(); strings.TrimSpace(line) != "" {
			comments = append(comments, line)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading standard input: %w", err)
	}
	if len(comments) == 0 {
		return nil, errors.New("standard input has no comments")
	}
	return encodeComments(comments)
}

func encodeComments(comments []string) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(comments); err != nil {
		return nil, fmt.Errorf("encoding the comments: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
