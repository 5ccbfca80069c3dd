package deadletter

import (
	"context"
	"iter"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// Filter selects dead letters. The zero value selects all; every member set narrows it.
type Filter struct {
	// Reasons, Kinds and Vorgangsnummer select by subject, on the server. update.NoVorgangsnummer selects those that
	// had no valid one.
	Reasons        []fault.Reason
	Kinds          []update.Kind
	Vorgangsnummer string
	// TraceID selects by the trace ID of the update or of its last request.
	TraceID  string
	UpdateID string
	// Since and Until bound when they became dead letters.
	Since, Until time.Time
	// Limit ends the list after so many; 0 means all.
	Limit int
}

// List gives the dead letters there are when it is called, oldest first, from their headers alone: it costs the same
// for any size of bodies, and memory for some hundred headers. An error ends it.
func (s *Store) List(ctx context.Context, f Filter) iter.Seq2[Summary, error] {
	return func(yield func(Summary, error) bool) {
		scan, err := f.scan()
		if err == nil {
			var last uint64
			last, err = s.lastSeq(ctx)
			scan.ToSeq = last
		}
		if err != nil {
			yield(Summary{}, err)
			return
		}
		if scan.ToSeq != 0 {
			s.list(ctx, scan, f)(yield)
		}
	}
}

func (s *Store) list(ctx context.Context, scan journal.Scan, f Filter) iter.Seq2[Summary, error] {
	return func(yield func(Summary, error) bool) {
		given := 0
		for msg, err := range scan.Messages(ctx, s.js) {
			if err != nil {
				yield(Summary{}, err)
				return
			}
			meta, err := msg.Metadata()
			if err != nil {
				yield(Summary{}, err)
				return
			}
			if !f.Until.IsZero() && meta.Timestamp.After(f.Until) {
				return
			}
			summary := summarize(msg.Subject(), msg.Headers(), meta.Sequence.Stream, meta.Timestamp, -1)
			if !f.selects(summary) {
				continue
			}
			if given++; !yield(summary, nil) || given == f.Limit {
				return
			}
		}
	}
}

// selects is the part of the filter that subjects cannot do.
func (f Filter) selects(s Summary) bool {
	return (f.TraceID == "" || s.TraceID == f.TraceID || s.RequestID == f.TraceID) &&
		(f.UpdateID == "" || s.UpdateID == f.UpdateID)
}

// scan builds the subject filters, of validated tokens only.
func (f Filter) scan() (journal.Scan, error) {
	vorgang, err := journal.VorgangToken(f.Vorgangsnummer)
	if err != nil {
		return journal.Scan{}, err
	}
	reasons, err := journal.Tokens("reason", f.Reasons, fault.DeadLetterReasons())
	if err != nil {
		return journal.Scan{}, err
	}
	kinds, err := journal.Tokens("kind", f.Kinds, append(update.Kinds(), update.Invalid))
	if err != nil {
		return journal.Scan{}, err
	}
	scan := journal.Scan{Stream: topology.StreamDeadLetters, FromTime: f.Since, HeadersOnly: true}
	for _, reason := range reasons {
		for _, kind := range kinds {
			scan.Filters = append(scan.Filters, topology.DeadLetterSubject(reason, vorgang, kind))
		}
	}
	return scan, nil
}

func (s *Store) lastSeq(ctx context.Context) (uint64, error) {
	info, err := s.info(ctx, topology.StreamDeadLetters)
	if err != nil {
		return 0, err
	}
	if info.State.Msgs == 0 {
		return 0, nil
	}
	return info.State.LastSeq, nil
}
