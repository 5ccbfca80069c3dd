package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"kexrelay/internal/topology"
)

const (
	// batch is how many updates one request asks for at most: enough that the pause between two requests does not show,
	// few enough that Busy is asked often.
	batch = 1024
	// chunkBytes is how many bytes one request asks for at most, and so what may be on its way here. 24 MiB were tried:
	// they took more CPU time of the relay for documents of 100 kB and 1 MB.
	chunkBytes = 8 << 20
	// envelope is the most that subject, ack handle and added headers put on top of a message.
	envelope = 64 << 10
	// maxChunkBytes ends the search for a request that fits a message larger than the server takes nowadays.
	maxChunkBytes = 256 << 20
	// inboxSize must never be full, for nats.go drops what does not fit: two requests and their statuses.
	inboxSize = 4 * batch
	// drainSize is how many messages are taken before looking at anything else.
	drainSize = 256

	// maxPullExpiry is how long a request waits at the server at most. It is short enough to notice soon that one
	// was lost without a word, and long enough to cost nothing.
	maxPullExpiry = 2 * time.Second
	minPullExpiry = 50 * time.Millisecond
	// pullGrace is how much later than asked for the end of a request may be heard of.
	pullGrace = time.Second
	// pinInterval paces the requests that only keep the pin.
	pinInterval = time.Second

	minPause = 100 * time.Millisecond
	maxPause = 2 * time.Second
	idle     = time.Minute
)

// fetcher is the state of one Run; only its goroutine touches it.
type fetcher struct {
	q      *Queue
	accept func(*Delivery)

	// inbox is where the server answers, a new one after each reconnect: what was meant for the old one is void.
	inbox    string
	sub      *nats.Subscription
	messages chan *nats.Msg

	requests uint64
	current  pull
	pinPull  time.Time // When the pin was last asked for without asking for updates.
	pin      string
	grown    int64 // Bytes per request for a message larger than the usual ones, else 0.

	reconnects uint64 // How many there were when fetching last was in order.
	mustCheck  bool   // A request ended strangely: does the consumer exist?
	missing    int    // How often in a row it was said not to.
	retryAt    time.Time
	troubled   time.Time // Since when fetching is out of order, or zero.

	// unread is what must be read from the stream before anything else is handed over, ahead what was read of it and is
	// not handed over yet. stale is since when the stream's leader seems to lag, confirmed says that it does not, and
	// unanswered counts how often in a row it gave no answer. kept was delivered meanwhile.
	unread     span
	ahead      ahead
	stale      time.Time
	confirmed  bool
	unanswered int
	kept       []*nats.Msg

	// hole says that a delivery has not followed the last one, and that nobody has asked yet what is missing. behindKept
	// is how far it reaches, 0 if nothing is missing: read up to there what was not among those kept.
	hole       bool
	behindKept uint64

	// unsure says that the consumer may have served somebody else last, of whom it had not told yet when it was asked: the
	// next delivery tells, and if a whole request brings none, the consumer is asked again.
	unsure bool
}

// pull is a request for updates that the server has not answered in full.
type pull struct {
	reply    string
	asked    int   // Updates that were asked for.
	left     int   // How many of them may still come.
	most     int64 // Bytes that were asked for.
	bytes    int64 // How many of them have come.
	deadline time.Time
	open     bool
}

// pullRequest is what the server is asked.
type pullRequest struct {
	Batch    int           `json:"batch"`
	MaxBytes int64         `json:"max_bytes"`
	Expires  time.Duration `json:"expires"`
	Group    string        `json:"group"`
	PinID    string        `json:"id,omitempty"`
}

// Run fetches updates and hands each over to accept, in stream order per Vorgang, until ctx ends; then it returns
// nil and asks for nothing more, while heartbeats go on for what is held. accept is called from one goroutine and
// must return at once. Run returns an error if the consumer is gone (ErrConsumerGone), the connection is closed
// for good (ErrConnectionClosed) or what comes must be looked up first (ErrRewound); everything else, a restarted
// server, a lost connection, a changed leader, it waits for.
func (q *Queue) Run(ctx context.Context, accept func(*Delivery)) error {
	if !q.running.CompareAndSwap(false, true) {
		return errors.New("fetching updates: already doing so")
	}
	defer q.running.Store(false)
	defer q.state.Store(StateStopped)
	f := &fetcher{q: q, accept: accept, unread: q.unread, unsure: true}
	err := f.run(ctx)
	q.unread = f.left()
	if ctx.Err() != nil {
		return nil // Being stopped is how Run ends, whatever failed because of it.
	}
	return err
}

