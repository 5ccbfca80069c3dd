package journal

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// ErrNoUpdate says that an update is not in KEX_UPDATES.
var ErrNoUpdate = errors.New("no such update is waiting: it is settled already, or its sequence was never given")

// updateReaders is how many read the waiting updates at once when one is looked for among all of them.
const updateReaders = 8

// Waiting is one update in KEX_UPDATES: published and not settled yet.
type Waiting struct {
	Seq      uint64    `json:"seq"`
	StoredAt time.Time `json:"storedAt"`
	// Subject is as published, Vorgangsnummer update.NoVorgangsnummer if the subject has no valid one.
	Subject        string      `json:"subject"`
	Vorgangsnummer string      `json:"vorgangsnummer"`
	Kind           update.Kind `json:"kind"`
	UpdateID       string      `json:"updateId"`
	// TraceID is the publisher's, empty if it gave none that can be used: the relay makes one when it sends.
	TraceID string `json:"traceId,omitempty"`
	// Partition is the one whose relay sends it.
	Partition int `json:"partition"`
	// Size is the body's, in bytes.
	Size int64 `json:"size"`
	// ReplayOf is the dead letter it is a replay of, 0 for none; then UpdateID and TraceID are the original's.
	ReplayOf uint64 `json:"replayOf,omitempty"`
	// Replays counts its replays, this one included.
	Replays int `json:"replays,omitempty"`

	// Header and Body are as published. They are for masked views and never printed as they are.
	Header nats.Header `json:"-"`
	Body   []byte      `json:"-"`
}

// Updates reads the waiting updates. The stream is a work queue, which lets nobody read along: they are fetched one by
// one, bodies included. Use NewUpdates; its methods are safe for concurrent use.
type Updates struct {
	js     jetstream.JetStream
	stream lazy[jetstream.Stream]
	claims *Claims
}

// NewUpdates makes an Updates without a call.
func NewUpdates(js jetstream.JetStream) *Updates { return &Updates{js: js, claims: NewClaims(js)} }

// UpdateFilter selects waiting updates. The zero value selects all.
type UpdateFilter struct {
	// Vorgangsnummer and Kind select on the server.
	Vorgangsnummer string
	Kind           update.Kind
	// UpdateID and TraceID compare what was published.
	UpdateID, TraceID string
	// Since and Until bound when they were stored.
	Since, Until time.Time
}

func (f UpdateFilter) subject() (string, error) {
	vorgang, err := VorgangToken(f.Vorgangsnummer)
	switch {
	case err != nil:
		return "", err
	case f.Vorgangsnummer == update.NoVorgangsnummer, f.Kind == update.Invalid:
		return ">", nil // What the transform did not match has no tokens to select by.
	case f.Vorgangsnummer == "" && f.Kind == "":
		return ">", nil
	case f.Kind == "":
		return topology.StoredSubjects(vorgang, "*"), nil
	}
	return topology.StoredSubjects(vorgang, f.Kind), nil
}

func (f UpdateFilter) selects(w Waiting) bool {
	return (f.Vorgangsnummer == "" || w.Vorgangsnummer == f.Vorgangsnummer) &&
		(f.Kind == "" || w.Kind == f.Kind) &&
		(f.UpdateID == "" || w.UpdateID == f.UpdateID) &&
		(f.TraceID == "" || w.TraceID == f.TraceID) &&
		!w.StoredAt.Before(f.Since) && (f.Until.IsZero() || !w.StoredAt.After(f.Until))
}

// List gives the updates that wait when it is called, oldest first. What is settled meanwhile is passed over. Vorgang
// and kind are selected on the server; anything else costs reading every one of them.
func (u *Updates) List(ctx context.Context, f UpdateFilter) iter.Seq2[Waiting, error] {
	return func(yield func(Waiting, error) bool) {
		subject, err := f.subject()
		var state jetstream.StreamState
		if err == nil {
			state, err = u.state(ctx)
		}
		if err != nil {
			yield(Waiting{}, err)
			return
		}
		for w, err := range u.walk(ctx, subject, state.FirstSeq, state.LastSeq) {
			if err != nil {
				yield(Waiting{}, err)
				return
			}
			if f.selects(w) && !yield(w, nil) {
				return
			}
		}
	}
}

// OfVorgang gives the updates of a Vorgang that wait when it is called, also those whose subject is not valid but names it:
// the stream's transform did not match them. Each comes once; their order is that of their subjects.
func (u *Updates) OfVorgang(ctx context.Context, vorgangsnummer string) iter.Seq2[Waiting, error] {
	return func(yield func(Waiting, error) bool) {
		state, err := u.state(ctx)
		if err != nil {
			yield(Waiting{}, err)
			return
		}
		published := update.SubjectPrefix + vorgangsnummer
		for _, subject := range []string{topology.StoredSubjects(vorgangsnummer, "*"), published, published + ".>"} {
			for w, err := range u.walk(ctx, subject, state.FirstSeq, state.LastSeq) {
				if !yield(w, err) || err != nil {
					return
				}
			}
		}
	}
}

// walk gives the updates of a subject in a range of sequences.
func (u *Updates) walk(ctx context.Context, subject string, from, to uint64) iter.Seq2[Waiting, error] {
	return func(yield func(Waiting, error) bool) {
		for next := max(1, from); next <= to; {
			w, err := u.get(ctx, next, jetstream.WithGetMsgSubject(subject))
			switch {
			case errors.Is(err, ErrNoUpdate):
				return
			case err != nil:
				yield(Waiting{}, err)
				return
			case w.Seq > to:
				return
			}
			if !yield(w, nil) {
				return
			}
			next = w.Seq + 1
		}
	}
}

