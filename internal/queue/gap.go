package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

const (
	// readBatch is how many updates are read before looking at anything else.
	readBatch = 32
	// stalePatience is how long an answer is mistrusted that knows less of the stream than its consumer does: a leader
	// that was cut off from its cluster takes as long to notice.
	stalePatience = 20 * time.Second
)

// span is a stretch of the stream by sequences, both ends included. The zero value is none.
type span struct{ from, to uint64 }

func (s span) empty() bool { return s.to == 0 || s.from > s.to }

// gap is what must be read from the stream before a delivery may be handed over, so that no update overtakes an older
// one, and whether there is a hole before it: something was delivered since the last one that is known, but not here.
// What is in the hole may be younger than the delivery that tells of it, which may have come before.
func (q *Queue) gap(meta ackMeta) (before span, hole bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if meta.consumerSeq == q.last+1 {
		return span{}, false
	}
	return span{q.seen + 1, meta.streamSeq - 1}, true
}

// missed is what the consumer has delivered, as it says, and what has not come here. From here on deliveries follow its
// last one.
func (q *Queue) missed(info *jetstream.ConsumerInfo) span {
	q.mu.Lock()
	defer q.mu.Unlock()
	if info.Delivered.Consumer == q.last {
		return span{}
	}
	q.last = info.Delivered.Consumer
	return span{q.seen + 1, info.Delivered.Stream}
}

// fillHole asks what the consumer has delivered, so that what is in the hole, be it younger than the delivery that told
// of it, is read before anything else is handed over. Until there is an answer, nothing is taken to follow.
func (f *fetcher) fillHole(ctx context.Context) error {
	info, err := f.look(ctx)
	if info == nil {
		return err
	}
	if err := f.drain(inboxSize); err != nil {
		return err
	}
	f.hole = false
	if f.pinned(info) {
		f.behindKept = max(f.behindKept, f.q.missed(info).to)
	}
	if f.unread.empty() {
		f.readBehindKept()
	}
	return nil
}

// readBehindKept makes be read what of the hole was not among those kept.
func (f *fetcher) readBehindKept() {
	f.q.mu.Lock()
	rest := span{f.q.seen + 1, f.behindKept}
	f.q.mu.Unlock()
	f.behindKept = 0
	f.mustRead(rest, gapped)
}

// left is what a next Run must begin with reading: what is unread, and what was kept, which ends with this one.
func (f *fetcher) left() span {
	to := max(f.unread.to, f.behindKept)
	for _, m := range f.kept {
		meta, _ := parseAck(m.Reply) // It was read before.
		to = max(to, meta.streamSeq)
	}
	f.q.mu.Lock()
	defer f.q.mu.Unlock()
	if f.unread.empty() {
		return span{f.q.seen + 1, to}
	}
	return span{f.unread.from, to}
}

// mustRead makes a stretch of the stream be read before anything else is handed over.
func (f *fetcher) mustRead(s span, why string) {
	if s.empty() {
		return
	}
	f.q.logger.Info("reading updates from the stream", slog.String("because", why),
		slog.Uint64("from_seq", s.from), slog.Uint64("to_seq", s.to))
	f.q.mu.Lock()
	f.q.catchUps++
	f.q.mu.Unlock()
	if !f.unread.empty() {
		s = span{min(s.from, f.unread.from), max(s.to, f.unread.to)}
	}
	f.keepAhead(ahead{})
	f.unread, f.confirmed = s, false
}

// readOn reads some of what is unread, if there is room for it, and says when to look again.
func (f *fetcher) readOn(ctx context.Context) (time.Time, error) {
	now := time.Now()
	state := f.mayFetch()
	f.q.state.Store(state)
	most := readBatch
	if state == StateFull { // What was read is in memory, and takes less when it is handed over.
		most = len(f.ahead.updates)
	}
	if state == StateBusy || most == 0 {
		return f.holdPin(now)
	}
	for n := 0; n < most && !f.unread.empty(); n++ {
		if err := f.readNext(ctx); err != nil {
			return now, f.readFailed(err)
		}
		if now.Before(f.retryAt) {
			return f.retryAt, nil
		}
	}
	if f.unread.empty() {
		return now, f.handOverKept()
	}
	if f.pin != "" && now.Sub(f.pinPull) >= min(pinInterval, f.q.pullExpiry) {
		if _, err := f.keepPin(now); err != nil {
			return now, err
		}
	}
	return now, nil
}

// readNext hands over the next update of what is unread, and reads it before if it was not read yet.
func (f *fetcher) readNext(ctx context.Context) error {
	if f.ahead.to < f.unread.from {
		if err := f.readAhead(ctx); err != nil {
			return err
		}
	}
	switch {
	case len(f.ahead.updates) > 0:
		next := f.ahead.updates[0]
		if err := f.handOverStored(next); err != nil {
			return err
		}
		f.unread.from = next.Seq + 1
		f.dropFirstAhead()
	case f.ahead.ended:
		return f.endOfSpan(ctx)
	default: // The next one is behind the span.
		f.unread.from = f.ahead.to + 1
	}
	if f.unread.empty() {
		f.bridged()
	}
	return nil
}

