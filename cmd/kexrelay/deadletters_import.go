package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"kexrelay/internal/deadletter"
)

// maxImportLine bounds a line of an import: a body of 64 MiB, the most a NATS message can have, as base64 and its facts.
const maxImportLine = 96 << 20

// deadLettersImportCommand is `kexrelay deadletters import`.
type deadLettersImportCommand struct {
	deadLetters

	force bool
}

func newDeadLettersImportCommand(env *environment) *cobra.Command {
	c := &deadLettersImportCommand{deadLetters: deadLetters{env: env}}
	cmd := &cobra.Command{
		Use:   "import FILE | -",
		Short: "Make dead letters of exported ones again",
		Long: `Publishes what deadletters export --reveal wrote as dead letters again, under
new sequences. What is there already is not stored twice, however often the same
file is imported; what was replayed, discarded or erased since the export is
left out. A broken line is named and keeps none of the others from being
imported.`,
		Example: `  kexrelay deadletters import dead-letters.jsonl
  gunzip -c dead-letters.jsonl.gz | kexrelay deadletters import -`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("one FILE, as kexrelay deadletters export writes it, or - is wanted")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, args[0]) },
	}
	cmd.Flags().BoolVar(&c.force, "force", false, "also what was replayed, discarded or erased since")
	c.output.register(cmd)
	addConnectionFlags(cmd)
	return cmd
}

// importCounts is what became of the lines.
type importCounts struct{ imported, there, left, broken int }

func (c *deadLettersImportCommand) run(cmd *cobra.Command, name string) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	in, source := c.env.stdin, "standard input"
	if name != "-" {
		file, err := os.Open(name) //nolint:gosec // The user names it.
		if err != nil {
			return fmt.Errorf("opening the file: %w", err)
		}
		defer func() { _ = file.Close() }() // Only read.
		in, source = file, filepath.Base(name)
	}
	ctx := cmd.Context()
	store, closeAll, err := c.open(ctx, cmd)
	if err != nil {
		return err
	}
	defer closeAll()
	importer, err := store.Importer(ctx, source, c.force)
	if err != nil {
		return err
	}
	counts, err := c.lines(ctx, importer, in, p)
	if !p.json {
		fmt.Fprintf(c.env.stderr, "kexrelay: %s imported, %d there already, %d left out, %s\n",
			count(counts.imported, "dead letter", "dead letters"), counts.there, counts.left, count(counts.broken, "line broken", "lines broken"))
	}
	switch told := importer.Done(context.WithoutCancel(ctx), counts.imported); {
	case err != nil:
		return err
	case told != nil:
		return told
	case counts.broken+counts.left > 0:
		return exitWith(exitFailed)
	}
	return nil
}

// imported is one line of the JSON output.
type imported struct {
	Line   int    `json:"line"`
	Result string `json:"result"`
	// Was is the sequence at the export, Seq the new one.
	Was   uint64 `json:"was,omitempty"`
	Seq   uint64 `json:"seq,omitempty"`
	Error string `json:"error,omitempty"`
}

func (c *deadLettersImportCommand) lines(ctx context.Context, importer *deadletter.Importer, in io.Reader, p *printer) (importCounts, error) {
	counts, reader := importCounts{}, bufio.NewReaderSize(in, 1<<16)
	for number := 1; ; number++ {
		line, tooLong, last, err := readLine(reader, maxImportLine)
		if err != nil {
			return counts, fmt.Errorf("reading line %d: %w", number, err)
		}
		if len(bytes.TrimSpace(line)) > 0 || tooLong {
			out := imported{Line: number}
			err := c.one(ctx, importer, line, tooLong, &out, &counts)
			if err != nil {
				return counts, fmt.Errorf("line %d: %w (import the file again: what is there already is not stored twice)", number, err)
			}
			if err := c.tell(p, out); err != nil {
				return counts, err
			}
		}
		if last {
			return counts, nil
		}
	}
}

// one imports a line. The error ends the import; what concerns the line alone is in out.
func (c *deadLettersImportCommand) one(ctx context.Context, importer *deadletter.Importer, line []byte, tooLong bool, out *imported, counts *importCounts) error {
	letter, err := decodeLine(line, tooLong)
	if err == nil {
		out.Was = letter.Seq
		out.Seq, err = importer.Import(ctx, letter)
	}
	switch {
	case err == nil:
		out.Result = "imported"
		counts.imported++
	case errors.Is(err, deadletter.ErrThere):
		out.Result, err = "there", nil
		counts.there++
	case errors.Is(err, deadletter.ErrDone):
		out.Result, out.Error, err = "left out", err.Error(), nil
		counts.left++
	case errors.Is(err, deadletter.ErrNotImportable):
		out.Result, out.Error, err = "broken", err.Error(), nil
		counts.broken++
	}
	return err
}

// decodeLine reads a line; deadletter.ErrNotImportable says why it is not what export writes.
func decodeLine(line []byte, tooLong bool) (letter deadletter.Exported, err error) {
	if tooLong {
		return letter, fmt.Errorf("%w: it is longer than any dead letter can be", deadletter.ErrNotImportable)
	}
	if err := json.Unmarshal(line, &letter); err != nil {
		return letter, fmt.Errorf("%w: %s", deadletter.ErrNotImportable, jsonProblem(err))
	}
	return letter, nil
}

// tell says what became of a line: all of it to programs, to people what they have to look after.
func (c *deadLettersImportCommand) tell(p *printer, out imported) error {
	if p.json {
		return p.object(out)
	}
	if out.Error != "" {
		fmt.Fprintf(c.env.stderr, "kexrelay: line %d: %s\n", out.Line, printable(out.Error))
	}
	return nil
}

// jsonProblem says why a line is not what export writes, without quoting it: it may hold content.
func jsonProblem(err error) string {
	if wrong, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("it is no JSON at byte %d", wrong.Offset)
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return shorten(printable(wrong.Field), 40) + " is not what export writes"
	}
	return "it is not what export writes"
}

// readLine reads a line of at most so many bytes; of a longer one nothing is kept.
func readLine(r *bufio.Reader, most int) (line []byte, tooLong, last bool, err error) {
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > most {
			line, tooLong = nil, true
		}
		if !tooLong {
			line = append(line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return line, tooLong, true, nil
		default:
			return line, tooLong, false, err
		}
	}
}
