// Package trace tells the whole story of one update: when it was published, what was tried, how it ended, what was done
// to it afterwards, and for one that still waits what it waits for.
//
// It stands beside an update's way and writes nothing. What it tells is put together from four places that know a part
// each: the results (through their index), the dead letters, the waiting updates and the ledger of what is being sent.
package trace

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"kexrelay/internal/deadletter"
	"kexrelay/internal/journal"
	"kexrelay/internal/update"
)

const (
	// searchWaiting bounds how long all waiting updates are looked through: once for an ID of which nothing is known,
	// and shorter for one with results, which seldom has another that waits.
	searchWaiting      = 3 * time.Second
	searchWaitingShort = 300 * time.Millisecond
	// maxAhead is how many older updates of the same Vorgang are counted.
	maxAhead = 1000
	// streamID begins the update ID of an update that was published without one.
	streamID = "KEX_UPDATES-"
)

// Sources is where a Tracer looks. All of them are needed.
type Sources struct {
	Index       *journal.Index
	Results     *journal.Results
	Updates     *journal.Updates
	DeadLetters *deadletter.Store
	Claims      *journal.Claims
	Holds       *journal.Holds
	// Ledger and Holders read what is being sent, and by whom.
	Ledger  func(context.Context) (map[uint64]journal.InFlight, error)
	Holders func(context.Context) ([]journal.Holder, error)
	// Standing asks the process that has the right to send an update.
	Standing func(ctx context.Context, process string, w journal.Waiting) (journal.Standing, error)
}

// Query is what is looked for.
type Query struct {
	// ID is an update ID, a trace ID, or the X-TraceId of one request.
	ID string
	// Vorgangsnummer, if it is known, makes the look shorter: NATS selects by it.
	Vorgangsnummer string
	// OnRead, if not nil, is called before results are read that no index covers, with how many.
	OnRead func(results uint64)
}

// Looked is where was looked, for an ID of which nothing is known.
type Looked struct {
	// Results is how many there are and ResultsSince when the oldest of them was written, zero if there is none.
	Results      uint64    `json:"results"`
	ResultsSince time.Time `json:"resultsSince,omitzero"`
	// ResultsRead is how many of them no index covered.
	ResultsRead uint64 `json:"resultsRead,omitempty"`
	// Waiting is how many updates wait; WaitingPartial says that time ran out before all of them were looked at.
	Waiting        uint64 `json:"waiting"`
	WaitingPartial bool   `json:"waitingPartial,omitempty"`
	// DeadLetters is how many were looked at, 0 if the results named the right ones.
	DeadLetters int `json:"deadLetters"`
	// Ledger is how many updates are being worked on.
	Ledger int `json:"ledger"`
}

// Tracer looks updates up. Its zero value is of no use: fill in Sources.
type Tracer struct{ Sources }

// findings is what was found before it is told.
type findings struct {
	ids     []string
	events  []journal.Event
	letters map[uint64]deadletter.Summary
	waiting []journal.Waiting
	ledger  map[uint64]journal.InFlight
	looked  Looked
}

// Look finds the stories of an ID: none if nothing is known of it, several if publishers have given the same trace ID to
// several updates. Oldest first.
func (t *Tracer) Look(ctx context.Context, q Query) ([]Story, Looked, error) {
	f := &findings{ids: journal.RequestIDs(q.ID), letters: map[uint64]deadletter.Summary{}}
	var err error
	if f.ledger, err = t.Ledger(ctx); err != nil {
		return nil, f.looked, err
	}
	f.looked.Ledger = len(f.ledger)
	// What waits is read before the results: an update that is settled meanwhile is found at least once.
	if err := t.findWaiting(ctx, q, f); err != nil {
		return nil, f.looked, err
	}
	if err := t.findEvents(ctx, q, f); err != nil {
		return nil, f.looked, err
	}
	if len(f.waiting) == 0 && len(f.events) == 0 {
		if err := t.searchWaiting(ctx, q, f, searchWaiting); err != nil {
			return nil, f.looked, err
		}
	}
	if err := t.findLetters(ctx, q, f); err != nil {
		return nil, f.looked, err
	}
	if err := t.followReplays(ctx, f); err != nil {
		return nil, f.looked, err
	}
	f.preferExact(q.ID)
	stories, err := t.tell(ctx, q.ID, f)
	return stories, f.looked, err
}

// findWaiting finds what can be found without looking at every waiting update for long.
func (t *Tracer) findWaiting(ctx context.Context, q Query, f *findings) error {
	var seqs []uint64
	for _, id := range f.ids {
		if digits, ok := strings.CutPrefix(id, streamID); ok {
			if seq, err := strconv.ParseUint(digits, 10, 64); err == nil {
				seqs = append(seqs, seq)
			}
		}
	}
	for seq, doing := range f.ledger {
		if slices.ContainsFunc(journal.RequestIDs(doing.RequestID), func(id string) bool { return slices.Contains(f.ids, id) }) {
			seqs = append(seqs, seq)
		}
	}
	for _, seq := range seqs {
		if err := t.addWaiting(ctx, f, seq); err != nil {
			return err
		}
	}
	return t.searchWaiting(ctx, q, f, searchWaitingShort)
}

// addWaiting adds an update if it still waits.
func (t *Tracer) addWaiting(ctx context.Context, f *findings, seq uint64) error {
	w, err := t.Updates.Get(ctx, seq)
	if errors.Is(err, journal.ErrNoUpdate) {
		return nil
	}
	if err == nil {
		f.addWaiting(w)
	}
	return err
}

