package journal

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// Results reads the result events. Use NewResults; its methods are safe for concurrent use.
type Results struct {
	js     jetstream.JetStream
	stream lazy[jetstream.Stream]
}

// NewResults makes a Results without a call.
func NewResults(js jetstream.JetStream) *Results { return &Results{js: js} }

// ResultFilter selects events. The zero value selects all; every member set narrows it.
type ResultFilter struct {
	// Since is when the first one was written. Zero means the oldest for List and now for Watch.
	Since time.Time
	// After, if not 0, is the sequence behind which Watch begins, instead of Since.
	After uint64
	// Until is when the last one was settled, zero for no end. Watch does not end by it.
	Until time.Time
	// Outcomes, Kinds and Vorgangsnummer select by subject, on the server. update.NoVorgangsnummer selects the
	// updates that had no valid one.
	Outcomes       []update.Outcome
	Kinds          []update.Kind
	Vorgangsnummer string
	// UpdateID selects the events of one publisher's ID, replays included.
	UpdateID string
	// TraceID selects by the trace ID of the update or of its last request.
	TraceID string
}

// List gives the events there are, oldest first, and ends. An error ends it too. Messages in the stream that are no
// result events are passed over.
func (r *Results) List(ctx context.Context, f ResultFilter) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		scan, err := f.scan()
		if err == nil {
			scan.FromTime = f.Since
			scan.ToSeq, err = r.lastSeq(ctx)
		}
		if err != nil {
			yield(Event{}, err)
			return
		}
		if scan.ToSeq != 0 {
			r.events(ctx, scan, f)(yield)
		}
	}
}

// Watch gives the events from Since or from now on until ctx ends, without gap and without repeat, also through
// reconnects. It ends with an error: ctx's cause, or why the stream cannot be read.
func (r *Results) Watch(ctx context.Context, f ResultFilter) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		scan, err := f.scan()
		scan.Follow = true
		switch {
		case err != nil:
		case f.After != 0:
			scan.FromSeq = f.After + 1
		case f.Since.IsZero():
			// By sequence, not by "new": a reader that has to begin again before its first event misses none.
			scan.FromSeq, err = r.lastSeq(ctx)
			scan.FromSeq++
		default:
			scan.FromTime = f.Since
		}
		if err != nil {
			yield(Event{}, err)
			return
		}
		r.events(ctx, scan, f)(yield)
	}
}

// At reads the event with a sequence in KEX_RESULTS. ErrNoEvent says that there is none.
func (r *Results) At(ctx context.Context, seq uint64) (Event, error) {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	stream, err := r.open(ctx)
	if err != nil {
		return Event{}, err
	}
	msg, err := stream.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Event{}, fmt.Errorf("reading result %d: %w", seq, ErrNoEvent)
	}
	if err != nil {
		return Event{}, Explain(fmt.Sprintf("reading result %d", seq), r.js, err)
	}
	return decodeEvent(msg.Data, seq)
}

// events decodes what a scan finds and passes on what the filter selects.
func (r *Results) events(ctx context.Context, scan Scan, f ResultFilter) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for msg, err := range scan.Messages(ctx, r.js) {
			if err != nil {
				yield(Event{}, err)
				return
			}
			if f.UpdateID != "" && msg.Headers().Get(topology.HeaderUpdateID) != f.UpdateID {
				continue
			}
			meta, err := msg.Metadata()
			if err != nil {
				yield(Event{}, err)
				return
			}
			event, err := decodeEvent(msg.Data(), meta.Sequence.Stream)
			if err != nil || !f.selects(event) {
				continue // Somebody else's message on our subject is not ours to fail about.
			}
			if !yield(event, nil) {
				return
			}
		}
	}
}

// selects is the part of the filter that subjects and headers cannot do.
func (f ResultFilter) selects(e Event) bool {
	return (f.Until.IsZero() || !e.Data.SettledAt.After(f.Until)) && (f.TraceID == "" || e.Data.TraceID == f.TraceID || e.Data.RequestID == f.TraceID)
}

// scan builds the subject filters, of validated tokens only.
func (f ResultFilter) scan() (Scan, error) {
	vorgang, err := VorgangToken(f.Vorgangsnummer)
	if err != nil {
		return Scan{}, err
	}
	outcomes, err := Tokens("outcome", f.Outcomes, update.Outcomes())
	if err != nil {
		return Scan{}, err
	}
	kinds, err := Tokens("kind", f.Kinds, append(update.Kinds(), update.Invalid))
	if err != nil {
		return Scan{}, err
	}
	scan := Scan{Stream: topology.StreamResults}
	for _, outcome := range outcomes {
		for _, kind := range kinds {
			scan.Filters = append(scan.Filters, topology.ResultSubject(outcome, vorgang, kind))
		}
	}
	return scan, nil
}

// VorgangToken checks a Vorgangsnummer for use in a subject filter; an empty one gives the wildcard.
func VorgangToken(vorgangsnummer string) (string, error) {
	switch vorgangsnummer {
	case "":
		return "*", nil
	case update.NoVorgangsnummer:
		return vorgangsnummer, nil
	}
	if _, _, err := update.ParseSubject(update.SubjectPrefix + vorgangsnummer + "." + string(update.Document)); err != nil {
		return "", fmt.Errorf("the Vorgangsnummer to filter by is not valid: %w", err)
	}
	return vorgangsnummer, nil
}

// Tokens checks members of a closed set (called what in the error) for use in a subject filter; none gives the wildcard, and each is
// taken once, because a consumer's filters must not overlap.
func Tokens[T ~string](what string, given, known []T) ([]T, error) {
	if len(given) == 0 {
		return []T{"*"}, nil
	}
	var out []T
	for _, token := range given {
		if !slices.Contains(known, token) {
			return nil, fmt.Errorf("the %s to filter by is not one of %s", what, join(known))
		}
		if !slices.Contains(out, token) {
			out = append(out, token)
		}
	}
	return out, nil
}

func join[T ~string](all []T) string {
	names := make([]string, len(all))
	for i, one := range all {
		names[i] = string(one)
	}
	return strings.Join(names, ", ")
}

//nolint:ireturn // jetstream has no other type for it.
func (r *Results) open(ctx context.Context) (jetstream.Stream, error) {
	return r.stream.open(func() (jetstream.Stream, error) {
		stream, err := r.js.Stream(ctx, topology.StreamResults)
		return stream, Explain("opening "+topology.StreamResults, r.js, err)
	})
}

func (r *Results) lastSeq(ctx context.Context) (uint64, error) {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	stream, err := r.open(ctx)
	if err != nil {
		return 0, err
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return 0, Explain("reading the state of "+topology.StreamResults, r.js, err)
	}
	return info.State.LastSeq, nil
}