// bridged notes that what was unread is handed over.
func (f *fetcher) bridged() {
	f.q.mu.Lock()
	f.q.seen = max(f.q.seen, f.unread.to)
	f.q.mu.Unlock()
	f.keepAhead(ahead{})
	f.unread, f.stale, f.confirmed = span{}, time.Time{}, false
}

// endOfSpan ends the reading when there is nothing more up to the span's end, if the answer can be trusted: one that
// does not know the span's end comes from a leader that its cluster has left behind, or is just electing another for.
// The one that does is asked once more.
func (f *fetcher) endOfSpan(ctx context.Context) error {
	if f.confirmed {
		f.bridged()
		return nil
	}
	info, err := question[jetstream.StreamInfo](ctx, f.q.conn, "STREAM.INFO."+topology.StreamUpdates, nil)
	if err != nil {
		return f.q.explain(err)
	}
	f.keepAhead(ahead{width: f.ahead.width})
	last, now := info.State.LastSeq, time.Now()
	switch {
	case last >= f.unread.to:
		f.confirmed, f.stale = true, time.Time{}
		return nil
	case f.stale.IsZero():
		f.stale = now
	}
	if now.Sub(f.stale) < stalePatience {
		f.retryAt = now.Add(lookPause)
		f.trouble(fmt.Errorf("the stream ends at %d, its consumer has delivered %d", last, f.unread.to))
		return nil
	}
	f.q.logger.Warn("the stream ends before what its consumer has delivered: NATS has lost what is missing, or an operator removed it",
		slog.Uint64("last_seq", last), slog.Uint64("delivered_seq", f.unread.to))
	if f.unread.to = last; f.unread.empty() {
		f.bridged()
	}
	return nil
}

// handOverStored takes an update that was read. Its ack handle is made here: the consumer holds it to be delivered
// already, to a process that is gone, and takes an ack or a heartbeat by the sequence alone. It does not know an update
// yet that a killed server has forgotten to have delivered; that one comes again, and its handle is replaced.
func (f *fetcher) handOverStored(stored *storedUpdate) error {
	header, err := nats.DecodeHeadersMsg(stored.Header)
	if err != nil {
		header = nil // As on delivery, headers that cannot be read are none.
	}
	meta := ackMeta{streamSeq: stored.Seq, storedAt: stored.Time.UnixNano()}
	if f.q.stranger(meta) {
		return rewound(meta)
	}
	return f.handOver(meta, &nats.Msg{Subject: stored.Subject, Reply: f.q.ackHandle(meta), Header: header, Data: stored.Data})
}

// ackHandle makes the handle by which an update is acked that was not delivered here.
func (q *Queue) ackHandle(meta ackMeta) string {
	return ackPrefix + topology.StreamUpdates + "." + q.consumer + ".1." + strconv.FormatUint(meta.streamSeq, 10) + ".1." +
		strconv.FormatInt(meta.storedAt, 10) + ".0"
}

// readFailed waits for an answer. What else there is to know, verify finds out.
func (f *fetcher) readFailed(err error) error {
	switch {
	case errors.Is(err, ErrConsumerGone):
		f.mustCheck = true
	case !transient(err):
		return err
	}
	f.keepAhead(ahead{})
	f.unanswered++
	f.retryAt = time.Now().Add(lookPause)
	f.trouble(err)
	return nil
}

// handOverKept hands over what was delivered while older updates were being read, up to where more must be read.
func (f *fetcher) handOverKept() error {
	for len(f.kept) > 0 {
		m := f.kept[0]
		meta, _ := parseAck(m.Reply) // It was read before.
		before, hole := f.q.gap(meta)
		f.hole = f.hole || hole
		if !before.empty() { // All of the hole at once: others of those kept may have gaps before them too.
			before.to = max(before.to, f.behindKept)
			f.behindKept = 0
			f.mustRead(before, gapped)
			return nil
		}
		f.kept[0] = nil
		f.kept = f.kept[1:]
		if err := f.handOver(meta, m); err != nil {
			return err
		}
	}
	f.kept = nil
	f.readBehindKept()
	return nil
}

// filtersOf are the stored subjects of a consumer's updates.
func filtersOf(info *jetstream.ConsumerInfo) []string {
	switch config := info.Config; {
	case len(config.FilterSubjects) > 0:
		return config.FilterSubjects
	case config.FilterSubject != "":
		return []string{config.FilterSubject}
	}
	return []string{">"}
}

func (q *Queue) partitionFilters() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.filters
}
