package journal

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// answerGrace is how long after a record's timeout its result may still appear: the time to publish it.
const answerGrace = 5 * time.Second

// TenureConfig is what a Tenure is made with.
type TenureConfig struct {
	Logger *slog.Logger
	// PublishTimeout is how long one write of records waits for its PubAck; 0 means 2 s.
	PublishTimeout time.Duration
	// Patience is how long a write that may go through by itself is repeated; 0 means 5 s.
	Patience time.Duration
	// OnAnswer, if not nil, hears what became of each write of records.
	OnAnswer OnAnswer

	catchUp time.Duration // How long a stream that seems to lag is waited for; 0 means lagPatience.
}

// Tenure is one holder's time on one partition: what it found when it took over, and what it writes down so that the
// next one finds it. Use TakeOver; its methods are safe for concurrent use.
type Tenure struct {
	js     jetstream.JetStream
	lease  *Lease
	logger *slog.Logger
	lag    time.Duration
	ledger *ledger
	stop   context.CancelFunc // Ends the following.
	work   sync.WaitGroup
	bound  uint64 // Constant once taken over.
	// resultsFrom is the first result, by its sequence, that was not there yet when the partition was taken over.
	resultsFrom uint64

	mu      sync.Mutex
	settled settledSet
	carried map[key]record    // What was taken over from former holders.
	open    map[key]*leftOpen // Of these, the POSTs that may still be answered.
}

// leftOpen is a POST of another process that may still be answered.
type leftOpen struct {
	writer   ledgerWriter
	number   uint64
	own      bool // It is this very process's.
	until    time.Time
	resolved chan struct{}
	settled  bool // Its result appeared.
	taken    bool // Our own record of it is on its way, or there.
}

// TakeOver reads what former holders of a partition left behind. Call it once per lease, after the consumer was taken over
// and before anything is sent; end it with Close.
//
// It carries the records of former holders that still matter over into its own part of the ledger, and only then
// removes them: at no time is there none. POSTs that were left without an answer are followed: see [update.Past].
//
// The error is a *fault.Error: Systemic with reason storage if NATS refused or did not answer, Interrupted if ctx ended
// or the lease was lost (ErrLeaseLost).
func TakeOver(ctx context.Context, js jetstream.JetStream, lease *Lease, cfg TenureConfig) (*Tenure, error) {
	outer := ctx
	ctx, cancel := whileHeld(ctx, lease)
	defer cancel()
	doing := fmt.Sprintf("taking over partition %d", lease.Partition())
	kv, err := topology.Ask(ctx, func(ctx context.Context) (jetstream.KeyValue, error) { return js.KeyValue(ctx, topology.BucketLedger) })
	if err != nil {
		return nil, storageFault(ctx, doing, Explain("opening the bucket "+topology.BucketLedger, js, err))
	}
	writer := ledgerWriter{partition: lease.Partition(), epoch: lease.Epoch(), id: randomID()}
	t := &Tenure{
		js: js, lease: lease, logger: cfg.Logger, lag: cmp.Or(cfg.catchUp, lagPatience),
		ledger: newLedger(outer, permitted(js, kv, cfg.OnAnswer), writer, lease.leases.process, PublisherConfig{Timeout: cfg.PublishTimeout, Patience: cfg.Patience}),
		stop:   func() {}, carried: map[key]record{}, open: map[key]*leftOpen{},
	}
	t.ledger.takingOver = true
	if err := t.takeOver(ctx, outer); err != nil {
		gone, cancel := context.WithCancel(ctx)
		cancel() // Nothing is worth waiting for.
		_ = t.Close(gone)
		return nil, storageFault(ctx, doing, err)
	}
	return t, nil
}

// permitted is the bucket's Put, with an error that says when the right to it is missing.
func permitted(js jetstream.JetStream, kv jetstream.KeyValue, onAnswer OnAnswer) putFunc {
	return func(ctx context.Context, key string, value []byte) (uint64, error) {
		revision, err := kv.Put(ctx, key, value)
		onAnswer.tell("writing to "+topology.BucketLedger, err)
		return revision, withDenial(js.Conn(), ledgerPrefix+key, err)
	}
}

