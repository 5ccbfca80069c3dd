package relay

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// read gives an update with its body, and the replay that it is, if any. While NATS does not give it, sending is held
// as when it takes nothing: so it shows. update.ErrRemoved says that the update is gone; any other error is an
// interruption.
func (r *Relay) read(ctx context.Context, it *item) (update.Message, error) {
	var m update.Message
	var removed error
	_, err := r.persist(ctx, func(ctx context.Context) (err error) {
		if lost(it.tenure) {
			return &fault.Error{Kind: fault.Interrupted, Detail: "not read: the right to send is lost"}
		}
		m, err = it.delivery.Message(ctx)
		if errors.Is(err, update.ErrRemoved) {
			removed = err
			return nil
		}
		if err == nil {
			m.Replay, err = r.deps.Claims.Lookup(ctx, m.Header)
		}
		return err
	})
	return m, errors.Join(err, removed)
}

// removalsPause is how long removed updates are gathered for one line.
const removalsPause = time.Second

// removals tells of updates that were removed from the stream while they were held: a purge removes thousands.
type removals struct {
	mu          sync.Mutex
	n           int
	first, last uint64
}

// add counts one and reports whether it is the first that was not told yet.
func (r *removals) add(seq uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n++; r.n == 1 {
		r.first, r.last = seq, seq
		return true
	}
	r.first, r.last = min(r.first, seq), max(r.last, seq)
	return false
}

// tell logs what has gathered.
func (r *removals) tell(logger *slog.Logger) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n > 0 {
		logger.Warn("updates were removed from the stream while they were held",
			slog.Int("updates", r.n), slog.Uint64("first_seq", r.first), slog.Uint64("last_seq", r.last))
	}
	r.n = 0
}

// removed notes an update that is not in the stream any more.
func (r *Relay) removed(stop context.Context, seq uint64) {
	if !r.removals.add(seq) {
		return
	}
	r.waits.Go(func() {
		timer := time.NewTimer(removalsPause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-stop.Done():
		}
		r.removals.tell(r.deps.Logger)
	})
}
