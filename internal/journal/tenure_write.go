package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// Opening writes down that an update is about to be decoded, and returns when that is acknowledged. It is for updates
// at or below the bound, so that one that kills its decoder is counted. If [update.Past] says Left, wait for that
// first, and count an outcome that stays unknown in rec.
//
// The error is a *fault.Error as from TakeOver: the update must not be decoded.
func (t *Tenure) Opening(ctx context.Context, rec update.Attempt) error {
	r := recordOf(rec, stateOpening)
	if last, ok := t.ledger.last(r.key); ok && last.left() && r.unknowns <= last.unknowns {
		// Nobody must forget that POST for having looked at the update.
		r.state = stateReopening
		r.timeoutMs = max(r.timeoutMs, last.timeoutMs)
	}
	return t.write(ctx, r)
}

// Sending writes down that an update is about to be sent, and returns when that is acknowledged. Call it before every
// POST, with everything else in hand, and ask Held after it.
//
// The error is a *fault.Error as from TakeOver: the POST must not be made.
func (t *Tenure) Sending(ctx context.Context, rec update.Attempt) error {
	return t.write(ctx, recordOf(rec, stateSending))
}

// write keeps a record. A lease that ends meanwhile is told as soon as it is known to; the check that counts is the
// caller's, after it: asking the clock at each step would cost more than the rest of this.
func (t *Tenure) write(ctx context.Context, r record) error {
	select {
	case <-t.lease.Lost():
		return t.fault(ctx, r.seq, ErrLeaseLost)
	default:
	}
	t.mu.Lock()
	if o := t.open[r.key]; o != nil {
		o.taken = true
	}
	t.mu.Unlock()
	if err := t.ledger.store(ctx, r, t.lease.Lost()); err != nil {
		return t.fault(ctx, r.seq, err)
	}
	if r.state == stateSending { // Our own record has taken the other's place.
		t.mu.Lock()
		t.dropOpenLocked(r.key)
		t.mu.Unlock()
	}
	return nil
}

func (t *Tenure) fault(ctx context.Context, seq uint64, err error) error {
	doing := fmt.Sprintf("recording update %d before it is sent", seq)
	if errors.Is(err, ErrLeaseLost) || errors.Is(err, errLedgerClosed) || errors.Is(err, errTenureOver) {
		return &fault.Error{Kind: fault.Interrupted, Err: fmt.Errorf("%s: %w", doing, err)}
	}
	return storageFault(ctx, doing, err)
}

// Answered writes down that the last POST had a definite answer that does not settle the update. Nobody waits for it:
// it goes out with the next records, and is repeated until it is stored or superseded, also after the lease is lost.
func (t *Tenure) Answered(rec update.Attempt) {
	_ = t.ledger.enqueue(&ticket{rec: recordOf(rec, stateIdle)}) // Closed: nobody is interested any more.
}

// Settled says that an update's result is acknowledged: none of its records is needed any more.
func (t *Tenure) Settled(seq uint64, storedAt time.Time) {
	k := keyOf(seq, storedAt)
	t.mu.Lock()
	t.dropOpenLocked(k)
	delete(t.carried, k)
	t.mu.Unlock()
	t.ledger.settled(k)
}
