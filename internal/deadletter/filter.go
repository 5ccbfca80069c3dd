package deadletter

import (
	"slices"
	"strings"
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
	// Statuses are ranges of the API's last status code, one of which it must be in. [NoAnswer] selects those to which
	// no answer came.
	Statuses []Range
	// TraceID selects by the trace ID of the update or of its last request.
	TraceID  string
	UpdateID string
	// Replays bounds how many replays the update has had, nil does not.
	Replays *Range
	// Text is what the detail must contain, in upper or lower case.
	Text string
	// Group is the ID of the [Fingerprint] it must have.
	Group string
	// Since and Until bound when they became dead letters.
	Since, Until time.Time
	// After and UpTo bound the sequences: those above After, and none above UpTo. With UpTo from [Store.LastSeq] a
	// selection is a snapshot: what comes later is not in it. 0 does not bound.
	After, UpTo uint64
	// Limit ends the list after so many; 0 means all.
	Limit int
}

// Range is the whole numbers from From to To, both included.
type Range struct{ From, To int }

// NoAnswer is the status of dead letters to which no answer came.
func NoAnswer() Range { return Range{} }

func (r Range) contains(n int) bool { return r.From <= n && n <= r.To }

// selects is the part of the filter that subjects and sequences cannot do. With both a sequence and a time to begin
// at, the reading began at the sequence.
func (f Filter) selects(s Summary) bool {
	return !s.StoredAt.Before(f.Since) &&
		(f.TraceID == "" || s.TraceID == f.TraceID || s.RequestID == f.TraceID) &&
		(f.UpdateID == "" || s.UpdateID == f.UpdateID) &&
		(f.Replays == nil || f.Replays.contains(s.Replays)) &&
		(len(f.Statuses) == 0 || slices.ContainsFunc(f.Statuses, func(r Range) bool { return r.contains(s.Status) })) &&
		(f.Text == "" || containsFold(s.Detail, f.Text)) &&
		(f.Group == "" || s.Fingerprint().ID() == f.Group)
}

func containsFold(text, part string) bool {
	return strings.Contains(strings.ToLower(text), strings.ToLower(part))
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
	if f.After > 0 {
		scan.FromSeq = f.After + 1
	}
	for _, reason := range reasons {
		for _, kind := range kinds {
			scan.Filters = append(scan.Filters, topology.DeadLetterSubject(reason, vorgang, kind))
		}
	}
	return scan, nil
}
