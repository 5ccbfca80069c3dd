package queue

import (
	"math"
	"strings"

	"github.com/nats-io/nats.go"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

const (
	// minSettled is how many settled updates are remembered at least.
	minSettled = 1 << 16
	// bodyOverhead is what a body in memory costs besides its bytes: many tiny ones count too.
	bodyOverhead = 256
)

// headerPinID is added by the server on delivery; it is no part of the update.
const headerPinID = "Nats-Pin-Id"

// holding is the index of what is held: by sequence, by Vorgang, by body. The queue's mutex guards it.
type holding struct {
	held map[uint64]*Delivery
	keys map[string]*keyed
	// parked and waiting are the bodies that may be dropped, in the order of their lists; ready are those of updates
	// whose turn has come and that are not in use yet, dropped only for one that is to be.
	parked, waiting, ready bodyList
	bodies                 int
	bytes                  int64
	wheel                  [wheelSlots][]*Delivery
	nextSlot               int
	settled                settled
	// starving reports that the fetching waits for room.
	starving bool
}

func newHolding(remember int) holding {
	return holding{
		held:    make(map[uint64]*Delivery),
		keys:    make(map[string]*keyed),
		settled: settled{at: make(map[uint64]int64), limit: remember},
	}
}

// keyed is what is held of one Vorgang, in the order it came.
type keyed struct {
	name        string
	first, last *Delivery
	n           int
}

// body is an update's content while it is in memory.
type body struct {
	header nats.Header
	data   []byte
	size   int64
}

func newBody(header nats.Header, data []byte, size int) *body {
	delete(header, headerPinID)
	return &body{header: header, data: data, size: int64(size) + bodyOverhead}
}

// keyOf is the Vorgangsnummer's token in the subject an update was published to.
func keyOf(subject string) string {
	rest, ok := strings.CutPrefix(subject, update.SubjectPrefix)
	if !ok {
		return subject
	}
	token, _, _ := strings.Cut(rest, ".")
	return token
}

// intake says what became of a delivery.
type intake struct {
	// update is a new update to hand over, or nil.
	update *Delivery
	// reack reports that it was settled before and only its ack was lost.
	reack bool
	// rewound reports that it should have come before and did not, or is not known any more.
	rewound bool
}

// take books a delivery that nothing is missing before and that answers the request made last, for chunk bytes. One without a
// consumer sequence was read from the stream.
func (q *Queue) take(meta ackMeta, m *nats.Msg, request uint64, chunk int64) intake {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.unproven.answered(request)
	if meta.consumerSeq != 0 {
		q.pending = meta.pending
		if meta.consumerSeq == q.last+1 { // Else what is missing before it would be forgotten.
			q.last = meta.consumerSeq
		}
	}
	if at, ok := q.settled.at[meta.streamSeq]; ok && at == meta.storedAt {
		q.reacked++
		q.unproven.add(m.Reply)
		return intake{reack: true}
	}
	if old, ok := q.held[meta.streamSeq]; ok && old.storedAt == meta.storedAt {
		if meta.consumerSeq != 0 {
			old.reply = m.Reply
			q.redelivered++
		}
		return intake{}
	}
	if meta.streamSeq <= q.seen {
		q.abandonLocked()
		return intake{rewound: true}
	}
	q.seen = meta.streamSeq
	q.delivered++
	d := &Delivery{q: q, seq: meta.streamSeq, storedAt: meta.storedAt, subject: topology.PublishedSubject(m.Subject), reply: m.Reply}
	d.size = int32(min(m.Size()+bodyOverhead, math.MaxInt32)) //nolint:gosec // Bounded, and no message is that large.
	q.addLocked(d)
	q.order.expect(d)
	if d.key.n > q.cfg.BodiesPerKey {
		q.dropped++
		return intake{update: d}
	}
	q.keepLocked(d, newBody(m.Header, m.Data, m.Size()))
	q.offerLocked(d)
	q.shedLocked()
	if d.body != nil && q.budget.over(q.bytes, chunk) { // What waits in its lane may have just been shed.
		q.dropLocked(d)
	}
	return intake{update: d}
}

func (q *Queue) addLocked(d *Delivery) {
	name := keyOf(d.subject)
	key := q.keys[name]
	if key == nil {
		key = &keyed{name: name}
		q.keys[name] = key
	} else if key.last.subject == d.subject {
		d.subject = key.last.subject // One string for all.
	}
	d.key, d.prev = key, key.last
	if key.last == nil {
		key.first = d
	} else {
		key.last.next = d
	}
	key.last = d
	key.n++
	q.held[d.seq] = d
	q.enrolLocked(d)
}

// removeLocked forgets d altogether. Its owner may still have it: it answers as gone. A body in use counts until its
// owner lets it go.
func (q *Queue) removeLocked(d *Delivery) {
	if d.gone {
		return
	}
	d.gone = true
	delete(q.held, d.seq)
	q.dismissLocked(d)
	if d.body != nil && !d.inUse {
		q.forgetBodyLocked(d)
	}
	key := d.key
	if key.n--; key.n == 0 {
		delete(q.keys, key.name)
	}
	if d.next != nil {
		d.next.prev = d.prev
	} else {
		key.last = d.prev
	}
	if d.prev != nil {
		d.prev.next = d.next
	} else if key.first = d.next; key.first != nil && key.first.list != nil {
		q.offerLocked(key.first) // Its turn has come.
	}
	d.prev, d.next = nil, nil
}

func (q *Queue) keepLocked(d *Delivery, b *body) {
	d.body = b
	q.bodies++
	q.bytes += b.size
	q.budget.bytes.Add(b.size)
}

// offerLocked puts d's body, which is not in use, on the list that says when it may be dropped.
func (q *Queue) offerLocked(d *Delivery) {
	if d.list != nil {
		d.list.remove(d)
	}
	if d.key.first == d {
		q.ready.push(d)
	} else {
		q.waiting.push(d)
	}
}

// letGoLocked notes that d's body is not in use any more.
func (q *Queue) letGoLocked(d *Delivery) {
	if !d.inUse {
		return
	}
	d.inUse = false
	q.budget.using.Release(d.weight())
	if d.gone {
		q.forgetBodyLocked(d)
	}
}

func (q *Queue) forgetBodyLocked(d *Delivery) {
	if d.list != nil {
		d.list.remove(d)
	}
	q.bodies--
	q.bytes -= d.body.size
	q.budget.freed(d.body.size)
	d.body = nil
}

// dropLocked drops a body to make room; it will be read again.
func (q *Queue) dropLocked(d *Delivery) {
	q.forgetBodyLocked(d)
	q.dropped++
}

// shedLocked drops bodies until there is room for more, parked ones first, then the youngest of those whose turn has not come. What is
// ready to be used stays: only [Budget.shed] drops it.
func (q *Queue) shedLocked() {
	for q.parked.first != nil && !q.budget.room(q.bytes, q.chunk()) {
		q.dropLocked(q.parked.first)
	}
	for q.waiting.last != nil && !q.budget.room(q.bytes, q.chunk()) {
		q.dropLocked(q.waiting.last)
	}
}

// abandonLocked gives up everything held and every ack on its way: the same sequences may be other updates by now, and
// the server does not look at when they were stored.
func (q *Queue) abandonLocked() {
	q.forgetAcksLocked()
	for _, d := range q.held {
		q.removeLocked(d)
	}
}

// stranger reports whether a delivery has the sequence of another update that was here before, and gives up
// everything if so.
func (q *Queue) stranger(meta ackMeta) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	at, ok := q.settled.at[meta.streamSeq]
	if d := q.held[meta.streamSeq]; d != nil {
		at, ok = d.storedAt, true
	}
	if !ok || at == meta.storedAt {
		return false
	}
	q.abandonLocked()
	return true
}

