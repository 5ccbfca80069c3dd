package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// Defaults of a [Config].
const (
	DefaultMaxBytes     = 128 << 20
	DefaultBodiesPerKey = 4
	DefaultHeartbeat    = 10 * time.Second
)

// ErrConsumerGone says that the consumer or its stream was deleted or is not what setup makes.
var ErrConsumerGone = errors.New("the consumer to fetch from is gone")

// ErrRewound says that an update came of which this process cannot say what became of it before: a stream restored
// from a backup or made anew, or a server that forgot more acks than are remembered here. Whoever takes the partition
// over anew finds out from the results.
var ErrRewound = errors.New("the updates begin again before what is known here")

// Config says what a Queue fetches and how much of it it keeps in memory.
type Config struct {
	// Partition is the number of the consumer to bind to, relay-<partition>.
	Partition int
	// Budget bounds the bodies in memory, together with what else has it; nil means one of DefaultMaxBytes. When the
	// queue's share of it is used up, bodies of parked updates are dropped, then those of updates that are not their
	// Vorgang's first, then fetching stops. What a request brings has its place in it: it goes beyond only if the share
	// is less than two of the largest messages, and then by one of them.
	Budget *Budget
	// BodiesPerKey is how many bodies are kept of one Vorgang; 0 means DefaultBodiesPerKey. Of the updates behind
	// them less than 300 bytes each are kept, and the bodies are read again in their turn.
	BodiesPerKey int
	// Heartbeat is how often each held update is reported to be worked on; it must be at most half of the
	// consumer's AckWait. 0 means DefaultHeartbeat.
	Heartbeat time.Duration
	// Busy reports that there is enough to do, so that nothing more need be fetched for now. It is asked before
	// each request and must return at once; Wake says that its answer may have changed. Nil means never.
	Busy func() bool
	// Logger gets one line per change of state. Nil means none.
	Logger *slog.Logger
}

// Queue fetches the updates of one partition and keeps them ours until they are settled. Its methods may be called
// from any goroutine.
type Queue struct {
	conn     *Conn
	cfg      Config
	budget   *Budget
	logger   *slog.Logger
	consumer string
	// pullExpiry is how long a request waits at the server; only requests renew the pin.
	pullExpiry time.Duration

	running atomic.Bool
	wake    chan struct{}
	state   atomic.Value // State
	done    chan struct{}
	stopped sync.WaitGroup
	close   sync.Once

	mu sync.Mutex
	holding
	counters
	// last is the consumer sequence up to which it is known what was delivered: it came here, or it is in what must be
	// read. What does not follow it leaves it where it is, until the consumer was asked.
	last uint64
	// seen is the sequence up to which everything was handed over, or had left the stream before TakeOver. What comes at
	// or below it is held, or settled and remembered.
	seen uint64
	// unread is what Run begins with reading from the stream.
	unread span
	// filters are the stored subjects of the partition's updates.
	filters []string
	// pending is how many updates waited behind the last one delivered.
	pending  uint64
	unproven unproven
	order    ackOrder

	// stranded is the oldest update that should have left the stream and has not, 0 for none.
	stranded      atomic.Uint64
	strandedPause time.Duration
	// largest is the largest message that a request must have room for, with everything around it.
	largest atomic.Int64
	// readAgain asks Run to read a stretch of the stream.
	readAgain atomic.Pointer[span]
}

// New binds to the consumer of a partition and waits for NATS as long as ctx allows. It needs the right to ask for
// the consumer's information and changes nothing. A consumer that setup did not make is an error that says so. The
// caller ends the queue with Close.
func New(ctx context.Context, conn *Conn, cfg Config) (*Queue, error) {
	q := &Queue{
		conn:     conn,
		cfg:      cfg.withDefaults(),
		consumer: topology.Consumer(cfg.Partition),
		wake:     make(chan struct{}, 1),
		done:     make(chan struct{}),

		strandedPause: strandedPause,
	}
	q.budget = q.cfg.Budget
	q.logger = q.cfg.Logger.With(slog.String("consumer", q.consumer))
	q.state.Store(StateStopped)
	if err := conn.AwaitConnected(ctx); err != nil {
		return nil, err
	}
	info, err := q.awaitInfo(ctx)
	if err != nil {
		return nil, err
	}
	if err := q.check(info); err != nil {
		return nil, err
	}
	q.pullExpiry = min(maxPullExpiry, info.Config.PinnedTTL/2)
	q.holding = newHolding(max(minSettled, 2*info.Config.MaxAckPending))
	q.filters = filtersOf(info)
	q.largest.Store(conn.nc.MaxPayload() + envelope)
	q.budget.join(q)
	q.stopped.Go(q.heartbeats)
	return q, nil
}