// Get reads one waiting update. ErrNoUpdate says that it does not wait any more.
func (u *Updates) Get(ctx context.Context, seq uint64) (Waiting, error) { return u.get(ctx, seq) }

func (u *Updates) get(ctx context.Context, seq uint64, opts ...jetstream.GetMsgOpt) (Waiting, error) {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	stream, err := u.open(ctx)
	if err != nil {
		return Waiting{}, err
	}
	msg, err := stream.GetMsg(ctx, seq, opts...)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Waiting{}, fmt.Errorf("update %d: %w", seq, ErrNoUpdate)
	}
	if err != nil {
		return Waiting{}, Explain(fmt.Sprintf("reading update %d", seq), u.js, err)
	}
	replay, err := u.claims.Lookup(ctx, msg.Header)
	if err != nil {
		return Waiting{}, err
	}
	return newWaiting(msg, replay), nil
}

func newWaiting(msg *jetstream.RawStreamMsg, replay *update.Replay) Waiting {
	w := Waiting{
		Seq: msg.Sequence, StoredAt: utc(msg.Time), Subject: topology.PublishedSubject(msg.Subject),
		Size: int64(len(msg.Data)), Header: msg.Header, Body: msg.Data,
	}
	w.Vorgangsnummer, w.Kind, _ = update.ParseSubject(w.Subject) // Both are usable beside the error.
	if tokens := strings.Split(msg.Subject, "."); w.Subject != msg.Subject && len(tokens) > 2 {
		w.Partition, _ = strconv.Atoi(tokens[2]) // Written by the server.
	}
	envelope, _ := update.Envelope(update.Message{
		Subject: w.Subject, Header: msg.Header, Seq: w.Seq, StoredAt: w.StoredAt, Replay: replay,
	}, func() string { return "" }) // Usable beside the error.
	if envelope != nil {
		w.UpdateID, w.TraceID = envelope.ID, envelope.TraceID
	}
	w.Subject = printable(w.Subject, maxSubject)
	if replay != nil {
		w.ReplayOf, w.Replays = replay.DeadLetterSeq, replay.Replays
	}
	return w
}

// Look is what looking for updates among all that wait gave.
type Look struct {
	Found []Waiting
	// Waiting is how many there were. Partial says that time ran out before all of them were looked at.
	Waiting uint64
	Partial bool
}

// Find looks at every waiting update for one whose update ID or trace ID is among ids, for at most so long.
func (u *Updates) Find(ctx context.Context, ids []string, atMost time.Duration) (Look, error) {
	state, err := u.state(ctx)
	if err != nil {
		return Look{}, err
	}
	look := Look{Waiting: state.Msgs}
	if state.Msgs == 0 {
		return look, nil
	}
	limited, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	step := (state.LastSeq - state.FirstSeq + updateReaders) / updateReaders
	var mu sync.Mutex
	var readers sync.WaitGroup
	for from := state.FirstSeq; from <= state.LastSeq; from += step {
		readers.Go(func() {
			for w, walkErr := range u.walk(limited, ">", from, min(from+step-1, state.LastSeq)) {
				mu.Lock()
				switch {
				case walkErr != nil && limited.Err() != nil && ctx.Err() == nil:
					look.Partial = true
				case walkErr != nil:
					err = walkErr
				case slices.Contains(ids, w.UpdateID), w.TraceID != "" && slices.Contains(ids, w.TraceID):
					w.Body = nil
					look.Found = append(look.Found, w)
				}
				mu.Unlock()
			}
		})
	}
	readers.Wait()
	slices.SortFunc(look.Found, func(a, b Waiting) int { return int(a.Seq) - int(b.Seq) }) //nolint:gosec // G115: sequences are far from it.
	return look, err
}

// Ahead counts the older updates of the same Vorgang that still wait, up to a limit: they go first. An update without a
// valid Vorgang waits for none.
func (u *Updates) Ahead(ctx context.Context, w Waiting, limit int) (ahead int, oldest uint64, err error) {
	if _, _, err := update.ParseSubject(w.Subject); err != nil {
		return 0, 0, nil
	}
	for older, err := range u.walk(ctx, topology.StoredSubjects(w.Vorgangsnummer, "*"), 1, w.Seq-1) {
		if err != nil {
			return ahead, oldest, err
		}
		if ahead++; oldest == 0 {
			oldest = older.Seq
		}
		if ahead == limit {
			break
		}
	}
	return ahead, oldest, nil
}

func (u *Updates) state(ctx context.Context) (jetstream.StreamState, error) {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	stream, err := u.open(ctx)
	if err != nil {
		return jetstream.StreamState{}, err
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return jetstream.StreamState{}, Explain("reading the state of "+topology.StreamUpdates, u.js, err)
	}
	return info.State, nil
}

//nolint:ireturn // jetstream has no other type for it.
func (u *Updates) open(ctx context.Context) (jetstream.Stream, error) {
	return u.stream.open(func() (jetstream.Stream, error) {
		stream, err := u.js.Stream(ctx, topology.StreamUpdates)
		return stream, Explain("opening "+topology.StreamUpdates, u.js, err)
	})
}
