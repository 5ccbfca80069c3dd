package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"kexrelay/internal/update"
	"kexrelay/schemas"
)

// What of a message is not content: headerRoom is more than the longest headers publish sends, bodyRoom more than the
// rest of the body with an ordinary name.
const (
	headerRoom = 512
	bodyRoom   = 512
)

// publishDocumentCommand is `kexrelay publish document`.
type publishDocumentCommand struct {
	publishCommand

	filename  string
	recursive bool
}

func newPublishDocumentCommand(env *environment) *cobra.Command {
	c := &publishDocumentCommand{publishCommand: publishCommand{env: env}}
	cmd := &cobra.Command{
		Use:     "document --vorgang NUMBER FILE... | DIR... | -",
		Aliases: []string{"documents", "dokument"},
		Short:   "Publish files as documents",
		Long: `Publishes each file as one document of the Vorgang; of a directory its regular
files that are not hidden, in the order of their names; of - standard input.

The same file for the same Vorgang under the same name is published once: a
second time within two hours it is not stored again, and said so.

A document too large for one message of this NATS server (max_payload) is
stored in the bucket KEX_DOCUMENTS first, and the update names it. If that is
interrupted, publish it again: nothing was published, and nothing stays.`,
		Example: `  kexrelay publish document --vorgang 123456 Antrag.pdf Ausweis.pdf
  kexrelay publish document --vorgang 123456 --wait=30s scans/
  scan | kexrelay publish document --vorgang 123456 --filename Antrag.pdf -`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("no FILE: which documents are to be published?")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, args) },
	}
	flags := cmd.Flags()
	flags.StringVar(&c.filename, "filename", "", "the document's `name`, instead of that of the one file; required with -")
	flags.BoolVarP(&c.recursive, "recursive", "r", false, "take the files of subdirectories too")
	flags.StringVar(&c.id, "id", "", "the update `ID` (Nats-Msg-Id) of the one document, instead of one made of its content")
	c.register(cmd)
	completeNothing(cmd, "filename")
	return cmd
}

func (c *publishDocumentCommand) run(cmd *cobra.Command, args []string) error {
	if err := c.check(cmd, args[0]); err != nil {
		return err
	}
	if c.filename != "" {
		if err := checkFilename(c.filename); err != nil {
			// The schema names its member, which is called like the flag.
			return usagef("--filename: %s", strings.TrimPrefix(err.Error(), "filename: "))
		}
	}
	found := collect(args, c.recursive)
	for _, left := range found.skipped {
		fmt.Fprintf(c.env.stderr, "kexrelay: %s: left out: %s\n", printable(left.dir), &left)
	}
	for _, flag := range []string{"id", "trace-id", "filename"} {
		if n := len(found.sources) + len(found.failures); cmd.Flags().Changed(flag) && n > 1 {
			return usagef("--%s is for one document, but there are %d", flag, n)
		}
	}
	var items []item
	for _, s := range found.sources {
		if s.stdin && c.filename == "" {
			return usagef("standard input has no name: give the document one with --filename")
		}
		items = append(items, c.item(s))
	}
	return c.publish(cmd, update.Document, items, found.failures)
}

func (c *publishDocumentCommand) item(s source) item {
	name := c.filename
	if name == "" {
		name = s.base
	}
	return item{
		name: s.path, file: s.path, size: s.size,
		make: func(ctx context.Context, run *publishing) (message, error) {
			if err := checkFilename(name); err != nil {
				return message{}, err
			}
			file, err := c.open(s)
			if err != nil {
				return message{}, err
			}
			defer func() { _ = file.Close() }() // Only read.
			return c.message(ctx, run, name, file)
		},
	}
}

// sourceFile is a file that is being read, or standard input.
type sourceFile struct {
	io.ReadCloser

	before fs.FileInfo // nil for standard input.
	stat   func() (fs.FileInfo, error)
}

func (c *publishDocumentCommand) open(s source) (*sourceFile, error) {
	if s.stdin {
		return &sourceFile{ReadCloser: io.NopCloser(c.env.stdin)}, nil
	}
	file, err := os.Open(s.path)
	if err != nil {
		return nil, plainError(err)
	}
	before, err := file.Stat()
	if err != nil {
		return nil, errors.Join(plainError(err), file.Close())
	}
	return &sourceFile{ReadCloser: file, before: before, stat: file.Stat}, nil
}