func (c Config) withDefaults() Config {
	if c.Budget == nil {
		c.Budget = NewBudget(0)
	}
	if c.BodiesPerKey <= 0 {
		c.BodiesPerKey = DefaultBodiesPerKey
	}
	if c.Heartbeat <= 0 {
		c.Heartbeat = DefaultHeartbeat
	}
	if c.Busy == nil {
		c.Busy = func() bool { return false }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// awaitInfo asks for the consumer until there is an answer.
func (q *Queue) awaitInfo(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	for pause, told := minPause, false; ; pause = min(2*pause, maxPause) {
		info, err := q.info(ctx)
		switch {
		case err == nil:
			return info, nil
		case ctx.Err() != nil, !transient(err):
			return nil, err
		case !told:
			told = true
			q.logger.Warn("the consumer does not answer, trying on", slog.String("error", err.Error()))
		}
		if err := q.sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// check refuses a consumer that would lose or disorder updates, or stand still.
func (q *Queue) check(info *jetstream.ConsumerInfo) error {
	config := info.Config
	var problem string
	switch {
	case config.AckPolicy != jetstream.AckExplicitPolicy:
		problem = "its ack policy is not explicit"
	case config.PriorityPolicy != jetstream.PriorityPolicyPinned,
		len(config.PriorityGroups) != 1, config.PriorityGroups[0] != topology.PriorityGroup:
		problem = "it has no pinned-client group " + topology.PriorityGroup
	case config.PinnedTTL < 2*minPullExpiry:
		problem = fmt.Sprintf("its pinned TTL of %s is below %s", config.PinnedTTL, 2*minPullExpiry)
	case q.cfg.Heartbeat > config.AckWait/2:
		problem = fmt.Sprintf("its ack wait of %s is less than twice the heartbeat of %s", config.AckWait, q.cfg.Heartbeat)
	default:
		return nil
	}
	return fmt.Errorf("%w: %s of stream %s is not as kexrelay needs it: %s; run kexrelay setup",
		ErrConsumerGone, q.consumer, topology.StreamUpdates, problem)
}

// info asks the consumer's leader.
func (q *Queue) info(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	info, err := question[jetstream.ConsumerInfo](ctx, q.conn, "CONSUMER.INFO."+topology.StreamUpdates+"."+q.consumer, nil)
	return info, q.explain(err)
}

// explain adds what to do to the errors that mean that there is no consumer.
func (q *Queue) explain(err error) error {
	switch {
	case isAPI(err, jetstream.JSErrCodeConsumerNotFound, jetstream.JSErrCodeConsumerDoesNotExist):
		return fmt.Errorf("%w: stream %s has no consumer %s; run kexrelay setup: %w", ErrConsumerGone, topology.StreamUpdates, q.consumer, err)
	case isAPI(err, jetstream.JSErrCodeStreamNotFound):
		return fmt.Errorf("%w: there is no stream %s; run kexrelay setup: %w", ErrConsumerGone, topology.StreamUpdates, err)
	case isAPI(err, jetstream.JSErrCodeJetStreamNotEnabled, jetstream.JSErrCodeJetStreamNotEnabledForAccount):
		return fmt.Errorf("%w: JetStream is not enabled on the NATS server or for this account: %w", ErrConsumerGone, err)
	}
	return err
}

// TakeOver takes the consumer over: whoever is pinned to it is unpinned, and Run begins with everything that was
// delivered before and is still in the stream, in stream order. Call it before Run: otherwise what a former process left
// unsettled comes only after its ack wait, and possibly behind younger updates. It retries as long as ctx allows and fails
// while Run is running.
//
// Find out what was settled after it: everything from the oldest update on that is in the stream then may come.
// Something older makes Run end with ErrRewound.
func (q *Queue) TakeOver(ctx context.Context) error {
	if !q.running.CompareAndSwap(false, true) {
		return errors.New("taking the consumer over: it is being fetched from")
	}
	defer q.running.Store(false)
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		err := q.takeOver(ctx)
		if err == nil || ctx.Err() != nil || !transient(err) {
			return err
		}
		if err := q.sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// takeOver does not reset the consumer, which would make everything come again by itself: a nats-server of a cluster
// (2.15.2) then loses track of what it delivers meanwhile and removes it from the stream as if it were acked, 1,285 of
// 3,000 updates in the first try. What a reset would bring is read from the stream instead, from the oldest update on,
// wherever the ack floor is: what was acked and could not be removed, as on a full disk, must not stay there for ever.
func (q *Queue) takeOver(ctx context.Context) error {
	first, err := q.oldest(ctx)
	if err != nil {
		return err
	}
	if err := q.unpin(ctx); err != nil {
		return err
	}
	// After the unpinning: what the former process got until then is among what was delivered.
	info, err := q.info(ctx)
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.seen, q.last, q.pending = first-1, info.Delivered.Consumer, info.NumPending
	q.filters = filtersOf(info)
	if q.unread = (span{first, info.Delivered.Stream}); !q.unread.empty() {
		q.catchUps++
	}
	return nil
}

func (q *Queue) unpin(ctx context.Context) error {
	request := struct {
		Group string `json:"group"`
	}{topology.PriorityGroup}
	_, err := question[struct{}](ctx, q.conn, "CONSUMER.UNPIN."+topology.StreamUpdates+"."+q.consumer, request)
	return q.explain(err)
}

// oldest is the sequence of the oldest update in the stream, or that of the next one if there is none.
func (q *Queue) oldest(ctx context.Context) (uint64, error) {
	info, err := question[jetstream.StreamInfo](ctx, q.conn, "STREAM.INFO."+topology.StreamUpdates, nil)
	if err != nil {
		return 0, q.explain(err)
	}
	if info.State.Msgs == 0 {
		return info.State.LastSeq + 1, nil
	}
	return info.State.FirstSeq, nil
}

// sleep waits, but not for a closed connection.
func (q *Queue) sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-q.conn.closed:
		return q.conn.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Wake says that Busy may have changed its answer. It returns at once and costs next to nothing.
func (q *Queue) Wake() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Close forgets everything held and ends the heartbeats; what was not acked comes again, here or elsewhere. Run must
// have returned before. Bodies in use count in the budget until they are not.
func (q *Queue) Close() {
	q.close.Do(func() {
		close(q.done)
		q.budget.leave(q)
	})
	q.stopped.Wait()
	q.ackNow()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.abandonLocked()
}
