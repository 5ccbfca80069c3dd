package queue

import (
	"context"
	"log/slog"
	"time"
)

const (
	// strandedPause is the time between two looks for stranded updates: longer than a cluster takes to remove what
	// was acked. maxStrandedPause is what it grows to while fetching them again does not help.
	strandedPause    = 5 * time.Second
	maxStrandedPause = 5 * time.Minute
)

// watchStranded looks for updates that the consumer is done with and that are in the stream nevertheless, until ctx
// ends. A server whose disk is full cannot remove what is acked: it takes the ack, and forgets the removal. Nobody
// would ever see such an update again, and the stream would never be empty. Fetched and acked once more it leaves,
// as soon as the server can write: measured, after a full disk that is only when it was started again.
func (q *Queue) watchStranded(ctx context.Context) {
	w := strandedWatch{q: q, pause: q.strandedPause}
	for q.sleep(ctx, w.pause) == nil {
		looking, cancel := context.WithTimeout(ctx, lookTimeout)
		first, floor, err := q.findStranded(looking)
		cancel()
		if err == nil { // Else whoever fetches finds out by himself.
			w.found(first, floor)
		}
	}
}

// strandedWatch decides what to do about what was found.
type strandedWatch struct {
	q     *Queue
	pause time.Duration
	last  uint64 // What the last look found.
	tries int    // How often it was fetched again.
}

// found takes the oldest stranded update, 0 for none. Only what two looks find counts: a cluster removes what was
// acked a moment later.
func (w *strandedWatch) found(first, floor uint64) {
	attrs := []any{slog.Uint64("first_seq", first), slog.Uint64("ack_floor", floor)}
	switch {
	case first == 0:
		if w.q.stranded.Swap(0) != 0 {
			w.q.logger.Info("settled updates have left the stream after all")
		}
		w.last, w.tries, w.pause = 0, 0, w.q.strandedPause
		return
	case first != w.last:
		w.last = first
		return
	case w.tries == 0:
		w.q.logger.Warn("settled updates are still in the stream, and nobody would see them again: acking them again", attrs...)
	case w.tries == 1:
		w.q.logger.Error("settled updates cannot leave the stream, acking them again does not help: "+
			"if the disk of the nats-server was full, make room and start the server again", attrs...)
	}
	w.q.stranded.Store(first)
	w.last = 0
	w.tries++
	w.pause = min(2*w.pause, maxStrandedPause)
	w.q.readAgain.Store(&span{first, floor})
	w.q.Wake()
}

// findStranded is the oldest update of this partition that lies at or below the consumer's ack floor and is not held
// here, 0 if there is none.
func (q *Queue) findStranded(ctx context.Context) (first, floor uint64, err error) {
	info, err := q.info(ctx)
	if err != nil {
		return 0, 0, err
	}
	floor = info.AckFloor.Stream
	first, err = q.oldest(ctx)
	if err != nil || first > floor {
		return 0, floor, err
	}
	first = 0 // It may be another partition's.
	for _, filter := range filtersOf(info) {
		oldest, err := q.oldestUnheld(ctx, filter)
		if err != nil {
			return 0, floor, err
		}
		if oldest != nil && oldest.Seq <= floor && (first == 0 || oldest.Seq < first) {
			first = oldest.Seq
		}
	}
	return first, floor, nil
}

// oldestUnheld is the oldest update with a subject that is not held here, nil if there is none, or none among the first
// few. What is held and was read from the stream may lie below the ack floor; it leaves when it is settled.
func (q *Queue) oldestUnheld(ctx context.Context, filter string) (*storedUpdate, error) {
	const few = 8 // Each answer is a whole update.
	from := uint64(1)
	for range few {
		oldest, err := q.storedAt(ctx, filter, from)
		if err != nil || oldest == nil || !q.holds(oldest) {
			return oldest, err
		}
		from = oldest.Seq + 1
	}
	return nil, nil //nolint:nilnil // None: the contract of this method.
}

func (q *Queue) holds(stored *storedUpdate) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.held[stored.Seq]
	return d != nil && d.storedAt == stored.Time.UnixNano()
}