func (f *findings) addWaiting(w journal.Waiting) {
	w.Body, w.Header = nil, nil
	if !slices.ContainsFunc(f.waiting, func(there journal.Waiting) bool { return there.Seq == w.Seq }) {
		f.waiting = append(f.waiting, w)
	}
}

// searchWaiting looks through the waiting updates: those of the Vorgang, or all for as long as time allows.
func (t *Tracer) searchWaiting(ctx context.Context, q Query, f *findings, atMost time.Duration) error {
	if f.looked.Waiting > 0 && !f.looked.WaitingPartial {
		return nil // They were all looked at.
	}
	if q.Vorgangsnummer == "" {
		look, err := t.Updates.Find(ctx, f.ids, atMost)
		f.looked.Waiting, f.looked.WaitingPartial = look.Waiting, look.Partial
		for _, w := range look.Found {
			f.addWaiting(w)
		}
		return err
	}
	f.looked.Waiting, f.looked.WaitingPartial = 0, false
	for w, err := range t.Updates.List(ctx, journal.UpdateFilter{Vorgangsnummer: q.Vorgangsnummer}) {
		if err != nil {
			return err
		}
		f.looked.Waiting++
		if slices.Contains(f.ids, w.UpdateID) || w.TraceID != "" && slices.Contains(f.ids, w.TraceID) {
			f.addWaiting(w)
		}
	}
	return nil
}

// findEvents finds the results, with those of other trace IDs that the same updates have had.
func (t *Tracer) findEvents(ctx context.Context, q Query, f *findings) error {
	ids := slices.Clone(f.ids)
	for _, w := range f.waiting {
		ids = append(ids, w.UpdateID)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if q.Vorgangsnummer == "" {
		found, err := t.Index.Find(ctx, ids, q.OnRead)
		f.events = found.Events
		f.looked.Results, f.looked.ResultsSince, f.looked.ResultsRead = found.Results, found.Since, found.Read
		return err
	}
	for event, err := range t.Results.List(ctx, journal.ResultFilter{Vorgangsnummer: q.Vorgangsnummer}) {
		if err != nil {
			return err
		}
		if f.looked.Results == 0 {
			f.looked.ResultsSince = event.Data.SettledAt
		}
		f.looked.Results++
		if slices.Contains(ids, event.Data.UpdateID) || slices.Contains(ids, event.Data.TraceID) {
			f.events = append(f.events, event)
		}
	}
	return nil
}

// findLetters reads the dead letters that the results name. Only without any result all of them are looked at: then the
// result has expired, or was not written yet.
func (t *Tracer) findLetters(ctx context.Context, q Query, f *findings) error {
	if len(f.events) > 0 {
		for _, e := range f.events {
			if e.Data.DeadLetterSeq == 0 {
				continue
			}
			for letter, err := range t.DeadLetters.List(ctx, deadletter.Filter{After: e.Data.DeadLetterSeq - 1, UpTo: e.Data.DeadLetterSeq}) {
				if err != nil {
					return err
				}
				f.letters[letter.Seq] = letter
			}
		}
		return nil
	}
	for letter, err := range t.DeadLetters.List(ctx, deadletter.Filter{Vorgangsnummer: q.Vorgangsnummer}) {
		if err != nil {
			return err
		}
		f.looked.DeadLetters++
		if slices.Contains(f.ids, letter.UpdateID) || slices.Contains(f.ids, letter.TraceID) || letter.RequestID == q.ID {
			f.letters[letter.Seq] = letter
		}
	}
	return nil
}

// followReplays finds the replays that the results name and that still wait.
func (t *Tracer) followReplays(ctx context.Context, f *findings) error {
	for _, e := range f.events {
		if e.Data.Outcome != update.Replayed || e.Data.UpdateSeq == 0 {
			continue
		}
		if err := t.addWaiting(ctx, f, e.Data.UpdateSeq); err != nil {
			return err
		}
	}
	// An update that has a result is settled, and only its ack is missing.
	f.waiting = slices.DeleteFunc(f.waiting, func(w journal.Waiting) bool {
		return slices.ContainsFunc(f.events, func(e journal.Event) bool {
			return e.Data.Outcome != update.Replayed && e.Data.UpdateSeq == w.Seq && e.Data.ReceivedAt.Equal(w.StoredAt)
		})
	})
	return nil
}

// preferExact drops what only the ID without its number matches, if the ID itself is somebody's.
func (f *findings) preferExact(id string) {
	exact := map[string]bool{}
	for _, e := range f.events {
		exact[e.Data.UpdateID] = exact[e.Data.UpdateID] || e.Data.UpdateID == id || e.Data.TraceID == id || e.Data.RequestID == id
	}
	for _, l := range f.letters {
		exact[l.UpdateID] = exact[l.UpdateID] || l.UpdateID == id || l.TraceID == id || l.RequestID == id
	}
	for _, w := range f.waiting {
		exact[w.UpdateID] = exact[w.UpdateID] || w.UpdateID == id || w.TraceID == id
	}
	some := false
	for _, is := range exact {
		some = some || is
	}
	if !some {
		return
	}
	f.events = slices.DeleteFunc(f.events, func(e journal.Event) bool { return !exact[e.Data.UpdateID] })
	f.waiting = slices.DeleteFunc(f.waiting, func(w journal.Waiting) bool { return !exact[w.UpdateID] })
	for seq, l := range f.letters {
		if !exact[l.UpdateID] {
			delete(f.letters, seq)
		}
	}
}
