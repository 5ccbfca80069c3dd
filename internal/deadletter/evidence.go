package deadletter

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// evidence is what can be found out about a replay that somebody began.
type evidence struct {
	// updateSeq is the new message's sequence, 0 if none was found.
	updateSeq uint64
	// told reports that the replayed event is there.
	told bool
	// end is how the new message ended, nil if it has not.
	end *End
	// certain reports that a published replay would have been found.
	certain bool
}

// search finds out whether a claimed replay was published. The server's own memory of message IDs does not answer:
// it ends after the duplicate window, and with a restart it forgets messages that were removed. So first the updates
// are looked through, then the results: one that left the updates in between has its result already.
func (s *Store) search(ctx context.Context, letter Summary, claim journal.Claim) (evidence, error) {
	found := evidence{}
	if !claim.Published() {
		seq, err := s.unsettled(ctx, letter, claim)
		if err != nil {
			return found, err
		}
		found.updateSeq = seq
	}
	filter := journal.ResultFilter{
		Since: letter.StoredAt,
		// Discarded and erased too: a replay that was taken back, or whose content was erased, was published.
		Outcomes:       []update.Outcome{update.Delivered, update.DeadLettered, update.Replayed, update.Discarded, update.Erased},
		Vorgangsnummer: letter.Vorgangsnummer,
		UpdateID:       letter.UpdateID,
	}
	for event, err := range s.results.List(ctx, filter) {
		if err != nil {
			return found, err
		}
		if event.Data.ReplayOf != letter.Seq {
			continue
		}
		found.updateSeq = event.Data.UpdateSeq
		if end, ok := endOf(event); ok && (found.end == nil || settles(end)) { // Erased may be told beside how it ended.
			found.end = &end
		}
		found.told = found.told || event.Data.Outcome == update.Replayed
	}
	if found.updateSeq != 0 {
		found.certain = true
		return found, nil
	}
	certain, err := s.resultsReachBack(ctx, claim.WrittenAt())
	found.certain = certain
	return found, err
}

// settles reports whether an end is the API's answer, and not what somebody did to the update.
func settles(e End) bool { return e.Outcome == update.Delivered || e.Outcome == update.DeadLettered }

// unsettled looks for the new message among the Vorgang's updates and gives its sequence, 0 if it is not there. It
// reads them one by one, because a stream that is a work queue lets nobody else read along.
func (s *Store) unsettled(ctx context.Context, letter Summary, claim journal.Claim) (uint64, error) {
	subject := topology.StoredSubjects(letter.Vorgangsnummer, letter.Kind)
	for next := uint64(1); ; {
		msg, err := s.message(ctx, topology.StreamUpdates, next, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		if msg.Header.Get(jetstream.MsgIDHeader) == claim.MsgID {
			return msg.Sequence, nil
		}
		next = msg.Sequence + 1
	}
}

// waiting reports whether the new message of a published claim is still among the updates.
func (s *Store) waiting(ctx context.Context, claim journal.Claim) (bool, error) {
	msg, err := s.message(ctx, topology.StreamUpdates, claim.UpdateSeq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return msg.Header.Get(jetstream.MsgIDHeader) == claim.MsgID, nil
}

// updatesBeginAfter reports whether no update is as old as a time. All times are the server's.
func (s *Store) updatesBeginAfter(ctx context.Context, t time.Time) (bool, error) {
	info, err := s.info(ctx, topology.StreamUpdates)
	if err != nil {
		return false, err
	}
	return info.State.Msgs == 0 && info.TimeStamp.After(t) || info.State.Msgs > 0 && info.State.FirstTime.After(t), nil
}

// resultsReachBack reports whether every result written since a time is still there: the stream existed then, and
// nothing as young has expired. All times are the server's.
func (s *Store) resultsReachBack(ctx context.Context, t time.Time) (bool, error) {
	info, err := s.info(ctx, topology.StreamResults)
	if err != nil {
		return false, err
	}
	if info.Created.After(t) {
		return false, nil
	}
	return info.State.FirstSeq <= 1 || info.State.Msgs > 0 && info.State.FirstTime.Before(t), nil
}
