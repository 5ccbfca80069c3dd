package journal

import (
	"context"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// follow watches for what becomes of the POSTs that former holders left without an answer: results, and records which
// say that the answer settled nothing, as a holder writes that gave its lease back in the middle of them. It ends by
// itself when none is open any more.
func (t *Tenure) follow(ctx context.Context, fence uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.open) == 0 {
		return
	}
	ctx, t.stop = context.WithCancel(context.WithoutCancel(ctx))
	results := Scan{Stream: topology.StreamResults, FromSeq: t.resultsFrom, HeadersOnly: true, Follow: true}
	t.work.Go(func() {
		t.watch(ctx, results, func(msg jetstream.Msg) {
			if k, ok := settledKey(msg); ok {
				t.mu.Lock()
				t.resultAppearedLocked(k)
				t.mu.Unlock()
			}
		})
	})
	writers := map[ledgerWriter]struct{}{}
	for _, o := range t.open {
		writers[o.writer] = struct{}{}
	}
	records := Scan{Stream: ledgerStream, FromSeq: fence + 1, Follow: true}
	for w := range writers {
		records.Filters = append(records.Filters, w.subjects())
	}
	t.work.Go(func() { t.watch(ctx, records, func(msg jetstream.Msg) { t.recordAppeared(ctx, msg) }) })
}

// watch reads a stream until ctx ends. A stream that cannot be read is tried again: until then the others wait for
// their time, not for a result.
func (t *Tenure) watch(ctx context.Context, scan Scan, take func(jetstream.Msg)) {
	for ctx.Err() == nil {
		for msg, err := range scan.Messages(ctx, t.js) {
			if err != nil {
				if ctx.Err() == nil {
					t.logger.Warn("answers to what former holders sent cannot be followed; it is tried again",
						slog.Int("partition", t.lease.Partition()), slog.Any("error", err))
				}
				break
			}
			if meta, err := msg.Metadata(); err == nil {
				scan.FromSeq = meta.Sequence.Stream + 1
			}
			take(msg)
		}
		pause(ctx, time.Second)
	}
}

// resultAppearedLocked notes that an update that was left open is settled.
func (t *Tenure) resultAppearedLocked(k key) {
	o := t.open[k]
	if o == nil || o.settled {
		return
	}
	o.settled = true
	close(o.resolved)
	t.stopIfResolvedLocked()
}

// recordAppeared takes over what a former holder wrote after we took over: the definite answers to its last POSTs.
func (t *Tenure) recordAppeared(ctx context.Context, msg jetstream.Msg) {
	batch, err := decodeBatch(msg.Data())
	if err != nil {
		return
	}
	for _, r := range batch.records {
		ticket := t.supersede(batch.number, r)
		if ticket == nil {
			continue
		}
		select {
		case err = <-ticket.done:
		case <-ctx.Done():
			return
		}
		if err != nil {
			t.logger.Warn("answer to what a former holder sent could not be taken over",
				slog.Uint64("update_seq", r.seq), slog.Any("error", err))
			continue
		}
		t.mu.Lock()
		t.dropOpenLocked(r.key)
		t.mu.Unlock()
	}
}

// supersede writes a former holder's later record as our own, unless we have begun to send that update ourselves.
func (t *Tenure) supersede(number uint64, r record) *ticket {
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.open[r.key]
	if r.state != stateIdle || o == nil || o.settled || o.taken || number <= o.number {
		return nil
	}
	ticket := &ticket{rec: r, done: make(chan error, 1)}
	if t.ledger.enqueue(ticket) != nil {
		return nil
	}
	return ticket
}

// dropOpenLocked ends the wait for a POST's answer: something later is known.
func (t *Tenure) dropOpenLocked(k key) {
	o := t.open[k]
	if o == nil {
		return
	}
	delete(t.open, k)
	if !o.settled {
		close(o.resolved)
	}
	t.stopIfResolvedLocked()
}

// stopIfResolvedLocked ends the following when there is nothing left to wait for.
func (t *Tenure) stopIfResolvedLocked() {
	for _, o := range t.open {
		if !o.settled {
			return
		}
	}
	t.stop()
}
