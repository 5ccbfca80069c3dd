package deadletter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"kexrelay/internal/journal"
)

// maxFound is how many dead letters an ID may mean before the search ends: enough to say that it means several.
const maxFound = 20

// Find gives the dead letters that an operator may mean: by sequence, else by update ID, else by the trace ID of the
// update or of its last request. ErrNotFound says that there is none, and what else it may be.
func (s *Store) Find(ctx context.Context, ref string) ([]Summary, error) {
	if seq, err := strconv.ParseUint(ref, 10, 64); err == nil && seq > 0 {
		msg, err := s.read(ctx, seq)
		if err == nil {
			return []Summary{summarize(msg.Subject, msg.Header, msg.Sequence, msg.Time, int64(len(msg.Data)))}, nil
		}
		if !errors.Is(err, ErrNotFound) {
			return nil, err
		}
	}
	var byUpdate, byTrace []Summary
	for letter, err := range s.List(ctx, Filter{}) {
		switch {
		case err != nil:
			return nil, err
		case letter.UpdateID == ref && len(byUpdate) < maxFound:
			byUpdate = append(byUpdate, letter)
		case (letter.TraceID == ref || letter.RequestID == ref) && len(byTrace) < maxFound:
			byTrace = append(byTrace, letter)
		}
	}
	if len(byUpdate) > 0 {
		return byUpdate, nil
	}
	if len(byTrace) > 0 {
		return byTrace, nil
	}
	return nil, fmt.Errorf("%q: %w", ref, ErrNotFound)
}

// History gives the result events of the dead letter's update, the oldest first: how it ended each time it was sent,
// and what operators did since. Results expire; what is older is not in it.
func (s *Store) History(ctx context.Context, letter Summary) ([]journal.Event, error) {
	if letter.UpdateID == "" {
		return nil, nil
	}
	var events []journal.Event
	filter := journal.ResultFilter{Vorgangsnummer: letter.Vorgangsnummer, UpdateID: letter.UpdateID}
	for event, err := range s.results.List(ctx, filter) {
		if err != nil {
			return nil, err
		}
		if events = append(events, event); len(events) > maxHistory {
			events = slices.Delete(events, 0, 1)
		}
	}
	slices.SortStableFunc(events, func(a, b journal.Event) int { return cmp.Compare(a.Seq, b.Seq) })
	return events, nil
}

// maxHistory bounds the events of a history: the newest are kept.
const maxHistory = 100
