package deadletter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// erasePasses bounds how often Erase looks again for what came while it erased.
const erasePasses = 5

// ErrStillComing says that updates of a Vorgang keep coming while it is erased.
var ErrStillComing = errors.New("updates of this Vorgang keep coming: stop its publisher, then erase again")

// Holding is what is held for one Vorgang.
type Holding struct {
	Updates     int `json:"updates"`
	DeadLetters int `json:"deadLetters"`
	// Objects counts those that were erased; Held does not know how many there are.
	Objects int `json:"objects"`
}

// Held counts what is held for a Vorgang.
func (s *Store) Held(ctx context.Context, vorgangsnummer string) (Holding, error) {
	h := Holding{}
	err := s.deadLettersOf(ctx, vorgangsnummer, func(Summary) error { h.DeadLetters++; return nil })
	if err != nil {
		return h, err
	}
	err = s.updatesOf(ctx, vorgangsnummer, func(*jetstream.RawStreamMsg) error { h.Updates++; return nil })
	return h, err
}

// Erase removes the content of everything held for one Vorgang, updates, dead letters and objects, and has the server
// overwrite it in its files. An audit event is confirmed before, an erased event before each removal; results, the
// ledger and claims stay: they hold no content. Interrupted, the next call goes on with what is left.
func (s *Store) Erase(ctx context.Context, vorgangsnummer, because string) (Holding, error) {
	done := Holding{}
	if err := checkVorgang(vorgangsnummer); err != nil {
		return done, err
	}
	run := uuid.NewString()
	if err := s.auditErasure(ctx, run, "begun", vorgangsnummer, because, done); err != nil {
		return done, err
	}
	for range erasePasses {
		before := done
		err := s.updatesOf(ctx, vorgangsnummer, func(msg *jetstream.RawStreamMsg) error {
			return s.eraseUpdate(ctx, msg, because, &done)
		})
		if err == nil {
			err = s.deadLettersOf(ctx, vorgangsnummer, func(letter Summary) error {
				return s.eraseLetter(ctx, letter, because, &done)
			})
		}
		if err != nil {
			return done, err
		}
		if done == before {
			return done, s.auditErasure(ctx, run, "done", vorgangsnummer, because, done)
		}
	}
	return done, ErrStillComing
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

func (s *Store) auditErasure(ctx context.Context, run, state, vorgangsnummer, because string, done Holding) error {
	return s.audit.Audit(ctx, journal.AuditEvent{
		ID: "erase-" + run + "-" + state, Action: journal.ActionErase, Vorgangsnummer: vorgangsnummer, Reason: because,
		Details: map[string]string{
			"state": state, "updates": strconv.Itoa(done.Updates), "deadLetters": strconv.Itoa(done.DeadLetters), "objects": strconv.Itoa(done.Objects),
		},
	})
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

// updatesOf gives the waiting updates of a Vorgang, also those that the stream's transform did not match.
func (s *Store) updatesOf(ctx context.Context, vorgangsnummer string, do func(*jetstream.RawStreamMsg) error) error {
	published := update.SubjectPrefix + vorgangsnummer
	for _, subject := range []string{topology.StoredSubjects(vorgangsnummer, "*"), published, published + ".>"} {
		for next := uint64(1); ; {
			msg, err := s.message(ctx, topology.StreamUpdates, next, jetstream.WithGetMsgSubject(subject))
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				break
			}
			if err != nil {
				return err
			}
			if err := do(msg); err != nil {
				return err
			}
			next = msg.Sequence + 1
		}
	}
	return nil
}

func (s *Store) eraseUpdate(ctx context.Context, msg *jetstream.RawStreamMsg, because string, done *Holding) error {
	replay, err := s.claims.Lookup(ctx, msg.Header)
	if err != nil {
		return err
	}
	u, _ := update.Envelope(update.Message{ // Usable beside the error.
		Subject: topology.PublishedSubject(msg.Subject), Header: msg.Header, Seq: msg.Sequence, StoredAt: msg.Time, Replay: replay,
	}, func() string { return "" })
	data := journal.EventData{
		UpdateID: u.ID, Vorgangsnummer: u.Vorgangsnummer, Kind: u.Kind, TraceID: u.TraceID,
		UpdateSeq: u.Seq, ReceivedAt: u.StoredAt, Detail: because,
	}
	if replay != nil {
		data.ReplayOf = replay.DeadLetterSeq
	}
	notice := journal.Notice{Outcome: update.Erased, Key: "update-" + journal.Identity(msg.Sequence, msg.Time), Data: data}
	if err := s.journal.Notice(ctx, notice); err != nil {
		return err
	}
	if err := s.eraseObjects(ctx, objectsOf(Summary{}, msg.Data), done); err != nil {
		return err
	}
	if err := s.overwrite(ctx, topology.StreamUpdates, msg.Sequence); err != nil {
		return err
	}
	done.Updates++
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
	if err := s.overwrite(ctx, topology.StreamDeadLetters, letter.Seq); err != nil {
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
