package deadletter

import (
	"context"
	"iter"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
)

// List gives the dead letters there are when it is called, oldest first, from their headers alone: it costs the same
// for any size of bodies, and memory for some hundred headers. An error ends it.
//
// Sequences only grow: who goes on with Filter.After behind the last one given misses none and gets none twice,
// whatever comes or goes meanwhile.
func (s *Store) List(ctx context.Context, f Filter) iter.Seq2[Summary, error] {
	return func(yield func(Summary, error) bool) {
		for letter, err := range s.letters(ctx, f) {
			if !yield(letter.Summary, err) {
				return
			}
		}
	}
}

// letters is List with the headers.
func (s *Store) letters(ctx context.Context, f Filter) iter.Seq2[listed, error] {
	return func(yield func(listed, error) bool) {
		scan, err := f.scan()
		if err == nil {
			scan.ToSeq, err = s.LastSeq(ctx)
		}
		if err != nil {
			yield(listed{}, err)
			return
		}
		if f.UpTo != 0 {
			scan.ToSeq = min(scan.ToSeq, f.UpTo)
		}
		if scan.ToSeq > f.After {
			s.list(ctx, scan, f)(yield)
		}
	}
}

// listed is a dead letter with its headers.
type listed struct {
	Summary

	header nats.Header
}

func (s *Store) list(ctx context.Context, scan journal.Scan, f Filter) iter.Seq2[listed, error] {
	return func(yield func(listed, error) bool) {
		given := 0
		for msg, err := range scan.Messages(ctx, s.js) {
			letter := listed{}
			if err == nil {
				letter, err = listedOf(msg)
			}
			if err != nil {
				yield(listed{}, err)
				return
			}
			if !f.Until.IsZero() && letter.StoredAt.After(f.Until) {
				return
			}
			if !f.selects(letter.Summary) {
				continue
			}
			if given++; !yield(letter, nil) || given == f.Limit {
				return
			}
		}
	}
}

func listedOf(msg jetstream.Msg) (listed, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return listed{}, err
	}
	return listed{
		Summary: summarize(msg.Subject(), msg.Headers(), meta.Sequence.Stream, meta.Timestamp, -1),
		header:  msg.Headers(),
	}, nil
}

// LastSeq is the sequence of the newest dead letter there is or was, 0 if there is none now: the upper end of a
// snapshot (see Filter.UpTo).
func (s *Store) LastSeq(ctx context.Context) (uint64, error) {
	info, err := s.info(ctx, topology.StreamDeadLetters)
	if err != nil {
		return 0, err
	}
	if info.State.Msgs == 0 {
		return 0, nil
	}
	return info.State.LastSeq, nil
}