// unchanged makes sure that what was read is one state of the file: half an old and half a new one is no document.
func (f *sourceFile) unchanged() error {
	if f.before == nil {
		return nil
	}
	after, err := f.stat()
	if err != nil {
		return plainError(err)
	}
	if after.Size() != f.before.Size() || !after.ModTime().Equal(f.before.ModTime()) {
		return errors.New("it was changed while it was being read; publish it again when it is complete")
	}
	return nil
}

// message makes the message for a document: with the content in it, or, if that would be too large for this server, with
// the content stored in the bucket and named.
func (c *publishDocumentCommand) message(ctx context.Context, run *publishing, name string, file *sourceFile) (message, error) {
	limit := run.publisher.MaxSize()
	content, err := io.ReadAll(io.LimitReader(file, mostContent(limit)+1))
	switch {
	case err != nil:
		return message{}, fmt.Errorf("reading it: %w", plainError(err))
	case len(content) == 0:
		return message{}, errors.New("it is empty")
	case int64(len(content)) <= mostContent(limit):
		body, err := documentBody(name, content)
		if err != nil {
			return message{}, err
		}
		if int64(len(body)+headerRoom) <= limit { // Else the name takes too much room.
			return message{body: body, id: documentID(c.vorgang, name, sha256.Sum256(content))}, file.unchanged()
		}
	}
	object, err := run.documents.Put(ctx, run.bar.counting(io.MultiReader(bytes.NewReader(content), file)))
	if err != nil {
		return message{}, plainError(err)
	}
	body, err := referenceBody(name, object)
	if err == nil {
		err = file.unchanged()
	}
	if err != nil {
		run.remove(ctx, object)
		return message{}, err
	}
	return message{body: body, id: documentID(c.vorgang, name, object.Digest), object: object}, nil
}

// mostContent is how many bytes of content fit into a message of limit bytes as base64.
func mostContent(limit int64) int64 { return (limit - headerRoom - bodyRoom) / 4 * 3 }

// referenceBody is the body of an update that names its document, validated.
func referenceBody(filename string, o *update.Object) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(map[string]any{
		"filename": filename,
		"object":   map[string]any{"bucket": update.ObjectBucket, "name": o.Name, "size": o.Size, "digest": o.DigestText()},
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the reference: %w", err)
	}
	body := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	return body, problems(schemas.Validate(schemas.DocumentReference, body))
}

// documentBody is the API's body for a document, validated. Errors never repeat content or name.
func documentBody(filename string, content []byte) ([]byte, error) {
	var b bytes.Buffer
	b.Grow(base64.StdEncoding.EncodedLen(len(content)) + 6*len(filename) + 64)
	b.WriteString(`{"filename":`)
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(filename); err != nil {
		return nil, fmt.Errorf("encoding the name: %w", err)
	}
	b.Truncate(b.Len() - 1) // The encoder ends with a line feed.
	b.WriteString(`,"base64Content":"`)
	body := base64.StdEncoding.AppendEncode(b.Bytes(), content)
	body = append(body, `"}`...)
	return body, problems(schemas.Validate(schemas.Document, body))
}

// checkFilename says what the API or the relay would refuse about a name, without the name.
func checkFilename(name string) error {
	if !utf8.ValidString(name) {
		return errors.New("its name is not UTF-8; give it another with --filename")
	}
	probe := struct {
		Filename string `json:"filename"`
		Content  string `json:"base64Content"`
	}{name, "AA=="}
	body, err := json.Marshal(probe)
	if err != nil {
		return fmt.Errorf("encoding the name: %w", err)
	}
	return problems(schemas.Validate(schemas.Document, body))
}

// problems is what a schema says without the schema's name: who reads it knows what he publishes.
func problems(err error) error {
	if wrong, ok := errors.AsType[*schemas.Error](err); ok {
		return errors.New(strings.Join(wrong.Problems, "; "))
	}
	return err
}

// documentID is the same for the same content under the same name for the same Vorgang, and tells nothing of them.
func documentID(vorgang, filename string, digest [sha256.Size]byte) string {
	hash := sha256.New()
	for _, part := range [][]byte{[]byte(vorgang), []byte(update.Document), []byte(filename), digest[:]} {
		_ = binary.Write(hash, binary.BigEndian, uint64(len(part))) // A hash never fails.
		hash.Write(part)
	}
	return "document-" + hex.EncodeToString(hash.Sum(nil)[:16])
}

// plainError drops the path from a file's error: the line that shows it names the file already.
func plainError(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	return err
}