// whileHeld is a context that ends with the lease.
func whileHeld(ctx context.Context, lease *Lease) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-lease.Lost():
			cancel(ErrLeaseLost)
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		cancel(context.Canceled)
		watch.Wait()
	}
}

// takeOver does the steps in the order that they depend on: the bound before the ledger, the ledger before the
// results, so that who settled meanwhile is seen, and removal last.
func (t *Tenure) takeOver(ctx, outer context.Context) error {
	state, err := t.updatesState(ctx)
	if err != nil {
		return err
	}
	fence, err := t.ledger.fence(ctx)
	if err != nil {
		return err
	}
	left, err := readLedger(ctx, t.js, t.ledger.writer, t.ledger.proc, fence, t.logger)
	if err != nil {
		return err
	}
	if state, err = t.catchUp(ctx, state, left); err != nil {
		return err
	}
	if err := t.read(ctx, state); err != nil {
		return err
	}
	if err := t.carryOver(ctx, left, state); err != nil {
		return err
	}
	t.ledger.takenOver()
	t.follow(outer, fence)
	if err := purgeWriters(ctx, t.js, left.writers, fence); err != nil {
		// They are carried over: left behind they only cost the next one time.
		t.logger.Warn("records of former holders could not be removed",
			slog.Int("partition", t.lease.Partition()), slog.Any("error", err))
	}
	return nil
}

// updatesState is KEX_UPDATES as its leader knows it.
type updatesState struct {
	first, last uint64
	// firstAt is when the oldest waiting update was stored; zero if none waits.
	firstAt time.Time
	created time.Time
	now     time.Time // The leader's clock.
	// subjects are those of all that waits, nil if they are too many to name.
	subjects []string
}

func (t *Tenure) updatesState(ctx context.Context) (updatesState, error) {
	ctx, cancel := context.WithTimeout(ctx, electionTimeout)
	defer cancel()
	stream, err := topology.Ask(ctx, func(ctx context.Context) (jetstream.Stream, error) { return t.js.Stream(ctx, topology.StreamUpdates) })
	if err != nil {
		return updatesState{}, Explain("reading the end of "+topology.StreamUpdates, t.js, err)
	}
	info := stream.CachedInfo()
	if info.State.Msgs > 0 && info.State.NumSubjects <= maxNamed {
		// Asked again together with the subjects: what is known of them must not be older than the bound.
		if info, err = stream.Info(ctx, jetstream.WithSubjectFilter(">")); err != nil {
			return updatesState{}, Explain("reading what waits in "+topology.StreamUpdates, t.js, err)
		}
	}
	state := updatesState{
		first: info.State.FirstSeq, last: info.State.LastSeq, created: info.Created, now: info.TimeStamp,
		subjects: slices.Collect(maps.Keys(info.State.Subjects)),
	}
	if info.State.Msgs > 0 {
		state.firstAt = info.State.FirstTime
	}
	return state, nil
}

// catchUp asks again while the ledger has records of updates that the stream is said not to have: the one that answers
// may not be the leader any more and not know it yet. Records of an earlier stream of that name are no reason, and a
// stream that was restored from a backup is believed after a while.
func (t *Tenure) catchUp(ctx context.Context, state updatesState, left leftovers) (updatesState, error) {
	for until := time.Now().Add(t.lag); left.beyond(state) && time.Now().Before(until) && ctx.Err() == nil; {
		pause(ctx, lagPause)
		now, err := t.updatesState(ctx)
		if err != nil {
			return state, err
		}
		state = now
	}
	return state, nil
}

// beyond reports whether there is a record of an update that the stream has not got yet.
func (l *leftovers) beyond(state updatesState) bool {
	for k := range l.records {
		if k.seq > state.last && k.at >= state.created.UnixNano() {
			return true
		}
	}
	return false
}

