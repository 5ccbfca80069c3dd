package queue

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"kexrelay/internal/topology"
)

const (
	// maxWidth is how many updates are asked for at once: one by one, a successor on another machine would take a minute
	// for the 50,000 that a process may have held.
	maxWidth = 16
	// aheadShare is the part of a queue's share of the budget that as many answers may take at most.
	aheadShare = 2
	// maxDoublings is how often the time for an answer is doubled at most: to more than any connection's timeout.
	maxDoublings = 10
)

// ahead is what was read of the stream and is not handed over yet.
type ahead struct {
	updates []*storedUpdate // In stream order.
	// to is the sequence up to which there are no others, and ended says that there are none behind it either.
	to    uint64
	ended bool
	width int // How many were asked for.
	bytes int64
}

// keepAhead takes what was read in place of what was read before.
func (f *fetcher) keepAhead(next ahead) {
	f.q.budget.bytes.Add(next.bytes)
	f.q.budget.freed(f.ahead.bytes)
	f.ahead = next
}

// dropFirstAhead forgets the first update that was read, which was handed over: what it counted must not stand in the
// way of reading the next.
func (f *fetcher) dropFirstAhead() {
	size := f.ahead.updates[0].size()
	f.ahead.updates[0] = nil
	f.ahead.updates = f.ahead.updates[1:]
	f.ahead.bytes -= size
	f.q.budget.freed(size)
}

// storedUpdate is an update as the stream's leader gives it.
type storedUpdate struct {
	Subject string    `json:"subject"`
	Seq     uint64    `json:"seq"`
	Header  []byte    `json:"hdrs"`
	Data    []byte    `json:"data"`
	Time    time.Time `json:"time"`
}

// size is what an update takes with the answer that it came in.
func (u *storedUpdate) size() int64 { return answerSize(int64(len(u.Header) + len(u.Data))) }

// readAhead reads the first updates of what is unread.
func (f *fetcher) readAhead(ctx context.Context) error {
	// A leader that is gone is noticed soon, and a large update on a slow way has the connection's whole timeout.
	asking, cancel := context.WithTimeout(ctx, lookTimeout<<min(f.unanswered, maxDoublings))
	defer cancel()
	width := f.q.width(f.ahead.width)
	next := ahead{to: math.MaxUint64, ended: true, width: width}
	anyEnded := false
	for i, filter := range f.q.partitionFilters() {
		if i > 0 {
			width = 1 // What does not look like an update is rare.
		}
		updates, ended, err := f.q.storedFrom(asking, filter, f.unread.from, width)
		if err != nil {
			return err
		}
		if i == 0 && 2*len(updates) < width {
			next.width = max(width/4, 1) // Few of those asked for are there, or are this partition's; it doubles again.
		}
		if !ended {
			next.to, next.ended = min(next.to, updates[len(updates)-1].Seq), false
		}
		anyEnded = anyEnded || ended
		next.updates = append(next.updates, updates...)
	}
	if anyEnded && !next.ended && !f.confirmed {
		// The filters were asked one after the other: a leader that lagged may have caught up in between.
		next = ahead{ended: true, width: next.width}
	}
	slices.SortFunc(next.updates, func(a, b *storedUpdate) int { return cmp.Compare(a.Seq, b.Seq) })
	last := min(next.to, f.unread.to)
	next.updates = slices.DeleteFunc(next.updates, func(u *storedUpdate) bool { return u.Seq > last })
	if next.to > f.unread.to && !next.ended {
		next.to = f.unread.to
	}
	for _, u := range next.updates {
		next.bytes += u.size()
	}
	f.keepAhead(next)
	f.unanswered = 0
	return nil
}

// width is how many updates to ask for when as many were asked for before.
func (q *Queue) width(before int) int {
	most := min(maxWidth, q.budget.share()/aheadShare/answerSize(q.conn.nc.MaxPayload()))
	return int(max(min(int64(2*before), most), 1))
}

// storedFrom asks the stream's leader for the first updates from a sequence on with a subject, width at most, and says
// whether there are no more. It asks for what comes at or behind each of as many sequences, all at once: the answers
// overlap where updates are missing, and leave nothing out. A follower might not know all of them yet.
func (q *Queue) storedFrom(ctx context.Context, filter string, from uint64, width int) (updates []*storedUpdate, ended bool, err error) {
	answers := make([]*storedUpdate, width)
	group, asking := errgroup.WithContext(ctx)
	for i := range answers {
		group.Go(func() (err error) {
			answers[i], err = q.storedAt(asking, filter, from+uint64(i)) //nolint:gosec // G115: it counts up from 0.
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, false, err
	}
	for _, answer := range answers {
		switch {
		case answer == nil:
			return updates, true, nil
		case answer.Seq >= from:
			updates = append(updates, answer)
			from = answer.Seq + 1
		}
	}
	return updates, false, nil
}

// storedAt asks for the first update from a sequence on with a subject, nil if there is none.
func (q *Queue) storedAt(ctx context.Context, filter string, from uint64) (*storedUpdate, error) {
	request := struct {
		Seq     uint64 `json:"seq"`
		NextFor string `json:"next_by_subj"`
	}{from, filter}
	var answer struct {
		Message storedUpdate `json:"message"`
	}
	// Not asked twice at once, as questions are: an answer may be large.
	err := q.conn.call(ctx, "STREAM.MSG.GET."+topology.StreamUpdates, request, &answer)
	switch {
	case isAPI(err, jetstream.JSErrCodeMessageNotFound):
		return nil, nil //nolint:nilnil // None: the contract of this method.
	case err != nil:
		return nil, q.explain(err)
	}
	return &answer.Message, nil
}
