package deadletter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"kexrelay/internal/journal"
	"kexrelay/internal/update"
)

// auditBatch is how many dead letters one audit event of an export names: those are read only when it is confirmed.
const auditBatch = 100

// Exported is one dead letter in a file: what Import makes a dead letter of again, if it has its body.
type Exported struct {
	Summary
	// Header has the publisher's headers.
	Header nats.Header `json:"header,omitempty"`
	// Body is the update's body byte for byte (in JSON as base64), and BodyDigest its SHA-256=<base64url>; both only in
	// an export that reveals.
	Body       []byte `json:"body,omitempty"`
	BodyDigest string `json:"bodyDigest,omitempty"`
	// Revealed says that Body is the body, also if it is empty.
	Revealed bool `json:"revealed,omitempty"`
}

// Export gives the dead letters that a filter selects to write, oldest first. With reveal their bodies come too, each
// only after an audit event that names it. Those that are removed meanwhile are left away. It returns how many there
// were.
func (s *Store) Export(ctx context.Context, f Filter, reveal bool, write func(Exported) error) (int, error) {
	run, given := uuid.NewString(), 0
	var batch []listed
	flush := func() error {
		n, err := s.exportBatch(ctx, run, batch, write)
		given += n
		batch = batch[:0]
		return err
	}
	for letter, err := range s.letters(ctx, f) {
		if err != nil {
			return given, err
		}
		if !reveal {
			if err := write(exported(letter)); err != nil {
				return given, err
			}
			given++
			continue
		}
		if batch = append(batch, letter); len(batch) == auditBatch {
			if err := flush(); err != nil {
				return given, err
			}
		}
	}
	return given, flush()
}

// exported is a dead letter without its body.
func exported(letter listed) Exported {
	return Exported{Summary: letter.Summary, Header: publishersHeaders(letter.header)}
}

func publishersHeaders(all nats.Header) nats.Header {
	own := nats.Header{}
	for name, values := range all {
		if journal.PublishersOwn(name) && !strings.EqualFold(name, update.HeaderTraceID) {
			own[name] = values
		}
	}
	return own
}

func (s *Store) exportBatch(ctx context.Context, run string, batch []listed, write func(Exported) error) (int, error) {
	if len(batch) == 0 {
		return 0, nil
	}
	seqs := make([]string, len(batch))
	for i, letter := range batch {
		seqs[i] = strconv.FormatUint(letter.Seq, 10)
	}
	err := s.audit.Audit(ctx, journal.AuditEvent{
		ID: "export-" + run + "-" + seqs[0], Action: journal.ActionExport,
		Details: map[string]string{"deadLetterSeqs": strings.Join(seqs, ","), "content": "revealed"},
	})
	if err != nil {
		return 0, err
	}
	given := 0
	for _, letter := range batch {
		out, err := s.exportOne(ctx, letter)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return given, err
		}
		if err := write(out); err != nil {
			return given, err
		}
		given++
	}
	return given, nil
}

func (s *Store) exportOne(ctx context.Context, letter listed) (Exported, error) {
	msg, err := s.same(ctx, letter.Summary)
	if err != nil {
		return Exported{}, err
	}
	out := exported(letter)
	body, err := s.body(ctx, msg)
	if errors.Is(err, journal.ErrNoBody) {
		return out, nil // Without its body, as it is.
	}
	if err != nil {
		return Exported{}, fmt.Errorf("exporting dead letter %d: %w", letter.Seq, err)
	}
	out.Body, out.BodyDigest, out.Revealed = body.Data, digestOf(body.Data), true
	maps.Copy(out.Header, publishersHeaders(body.Header))
	return out, nil
}
