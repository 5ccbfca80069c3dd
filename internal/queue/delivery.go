package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

var (
	ackAck      = []byte("+ACK")
	ackProgress = []byte("+WPI")
)

// Delivery is an update handed over and not settled yet. It stays ours, by heartbeats, until Ack or Forget, also
// after Run has returned.
type Delivery struct {
	q        *Queue
	seq      uint64
	storedAt int64 // Unix time in nanoseconds.
	subject  string

	// The queue's mutex guards the rest. It is kept small: there may be 50,000 of these.
	reply              string // The ack handle of the last delivery.
	body               *body
	key                *keyed
	prev, next         *Delivery // In its key.
	list               *bodyList // Where its body may be dropped, or nil.
	listPrev, listNext *Delivery
	at                 int32 // Place in its slot.
	size               int32 // Of the body with all that counts, also while it is not in memory.
	slot               uint8 // Of the heartbeats' wheel.
	inUse              bool
	gone               bool
}

// Subject is the subject the update was published to.
func (d *Delivery) Subject() string { return d.subject }

// Seq is the update's sequence in the stream.
func (d *Delivery) Seq() uint64 { return d.seq }

// StoredAt is when NATS stored the update, exact to the nanosecond; with Seq it is the update's identity.
func (d *Delivery) StoredAt() time.Time { return time.Unix(0, d.storedAt).UTC() }

// Message gives the update itself. It waits until the budget has room for it, behind those who asked before; if its body
// was dropped it is then read again from the stream, for which Message tries for up to 10 s, or as long as ctx allows.
// The body stays in memory, and counts, until Release, Park, Ack or Forget. Only one may use a delivery at a time.
//
// update.ErrRemoved says that the update is not in the stream any more, or that this delivery was acked or forgotten.
// Other errors are faults: interrupted if ctx was cancelled, else systemic (storage), never the update's own.
func (d *Delivery) Message(ctx context.Context) (update.Message, error) {
	b := d.q.budget
	message, where, err := d.use(false)
	for err == nil && where == waits {
		if err := b.acquire(ctx, d.weight()); err != nil {
			return update.Message{}, readFault(ctx, d.seq, err)
		}
		if message, where, err = d.use(true); err != nil || where != inUse {
			b.using.Release(d.weight()) // It was dropped meanwhile, to make room.
		}
	}
	if err != nil || where == inUse {
		return message, err
	}
	return d.readAgain(ctx)
}

// weight is what the update takes of the budget while it is in use.
func (d *Delivery) weight() int64 { return d.q.budget.weight(int64(d.size), int64(d.size)) }

// whereabouts of a body.
type whereabouts int

const (
	dropped whereabouts = iota // It must be read again.
	waits                      // It is in memory, and there is no room to use it.
	inUse
)

// use marks a body in memory as in use if there is room; taken says that its weight was taken already.
func (d *Delivery) use(taken bool) (update.Message, whereabouts, error) {
	q := d.q
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case d.gone:
		return update.Message{}, dropped, d.removed()
	case d.body == nil:
		return update.Message{}, dropped, nil
	case !d.inUse && !taken && !q.budget.tryAcquire(d.weight()):
		return update.Message{}, waits, nil
	}
	d.useLocked()
	return d.message(), inUse, nil
}

func (d *Delivery) useLocked() {
	d.inUse = true
	if d.list != nil {
		d.list.remove(d)
	}
}

func (d *Delivery) removed() error {
	return fmt.Errorf("taking update %d: %w", d.seq, update.ErrRemoved)
}

func (d *Delivery) message() update.Message {
	return update.Message{Subject: d.subject, Header: d.body.header, Body: d.body.data, Seq: d.seq, StoredAt: d.StoredAt()}
}

// readAgain reads a body that was dropped, when there is room for it and for the answer that it comes in.
func (d *Delivery) readAgain(ctx context.Context) (update.Message, error) {
	q, b := d.q, d.q.budget
	whole := answerSize(int64(d.size))
	weight := b.weight(int64(d.size), whole)
	if err := b.acquire(ctx, weight); err != nil {
		return update.Message{}, readFault(ctx, d.seq, err)
	}
	b.bytes.Add(whole)
	b.shed()
	read, err := q.read(ctx, d)

	q.mu.Lock()
	defer q.mu.Unlock()
	b.freed(whole)
	if err == nil && d.gone {
		err = d.removed()
	}
	if err != nil {
		b.using.Release(weight)
		return update.Message{}, err
	}
	b.using.Release(weight - d.weight())
	q.keepLocked(d, read)
	q.reread++
	d.useLocked()
	return d.message(), nil
}