// read reads which updates up to the stream's end are settled.
func (t *Tenure) read(ctx context.Context, state updatesState) error {
	t.bound = state.last
	if state.firstAt.IsZero() {
		return nil
	}
	results := newResultsReader(t.js)
	asking, done := context.WithTimeout(ctx, electionTimeout)
	defer done()
	end, err := topology.Ask(asking, results.askEnd)
	if err != nil {
		return err
	}
	from := state.firstAt.Add(-clockSlack - max(0, state.now.Sub(end.now)))
	hashes, err := results.settled(ctx, resultsRange{fromTime: from, filters: resultFilters(state.subjects, end)}, end, state.last)
	if err != nil {
		return err
	}
	t.resultsFrom = end.next
	t.settled.add(hashes)
	return nil
}

// carryOver writes what still matters of former holders' records into one's own part of the ledger.
func (t *Tenure) carryOver(ctx context.Context, left leftovers, state updatesState) error {
	var tickets []*ticket
	t.mu.Lock()
	for k, f := range left.records {
		if k.seq < state.first || k.seq > state.last || t.settled.has(k) {
			continue
		}
		r := f.record
		if !f.own && !r.carried && (r.left() || r.opened()) {
			r.crashes, r.carried = bounded(r.crashes+1), true
		}
		t.carried[k] = r
		if r.left() {
			t.open[k] = &leftOpen{
				writer: f.writer, number: f.number, own: f.own,
				until: t.lease.takenAt.Add(r.timeout() + answerGrace), resolved: make(chan struct{}),
			}
		}
		tickets = append(tickets, &ticket{rec: r, done: make(chan error, 1)})
	}
	t.mu.Unlock()
	if len(tickets) == 0 {
		return nil
	}
	if err := t.ledger.enqueue(tickets...); err != nil {
		return err
	}
	for _, ticket := range tickets {
		select {
		case err := <-ticket.done:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	t.logger.Info("records of former holders taken over", slog.Int("partition", t.lease.Partition()),
		slog.Int("records", len(tickets)), slog.Int("unanswered", len(t.open)))
	return nil
}

// Bound is the stream's last sequence when the tenure began: what lies above it was never sent by anybody else. It stays
// for the whole tenure, also through reconnects: above it only this tenure has sent, and what it has settled there it
// remembers. When something comes again that it does not remember, the queue ends the fetching, and so the tenure.
func (t *Tenure) Bound() uint64 { return t.bound }

// Held reports whether the right to send still stands; see [Lease.Held].
func (t *Tenure) Held() bool { return t.lease.Held() }

// Lost is closed when the right to send is over; see [Lease.Lost].
func (t *Tenure) Lost() <-chan struct{} { return t.lease.Lost() }

// Past tells what is known from before about an update; nothing above the bound. It makes no call.
func (t *Tenure) Past(seq uint64, storedAt time.Time) update.Past {
	if seq > t.bound {
		return update.Past{}
	}
	return t.Known(seq, storedAt)
}

// Known is Past, also of what this tenure itself has sent above the bound and not settled. It makes no call.
func (t *Tenure) Known(seq uint64, storedAt time.Time) update.Past {
	k := keyOf(seq, storedAt)
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.open[k]
	if t.settled.has(k) || o != nil && o.settled {
		return update.Past{Settled: true}
	}
	r, ok := t.ledger.last(k)
	if !ok {
		return update.Past{}
	}
	past := update.Past{
		Attempts: r.attempts, Unknowns: r.unknowns, Crashes: r.crashes, RequestID: r.requestID,
		Left: r.left(), Opened: r.opened(), Own: !r.carried && (r.left() || r.opened()),
	}
	switch {
	case past.Left && o != nil:
		past.Until, past.Resolved, past.Own = o.until, o.resolved, o.own
	case past.Left: // Our own POST, of this tenure.
		past.Until = time.Now().Add(r.timeout() + answerGrace)
	}
	return past
}

// Forget drops everything that was known from before. Call it when no update at or below the bound is left in the
// stream: Past says nothing then.
func (t *Tenure) Forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settled = settledSet{}
	for k := range t.open {
		t.dropOpenLocked(k)
	}
	for k, r := range t.carried {
		t.ledger.drop(r)
		delete(t.carried, k)
	}
}

// Close ends the following and waits until all records are stored or ctx ends. The lease stays as it is.
func (t *Tenure) Close(ctx context.Context) error {
	t.stop()
	err := t.ledger.close(ctx)
	t.work.Wait()
	return err
}
