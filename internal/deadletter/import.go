package deadletter

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// What Import says about one dead letter that it does not import.
var (
	// ErrNotImportable says that it can be no dead letter as it is.
	ErrNotImportable = errors.New("it cannot be imported")
	// ErrThere says that it is there already.
	ErrThere = errors.New("it is there already")
	// ErrDone says that since the export somebody has replayed, discarded or erased it.
	ErrDone = errors.New("it is not imported again without --force")
)

// Importer publishes exported dead letters back. Use Store.Importer; it is for one caller at a time.
type Importer struct {
	store  *Store
	force  bool
	run    string
	source string
	// there are the IDs of the dead letters there are, done those of the events that tell of an end.
	there, done ids
}

// ids is a set of message IDs in 16 bytes each: a hash that nobody can make collide.
type ids map[[16]byte]struct{}

func (s ids) add(id string)      { s[hashed(id)] = struct{}{} }
func (s ids) has(id string) bool { _, ok := s[hashed(id)]; return ok }

func hashed(id string) [16]byte {
	sum := sha256.Sum256([]byte(id))
	return [16]byte(sum[:16])
}

// Importer begins an import, which it tells in an audit event; source is where from, in the operator's words. It knows
// what is there and, as far back as results reach, what was replayed, discarded or erased; force imports the latter
// all the same.
func (s *Store) Importer(ctx context.Context, source string, force bool) (*Importer, error) {
	im := &Importer{store: s, force: force, run: uuid.NewString(), source: source, there: ids{}, done: ids{}}
	for letter, err := range s.letters(ctx, Filter{}) {
		if err != nil {
			return nil, err
		}
		im.there.add(letter.header.Get(jetstream.MsgIDHeader))
	}
	if err := im.readEnds(ctx); err != nil {
		return nil, err
	}
	return im, im.tell(ctx, "begun", 0)
}

// readEnds reads which dead letters somebody has dealt with.
func (im *Importer) readEnds(ctx context.Context) error {
	scan := journal.Scan{Stream: topology.StreamResults, HeadersOnly: true}
	for _, outcome := range ends() {
		scan.Filters = append(scan.Filters, topology.ResultSubject(outcome, "*", "*"))
	}
	for msg, err := range scan.Messages(ctx, im.store.js) {
		if err != nil {
			return err
		}
		im.done.add(msg.Headers().Get(jetstream.MsgIDHeader))
	}
	return nil
}

func ends() []update.Outcome {
	return []update.Outcome{update.Replayed, update.Discarded, update.Erased}
}

// Import publishes one dead letter back and gives its new sequence. ErrNotImportable, ErrThere and ErrDone concern it
// alone; any other error is of NATS and ends the import. Repeating it stores nothing twice.
func (im *Importer) Import(ctx context.Context, e Exported) (uint64, error) {
	settlement, err := e.settlement()
	if err != nil {
		return 0, err
	}
	id := journal.DeadLetterID(settlement.Update)
	if im.there.has(id) {
		return 0, fmt.Errorf("dead letter %d: %w", e.Seq, ErrThere)
	}
	for _, end := range ends() {
		if !im.force && im.done.has(string(end)+"-"+journal.Identity(e.Seq, e.StoredAt)) {
			return 0, fmt.Errorf("dead letter %d was %s since: %w", e.Seq, end, ErrDone)
		}
	}
	ack, err := im.store.journal.DeadLetter(ctx, settlement)
	if err != nil {
		return 0, err
	}
	im.there.add(id)
	if ack.Duplicate {
		// The server still knows the ID of one that was removed: it does not store it again for a while.
		if _, err := im.store.read(ctx, ack.Sequence); errors.Is(err, ErrNotFound) {
			return 0, fmt.Errorf("%w yet: it was removed less than %s ago, and for so long the server drops it as a duplicate: import again then",
				ErrNotImportable, topology.DuplicateWindow)
		}
		return ack.Sequence, fmt.Errorf("dead letter %d: %w", e.Seq, ErrThere)
	}
	return ack.Sequence, nil
}

// Done tells the end of the import in an audit event.
func (im *Importer) Done(ctx context.Context, imported int) error {
	return im.tell(ctx, "done", imported)
}

func (im *Importer) tell(ctx context.Context, state string, imported int) error {
	return im.store.audit.Audit(ctx, journal.AuditEvent{
		ID: "import-" + im.run + "-" + state, Action: journal.ActionImport,
		Details: map[string]string{"state": state, "imported": strconv.Itoa(imported), "from": im.source, "force": strconv.FormatBool(im.force)},
	})
}

// settlement checks what was exported and makes the settlement of it whose dead letter it was.
func (e Exported) settlement() (*update.Settlement, error) {
	unfit := func(problem string) error { return fmt.Errorf("%w: %s", ErrNotImportable, problem) }
	switch {
	case !slices.Contains(fault.DeadLetterReasons(), e.Reason):
		return nil, unfit("its reason is none of a dead letter")
	case !known(e.Summary):
		return nil, unfit("updateId, vorgangsnummer or kind is missing or not valid")
	case e.UpdateSeq == 0 || e.UpdateAt.IsZero() || e.Subject == "":
		return nil, unfit("updateSeq, updateAt or subject is missing")
	case e.Seq == 0 || e.StoredAt.IsZero():
		return nil, unfit("seq or storedAt is missing")
	case !e.Revealed:
		return nil, unfit("it has no content: export it with --reveal")
	case e.BodyDigest != digestOf(e.Body):
		return nil, unfit("its body is damaged: it does not have its digest")
	}
	u := &update.Update{
		ID: e.UpdateID, Seq: e.UpdateSeq, StoredAt: e.UpdateAt, Subject: e.Subject, Vorgangsnummer: e.Vorgangsnummer, Kind: e.Kind,
		TraceID: e.TraceID, Header: e.Header, Body: e.Body,
	}
	if e.Replays > 0 {
		u.Replay = &update.Replay{UpdateID: e.UpdateID, TraceID: e.TraceID, Replays: e.Replays}
	}
	return &update.Settlement{
		Update: u, Outcome: update.DeadLettered, Reason: e.Reason, Detail: e.Detail, Status: e.Status, Attempts: e.Attempts,
		RequestID:   e.RequestID,
		Answers:     update.ParseAnswers(e.Answers.String(), e.RequestID, e.Attempts), // A file may hold anything.
		MayBeBooked: e.MayBeBooked, FirstAttemptAt: e.FirstAttemptAt, SettledAt: e.DeadLetteredAt,
	}, nil
}
