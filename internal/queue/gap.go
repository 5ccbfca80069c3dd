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
	// maxDoublings is how often the time for an answer is doubled at most: to more than any connection's timeout.
	maxDoublings = 10
)

// span is a stretch of the stream by sequences, both ends included. The zero value is none.
type span struct{ from, to uint64 }

func (s span) empty() bool { return s.to == 0 || s.from > s.to }

// gap is what must be read from the stream before a delivery may be handed over, so that no update overtakes an older
// one: whatever was delivered since the last one taken, but not here.
func (q *Queue) gap(meta ackMeta) span {
	q.mu.Lock()
	defer q.mu.Unlock()
	if meta.consumerSeq == q.last+1 || meta.streamSeq <= q.seen+1 {
		return span{}
	}
	return span{q.seen + 1, meta.streamSeq - 1}
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
	f.unread, f.ahead = s, nil
}

// readOn reads some of what is unread, if there is room for it, and says when to look again.
func (f *fetcher) readOn(ctx context.Context) (time.Time, error) {
	now := time.Now()
	state := f.mayFetch()
	f.q.state.Store(state)
	if state != StateFetching {
		return f.holdPin(now)
	}
	for n := 0; n < readBatch && !f.unread.empty(); n++ {
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

// readNext reads the next update of what is unread, and hands it over.
func (f *fetcher) readNext(ctx context.Context) error {
	// A leader that is gone is noticed soon, and a large update on a slow way has the connection's whole timeout.
	asking, cancel := context.WithTimeout(ctx, lookTimeout<<min(f.unanswered, maxDoublings))
	next, err := f.nextStored(asking)
	cancel()
	if err != nil {
		return err
	}
	f.unanswered = 0
	if next == nil {
		return f.endOfSpan(ctx)
	}
	if err := f.handOverStored(next); err != nil {
		return err
	}
	if f.unread.from = next.Seq + 1; f.unread.empty() {
		f.bridged()
	}
	return nil
}

// bridged notes that what was unread is handed over.
func (f *fetcher) bridged() {
	f.q.mu.Lock()
	f.q.seen = max(f.q.seen, f.unread.to)
	f.q.mu.Unlock()
	f.unread, f.ahead, f.stale = span{}, nil, time.Time{}
}

// endOfSpan ends the reading when there is nothing more up to the span's end, if the answer can be trusted: one that
// does not know the span's end comes from a leader that its cluster has left behind, or is just electing another for.
func (f *fetcher) endOfSpan(ctx context.Context) error {
	info, err := question[jetstream.StreamInfo](ctx, f.q.conn, "STREAM.INFO."+topology.StreamUpdates, nil)
	if err != nil {
		return f.q.explain(err)
	}
	if last := info.State.LastSeq; last < f.unread.to {
		now := time.Now()
		if f.stale.IsZero() {
			f.stale = now
		}
		if now.Sub(f.stale) < stalePatience {
			f.ahead = nil
			f.retryAt = now.Add(lookPause)
			f.trouble(fmt.Errorf("the stream ends at %d, its consumer has delivered %d", last, f.unread.to))
			return nil
		}
		f.q.logger.Warn("the stream ends before what its consumer has delivered: NATS has lost what is missing, or an operator removed it",
			slog.Uint64("last_seq", last), slog.Uint64("delivered_seq", f.unread.to))
		f.unread.to = last
	}
	f.bridged()
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
	whole := answerSize(int64(len(stored.Header) + len(stored.Data)))
	f.q.budget.bytes.Add(whole)
	defer f.q.budget.freed(whole)
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
	f.ahead = nil
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
		if f.mustRead(f.q.gap(meta), gapped); !f.unread.empty() {
			return nil
		}
		f.kept[0] = nil
		f.kept = f.kept[1:]
		if err := f.handOver(meta, m); err != nil {
			return err
		}
	}
	f.kept = nil
	return nil
}

// storedUpdate is an update as the stream's leader gives it.
type storedUpdate struct {
	Subject string    `json:"subject"`
	Seq     uint64    `json:"seq"`
	Header  []byte    `json:"hdrs"`
	Data    []byte    `json:"data"`
	Time    time.Time `json:"time"`
}

// cursor goes through the updates of one of the consumer's filters.
type cursor struct {
	filter string
	// next is the next one, read and not handed over yet; nil with ended false if it is not known.
	next  *storedUpdate
	ended bool
}

// nextStored gives the next update of this partition that is unread, nil if there is none.
func (f *fetcher) nextStored(ctx context.Context) (*storedUpdate, error) {
	if f.ahead == nil {
		for _, filter := range f.q.partitionFilters() {
			f.ahead = append(f.ahead, cursor{filter: filter})
		}
	}
	var first *cursor
	for i := range f.ahead {
		c := &f.ahead[i]
		if c.next == nil && !c.ended {
			next, err := f.q.storedFrom(ctx, c.filter, f.unread.from)
			if err != nil {
				return nil, err
			}
			c.next, c.ended = next, next == nil || next.Seq > f.unread.to
		}
		if !c.ended && (first == nil || c.next.Seq < first.next.Seq) {
			first = c
		}
	}
	if first == nil {
		f.ahead = nil
		return nil, nil //nolint:nilnil // None: the contract of this method.
	}
	next := first.next
	first.next = nil
	return next, nil
}

// storedFrom asks the stream's leader for the first update from a sequence on with a subject, nil if there is none: a
// follower might not know it yet.
func (q *Queue) storedFrom(ctx context.Context, filter string, from uint64) (*storedUpdate, error) {
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
