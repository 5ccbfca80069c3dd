package deadletter

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// erasure is one run of Erase.
type erasure struct {
	store          *Store
	vorgangsnummer string
	because        string
	run            string
	done           Holding
	// left are the updates that were refused, by their sequence; gone are those that are erased and not overwritten.
	left map[uint64]refusal
	gone []Left
}

type refusal struct {
	Left

	storedAt time.Time
	tries    int
}

// again reports whether the next pass asks for it again: only of what nobody confirmed may something else be known now.
func (r refusal) again() bool { return errors.Is(r.Err, journal.ErrCancelUnknown) && r.tries == 1 }

// updates erases the waiting updates, and looks which of those that were refused are still there.
func (e *erasure) updates(ctx context.Context) error {
	before := e.left
	e.left = map[uint64]refusal{}
	var wanted []journal.Waiting
	for w, err := range e.store.updates.OfVorgang(ctx, e.vorgangsnummer) {
		if err != nil {
			return err
		}
		if known, refused := before[w.Seq]; refused && known.storedAt.Equal(w.StoredAt) && !known.again() {
			e.left[w.Seq] = known
			continue
		}
		w.Body, w.Header = nil, nil // There may be many.
		wanted = append(wanted, w)
	}
	return journal.Cancellation{
		Outcome: update.Erased, Reason: e.because, Source: e.store.source, Auditor: e.store.audit, Name: eraser, Remove: e.overwrite,
	}.Each(ctx, e.store.js, wanted, func(w journal.Waiting, refused error) error {
		switch {
		case refused == nil:
			e.done.Updates++
		case errors.Is(refused, journal.ErrNotOverwritten):
			e.gone = append(e.gone, Left{UpdateSeq: w.Seq, UpdateID: w.UpdateID, Err: refused})
		case !errors.Is(refused, journal.ErrNoUpdate): // Else it was settled meanwhile.
			e.left[w.Seq] = refusal{
				Left:     Left{UpdateSeq: w.Seq, UpdateID: w.UpdateID, Err: refused},
				storedAt: w.StoredAt, tries: before[w.Seq].tries + 1,
			}
		}
		return nil
	})
}

// overwrite erases an update that has its result: its objects first, because it is what names them.
func (e *erasure) overwrite(ctx context.Context, w journal.Waiting) (there bool, err error) {
	if err := e.store.eraseObjects(ctx, objectsOf(Summary{}, w.Body), &e.done); err != nil {
		return false, err
	}
	return e.store.overwrite(ctx, topology.StreamUpdates, w.Seq)
}

// end tells the end of the erasure, and what is left.
func (e *erasure) end(ctx context.Context) error {
	if len(e.left)+len(e.gone) == 0 {
		return e.audit(ctx, "done")
	}
	left := &LeftError{Updates: e.gone}
	for _, refused := range e.left {
		left.Updates = append(left.Updates, refused.Left)
	}
	slices.SortFunc(left.Updates, func(a, b Left) int { return cmp.Compare(a.UpdateSeq, b.UpdateSeq) })
	return cmp.Or[error](e.audit(ctx, "incomplete"), left)
}

func (e *erasure) audit(ctx context.Context, state string) error {
	details := map[string]string{
		"state": state, "updates": strconv.Itoa(e.done.Updates), "deadLetters": strconv.Itoa(e.done.DeadLetters), "objects": strconv.Itoa(e.done.Objects),
	}
	if left := len(e.left) + len(e.gone); left > 0 {
		details["left"] = strconv.Itoa(left)
	}
	return e.store.audit.Audit(ctx, journal.AuditEvent{
		ID: "erase-" + e.run + "-" + state, Action: journal.ActionErase, Vorgangsnummer: e.vorgangsnummer, Reason: e.because, Details: details,
	})
}
