package deadletter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// erasePasses bounds how often Erase looks again for what came while it erased.
const erasePasses = 5

// eraser is the name under which a partition is held while an update of it is erased without a relay.
const eraser = "kexrelay deadletters erase"

// ErrStillComing says that updates of a Vorgang keep coming while it is erased.
var ErrStillComing = errors.New("updates of this Vorgang keep coming: stop its publisher, then erase again")

// Holding is what is held for one Vorgang.
type Holding struct {
	Updates     int `json:"updates"`
	DeadLetters int `json:"deadLetters"`
	// Objects counts those that were erased; Held does not know how many there are.
	Objects int `json:"objects"`
}

// Left is a waiting update that was not erased, or not overwritten.
type Left struct {
	UpdateSeq uint64 `json:"updateSeq"`
	UpdateID  string `json:"updateId"`
	// Err is why, and what to do.
	Err error `json:"-"`
}

// LeftError says that not all of a Vorgang's waiting updates could be erased. Everything else of it is.
type LeftError struct {
	// Updates are in the order of their sequences.
	Updates []Left
}

// Error counts them and tells of the first.
func (e *LeftError) Error() string {
	if len(e.Updates) == 1 {
		return fmt.Sprintf("1 update is left: %v", e.Updates[0].Err)
	}
	return fmt.Sprintf("%d updates are left, the first one: %v", len(e.Updates), e.Updates[0].Err)
}

// Held counts what is held for a Vorgang.
func (s *Store) Held(ctx context.Context, vorgangsnummer string) (Holding, error) {
	h := Holding{}
	err := s.deadLettersOf(ctx, vorgangsnummer, func(Summary) error { h.DeadLetters++; return nil })
	if err != nil {
		return h, err
	}
	for _, err := range s.updates.OfVorgang(ctx, vorgangsnummer) {
		if err != nil {
			return h, err
		}
		h.Updates++
	}
	return h, nil
}

// Erase removes the content of everything held for one Vorgang, updates, dead letters and objects, and has the server
// overwrite it in its files. A waiting update is erased as [journal.Cancellation.Each] takes it back, so no relay sends it
// afterwards; its result is erased. An audit event is confirmed before, an erased event before each removal; results, the
// ledger and claims stay: they hold no content. Interrupted, the next call goes on with what is left.
//
// A *LeftError names the updates that must not be erased as they are, or could not be; the rest is done.
func (s *Store) Erase(ctx context.Context, vorgangsnummer, because string) (Holding, error) {
	if err := checkVorgang(vorgangsnummer); err != nil {
		return Holding{}, err
	}
	e := &erasure{store: s, vorgangsnummer: vorgangsnummer, because: because, run: uuid.NewString(), left: map[uint64]refusal{}}
	if err := e.audit(ctx, "begun"); err != nil {
		return e.done, err
	}
	for range erasePasses {
		before, open, gone := e.done, len(e.left), len(e.gone)
		err := e.updates(ctx)
		if err == nil {
			err = s.deadLettersOf(ctx, vorgangsnummer, func(letter Summary) error {
				return s.eraseLetter(ctx, letter, because, &e.done)
			})
		}
		if err != nil {
			return e.done, err
		}
		if e.done == before && len(e.left) == open && len(e.gone) == gone {
			return e.done, e.end(ctx)
		}
	}
	return e.done, ErrStillComing
}

func checkVorgang(vorgangsnummer string) error {
	token, err := journal.VorgangToken(vorgangsnummer)
	if err != nil {
		return err
	}
	if token == "*" || token == update.NoVorgangsnummer {
		return errors.New("erasing is for one Vorgang alone: its number is wanted")
	}
	return nil
}

// deadLettersOf gives the dead letters of a Vorgang, also those whose subject was not valid but names it.
func (s *Store) deadLettersOf(ctx context.Context, vorgangsnummer string, do func(Summary) error) error {
	published := update.SubjectPrefix + vorgangsnummer
	for _, filter := range []Filter{{Vorgangsnummer: vorgangsnummer}, {Vorgangsnummer: update.NoVorgangsnummer}} {
		for letter, err := range s.List(ctx, filter) {
			if err != nil {
				return err
			}
			of := filter.Vorgangsnummer == vorgangsnummer || letter.Subject == published || strings.HasPrefix(letter.Subject, published+".")
			if !of {
				continue
			}
			if err := do(letter); err != nil {
				return err
			}
		}
	}
	return nil
}

// eraseLetter erases a dead letter whoever has claimed it: a person's right goes before a replay. The claim keeps
// the next one from beginning anything with it.
func (s *Store) eraseLetter(ctx context.Context, letter Summary, because string, done *Holding) error {
	msg, err := s.same(ctx, letter)
	if errors.Is(err, ErrNotFound) {
		return nil // Somebody else removed it.
	}
	if err != nil {
		return err
	}
	if err := s.claim(ctx, letter, journal.PurposeErase, false); err != nil && !errors.Is(err, ErrClaimed) {
		return err
	}
	if known(letter) {
		if err := s.journal.Notice(ctx, noticeOf(update.Erased, letter, because)); err != nil {
			return err
		}
	}
	if err := s.done(stepTold); err != nil {
		return err
	}
	if err := s.eraseObjects(ctx, objectsOf(letter, msg.Data), done); err != nil {
		return err
	}
	if err := s.done(stepBodyRemoved); err != nil {
		return err
	}
	if _, err := s.overwrite(ctx, topology.StreamDeadLetters, letter.Seq); err != nil {
		return err
	}
	done.DeadLetters++
	return nil
}

// eraseObjects erases objects. Of a dead letter's body in an object the document it refers to is erased too.
func (s *Store) eraseObjects(ctx context.Context, objects []string, done *Holding) error {
	for _, object := range objects {
		if !strings.HasPrefix(object, topology.BucketDocuments+"/") {
			continue // Somebody else's text in a header.
		}
		there, err := s.eraseObject(ctx, object)
		if err != nil {
			return err
		}
		if there {
			done.Objects++
		}
	}
	return nil
}

// Copies names the streams that hold copies of ours, which Erase does not reach: those of this account that mirror them
// or take them as a source.
func (s *Store) Copies(ctx context.Context) ([]string, error) {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	ours := []string{topology.StreamUpdates, topology.StreamDeadLetters, streamDocuments}
	var copies []string
	streams := s.js.ListStreams(ctx)
	for info := range streams.Info() {
		for _, of := range append([]*jetstream.StreamSource{info.Config.Mirror}, info.Config.Sources...) {
			if of != nil && slices.Contains(ours, of.Name) {
				copies = append(copies, fmt.Sprintf("%s, a copy of %s", info.Config.Name, of.Name))
			}
		}
	}
	return copies, journal.Explain("looking for copies of the streams", s.js, streams.Err())
}