func (f *fetcher) run(ctx context.Context) error {
	status := f.q.conn.nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	defer f.q.conn.nc.RemoveStatusListener(status)
	f.reconnects = f.q.conn.reconnects()
	if err := f.subscribe(); err != nil {
		return err
	}
	defer f.unsubscribe()
	defer func() { f.keepAhead(ahead{}) }()
	watching, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { f.q.watchStranded(watching) })
	defer watch.Wait()
	defer stop()
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for ctx.Err() == nil {
		until, err := f.step(ctx)
		if err != nil {
			return err
		}
		timer.Reset(time.Until(until))
		select {
		case m := <-f.messages:
			if err := f.handle(m); err != nil {
				return err
			}
			if err := f.drain(drainSize); err != nil {
				return err
			}
		case <-f.q.wake:
		case <-status:
		case <-timer.C:
		case <-f.q.conn.closed:
		case <-ctx.Done():
		}
	}
	return nil
}

// drain handles what has already arrived, at most limit messages.
func (f *fetcher) drain(limit int) error {
	for range limit {
		select {
		case m := <-f.messages:
			if err := f.handle(m); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	return nil
}

// step does what is due and says when to look again if nothing happens before.
func (f *fetcher) step(ctx context.Context) (time.Time, error) {
	now := time.Now()
	if again := f.q.readAgain.Swap(nil); again != nil {
		f.mustRead(*again, "settled updates are still there")
	}
	switch {
	case f.q.conn.nc.IsClosed():
		return now, f.q.conn.Err()
	case !f.q.conn.Connected():
		f.q.state.Store(StateInterrupted)
		return now.Add(idle), nil // The status channel tells.
	case now.Before(f.retryAt):
		return f.retryAt, nil
	case f.reconnects != f.q.conn.reconnects():
		return now, f.rejoin(ctx)
	case f.mustCheck:
		return now, f.verify(ctx)
	case f.hole:
		return now, f.fillHole(ctx)
	case !f.unread.empty():
		return f.readOn(ctx)
	case f.current.open && now.After(f.current.deadline):
		return now, f.verify(ctx)
	case f.current.open:
		return f.current.deadline, nil
	}
	state := f.mayFetch()
	f.q.state.Store(state)
	if state == StateFetching {
		return f.request(now)
	}
	return f.holdPin(now)
}

// holdPin keeps the pin while nothing may be asked for.
func (f *fetcher) holdPin(now time.Time) (time.Time, error) {
	if due := f.pinPull.Add(min(pinInterval, f.q.pullExpiry)); now.Before(due) {
		return due, nil
	}
	return f.keepPin(now)
}

// mayFetch says whether more updates may be asked for.
func (f *fetcher) mayFetch() State {
	busy := f.q.cfg.Busy()
	f.q.mu.Lock()
	defer f.q.mu.Unlock()
	f.q.starving = false
	switch {
	case !f.q.roomLocked():
		f.q.starving = true
		return StateFull
	case busy:
		return StateBusy
	}
	return StateFetching
}

// chunk is how many bytes to ask for: not more than half of what may be held, so that it fits. Less than one message
// with everything around it would be a silent stall.
func (q *Queue) chunk() int64 {
	return max(min(chunkBytes, q.budget.share()/2), q.largest.Load())
}

// wanted is how many updates to ask for when so many bytes are: as many like those of the last request as fit. One more
// the server would read only to find that it does not fit, and read it again for the next request.
func (f *fetcher) wanted(most int64) int {
	came := f.current.asked - f.current.left
	if came <= 0 || f.current.bytes <= 0 {
		return batch
	}
	return int(min(max(most*int64(came)/f.current.bytes, 1), batch))
}

// request asks for updates.
func (f *fetcher) request(now time.Time) (time.Time, error) {
	deadline := now.Add(f.q.pullExpiry + pullGrace)
	f.q.largest.Store(max(f.q.conn.nc.MaxPayload()+envelope, f.grown))
	most := f.q.chunk()
	asked := f.wanted(most)
	reply, err := f.send(pullRequest{Batch: asked, MaxBytes: most, Expires: f.q.pullExpiry})
	if err != nil {
		return f.sendFailed(now, err)
	}
	f.current = pull{reply: reply, asked: asked, left: asked, most: most, deadline: deadline, open: true}
	f.q.asked(f.requests, now, &f.q.pulls)
	return deadline, nil
}

// keepPin asks for at most one byte: nothing is delivered for it, but the pin stays here.
func (f *fetcher) keepPin(now time.Time) (time.Time, error) {
	interval := min(pinInterval, f.q.pullExpiry)
	if _, err := f.send(pullRequest{Batch: 1, MaxBytes: 1, Expires: interval}); err != nil {
		return f.sendFailed(now, err)
	}
	f.pinPull = now
	f.q.asked(f.requests, now, &f.q.pinPulls)
	return now.Add(interval), nil
}

func (f *fetcher) send(request pullRequest) (reply string, err error) {
	request.Group, request.PinID = topology.PriorityGroup, f.pin
	body, err := json.Marshal(request)
	if err != nil {
		return "", fmt.Errorf("encoding a request for updates: %w", err)
	}
	f.requests++
	reply = f.inbox + strconv.FormatUint(f.requests, 10)
	subject := f.q.conn.apiPrefix + "CONSUMER.MSG.NEXT." + topology.StreamUpdates + "." + f.q.consumer
	return reply, f.q.conn.nc.PublishRequest(subject, reply, body)
}

// sendFailed waits for the connection, which is what a failed send means.
func (f *fetcher) sendFailed(now time.Time, err error) (time.Time, error) {
	if errors.Is(err, nats.ErrConnectionClosed) {
		return now, f.q.conn.Err()
	}
	f.retryAt = now.Add(minPause)
	return f.retryAt, nil
}

func (f *fetcher) subscribe() error {
	f.inbox = f.q.conn.nc.NewInbox() + "."
	f.messages = make(chan *nats.Msg, inboxSize)
	f.current = pull{}
	sub, err := f.q.conn.nc.ChanSubscribe(f.inbox+"*", f.messages)
	if err != nil {
		return fmt.Errorf("subscribing to fetch updates: %w", err)
	}
	f.sub = sub
	return nil
}

func (f *fetcher) unsubscribe() {
	// It fails only if the connection is closed, and then there is nothing to unsubscribe.
	_ = f.sub.Unsubscribe()
}

// handle takes one message of the inbox: an update or the server's word on a request.
func (f *fetcher) handle(m *nats.Msg) error {
	if len(m.Subject) > len(f.inbox) && m.Subject[:len(f.inbox)] == f.inbox {
		return f.status(m)
	}
	meta, ok := parseAck(m.Reply)
	if !ok {
		return nil // Not from JetStream.
	}
	if pin := m.Header.Get(headerPinID); pin != "" {
		f.pin = pin // Also of what is not taken: without it the next request would wait for our own pin to expire.
	}
	if f.q.stranger(meta) { // Before anything else: what is acked from here on may be acked for the wrong update.
		return rewound(meta)
	}
	if f.current.open {
		f.current.bytes += int64(m.Size())
		if f.current.left--; f.current.left == 0 {
			f.current.open = false
		}
		// More may be on a slow way here.
		f.current.deadline = time.Now().Add(f.q.pullExpiry + pullGrace)
	}
	f.unsure = false
	if f.unread.empty() {
		before, hole := f.q.gap(meta)
		f.hole = f.hole || hole
		f.mustRead(before, gapped)
	}
	if !f.unread.empty() { // No more than one request has brought: none is made meanwhile.
		f.kept = append(f.kept, m)
		return nil
	}
	return f.handOver(meta, m)
}

// gapped is why something must be read when a delivery tells: something was lost on its way here, or went to another
// client, or somebody has changed the consumer. See the package's comment.
const gapped = "a delivery does not follow the last one"

// handOver takes an update that nothing is missing before.
func (f *fetcher) handOver(meta ackMeta, m *nats.Msg) error {
	f.healthy()
	taken := f.q.take(meta, m, f.requests, f.q.chunk())
	switch {
	case taken.reack:
		return f.q.ack(m.Reply)
	case taken.rewound:
		return rewound(meta)
	case taken.update != nil:
		f.accept(taken.update)
	}
	return nil
}

func rewound(meta ackMeta) error {
	return fmt.Errorf("%w: update %d, stored at %s", ErrRewound, meta.streamSeq, time.Unix(0, meta.storedAt).UTC().Format(time.RFC3339Nano))
}

// trouble logs that fetching does not work, once until it does again.
func (f *fetcher) trouble(err error) {
	f.q.state.Store(StateInterrupted)
	if f.troubled.IsZero() {
		f.troubled = time.Now()
		f.q.logger.Warn("fetching updates is interrupted, trying on", slog.String("error", err.Error()))
	}
}

func (f *fetcher) healthy() {
	f.missing = 0
	if !f.troubled.IsZero() {
		f.q.logger.Info("fetching updates goes on", slog.Duration("after", time.Since(f.troubled)))
		f.troubled = time.Time{}
	}
}

// asked counts a request, made after the acks before it.
func (q *Queue) asked(request uint64, now time.Time, counter *uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	*counter++
	q.unproven.asked(request, now)
}