// parkLocked offers d's body, and those behind it in its lane, to be dropped first.
func (q *Queue) parkLocked(d *Delivery) {
	for n := q.cfg.BodiesPerKey; d != nil && n > 0; d, n = d.next, n-1 {
		if d.body == nil || d.inUse {
			continue
		}
		if d.list != nil {
			d.list.remove(d)
		}
		q.parked.push(d)
	}
}

// roomLocked reports whether there is room for more bodies, after making what room can be made.
func (q *Queue) roomLocked() bool {
	q.shedLocked()
	return q.budget.room(q.bytes, q.chunk())
}

// makeRoomLocked sheds bodies if they are too many and tells a fetching that waits for room.
func (q *Queue) makeRoomLocked() {
	if q.roomLocked() && q.starving {
		q.starving = false
		q.Wake()
	}
}

// bodyList is a list of deliveries with a body, linked through them.
type bodyList struct{ first, last *Delivery }

func (l *bodyList) push(d *Delivery) {
	d.list, d.listPrev, d.listNext = l, l.last, nil
	if l.last == nil {
		l.first = d
	} else {
		l.last.listNext = d
	}
	l.last = d
}

func (l *bodyList) remove(d *Delivery) {
	if d.listPrev == nil {
		l.first = d.listNext
	} else {
		d.listPrev.listNext = d.listNext
	}
	if d.listNext == nil {
		l.last = d.listPrev
	} else {
		d.listNext.listPrev = d.listPrev
	}
	d.list, d.listPrev, d.listNext = nil, nil, nil
}

// settled remembers the updates acked last. Their acks may be lost with a connection or a killed server; when such
// an update comes again, it must not be sent again.
type settled struct {
	at    map[uint64]int64 // Sequence to stored timestamp.
	order []uint64
	next  int
	limit int
}

func (s *settled) add(seq uint64, storedAt int64) {
	if len(s.order) < s.limit {
		s.order = append(s.order, seq)
	} else {
		delete(s.at, s.order[s.next])
		s.order[s.next] = seq
		s.next = (s.next + 1) % s.limit
	}
	s.at[seq] = storedAt
}