// answerSize is how much memory reading an update of size bytes again takes: itself, and the answer with it in base64.
func answerSize(size int64) int64 { return size + size/3*4 + bodyOverhead }

// Release says that the body is not in use any more although the update is not settled. It stays in memory while
// there is room.
func (d *Delivery) Release() {
	q := d.q
	q.mu.Lock()
	defer q.mu.Unlock()
	q.letGoLocked(d)
	if d.gone || d.body == nil || d.list != nil {
		return
	}
	q.offerLocked(d)
	q.makeRoomLocked()
}

// Park says that the update's lane is in backoff: its body, and those behind it, are dropped first when room is
// needed. The body is not in use any more.
func (d *Delivery) Park() {
	q := d.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.letGoLocked(d); d.gone {
		return
	}
	q.parkLocked(d)
	q.makeRoomLocked()
}

// Ack settles the update: it leaves the stream. Ack returns as soon as the ack is on its way, or waits its turn: that of a
// large update goes out behind those of older ones, but within 250 ms. While NATS is away it
// is kept, and after a reconnect it is sent again if the server may not have read it, as long as Run is running. An
// ack that is lost nevertheless (a server killed within the next 100 ms has forgotten it) makes the update come
// again; it is then acked again and not handed over, unless this process has ended or has settled twice
// MaxAckPending other updates since, at least 65,536. [Queue.AwaitAcks] waits until the server has applied all acks.
// A second Ack, or one after Forget, does nothing. The error is ErrConnectionClosed.
func (d *Delivery) Ack(_ context.Context) error {
	q := d.q
	q.mu.Lock()
	if q.letGoLocked(d); d.gone {
		q.mu.Unlock()
		return nil
	}
	q.settled.add(d.seq, d.storedAt)
	q.removeLocked(d)
	q.makeRoomLocked()
	if d.size >= orderedSize {
		due := q.ackInOrderLocked(d)
		q.mu.Unlock()
		return q.ackAll(due)
	}
	reply := d.reply
	q.unproven.add(reply)
	q.mu.Unlock()
	return q.ack(reply)
}

// Forget gives the update up without an ack: it is not ours any more, and comes again to whoever takes the consumer
// over. A Run to which it comes again ends with ErrRewound.
func (d *Delivery) Forget() {
	q := d.q
	q.mu.Lock()
	defer q.mu.Unlock()
	q.letGoLocked(d)
	q.removeLocked(d)
	q.makeRoomLocked()
}

// readPatience is how long reading a body again is tried before somebody is told: longer than an election.
const readPatience = 10 * time.Second

// storedMessage is the answer to a request for a message of a stream.
type storedMessage struct {
	Message struct {
		Header []byte    `json:"hdrs"`
		Data   []byte    `json:"data"`
		Time   time.Time `json:"time"`
	} `json:"message"`
}

// read reads a body again. It asks the stream's leader: a follower might not know the update yet.
func (q *Queue) read(ctx context.Context, d *Delivery) (*body, error) {
	request := struct {
		Seq uint64 `json:"seq"`
	}{d.seq}
	until := time.Now().Add(readPatience)
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		var answer storedMessage
		err := q.conn.call(ctx, "STREAM.MSG.GET."+topology.StreamUpdates, request, &answer)
		switch {
		case err == nil && answer.Message.Time.UnixNano() != d.storedAt, isAPI(err, jetstream.JSErrCodeMessageNotFound):
			return nil, fmt.Errorf("reading update %d again: %w", d.seq, update.ErrRemoved)
		case err == nil:
			stored := answer.Message
			// Like on delivery, headers that cannot be read are none.
			header, headerErr := nats.DecodeHeadersMsg(stored.Header)
			if headerErr != nil {
				header = nil
			}
			return newBody(header, stored.Data, len(stored.Header)+len(stored.Data)), nil
		case !transient(err), time.Now().After(until):
			return nil, readFault(ctx, d.seq, q.explain(err))
		}
		if q.sleep(ctx, pause) != nil {
			return nil, readFault(ctx, d.seq, err)
		}
	}
}

// readFault classifies why an update could not be read again: it is never the update's own fault.
func readFault(ctx context.Context, seq uint64, err error) error {
	kind := fault.Systemic
	if errors.Is(ctx.Err(), context.Canceled) {
		kind = fault.Interrupted
	}
	return &fault.Error{Kind: kind, Reason: fault.Storage, Err: fmt.Errorf("reading update %d again from NATS: %w", seq, err)}
}
