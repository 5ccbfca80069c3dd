package queue

import (
	"log/slog"
	"strings"
	"time"

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
	// parked and waiting are the bodies that may be dropped, in the order of their lists.
	parked, waiting bodyList
	bodies          int
	bytes           int64
	wheel           [wheelSlots][]*Delivery
	nextSlot        int
	settled         settled
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
}

// take books a delivery that follows the last one and answers the request made last. beyond is how far the bytes may
// pass the budget.
func (q *Queue) take(meta ackMeta, m *nats.Msg, request uint64, beyond int64) intake {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.unproven.answered(request)
	q.last, q.pending = meta.consumerSeq, meta.pending
	if meta.streamSeq >= q.catchUp {
		q.catchUp = 0
	}
	if at, ok := q.settled.at[meta.streamSeq]; ok && at == meta.storedAt {
		q.reacked++
		q.unproven.add(m.Reply)
		return intake{reack: true}
	}
	if old, ok := q.held[meta.streamSeq]; ok {
		if old.storedAt == meta.storedAt {
			old.reply = m.Reply
			q.redelivered++
			return intake{}
		}
		q.logger.Warn("an update has the sequence of another one: the stream was made anew, forgetting the old update",
			slog.Uint64("sequence", old.seq), slog.Time("old_stored_at", old.StoredAt()), slog.Time("stored_at", time.Unix(0, meta.storedAt)))
		q.removeLocked(old)
	}
	q.delivered++
	d := &Delivery{q: q, seq: meta.streamSeq, storedAt: meta.storedAt, subject: topology.PublishedSubject(m.Subject), reply: m.Reply}
	q.addLocked(d)
	if d.key.n > q.cfg.BodiesPerKey {
		q.dropped++
		return intake{update: d}
	}
	q.keepLocked(d, newBody(m.Header, m.Data, m.Size()))
	if d.key.first != d {
		q.waiting.push(d)
	}
	q.shedLocked()
	if d.body != nil && q.bytes > q.cfg.MaxBytes+beyond { // What waits in its lane may have just been shed.
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

// removeLocked forgets d altogether. Its owner may still have it: it answers as gone.
func (q *Queue) removeLocked(d *Delivery) {
	if d.gone {
		return
	}
	d.gone = true
	delete(q.held, d.seq)
	q.dismissLocked(d)
	if d.body != nil {
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
		key.first.list.remove(key.first) // Its turn has come.
	}
	d.prev, d.next = nil, nil
}

func (q *Queue) keepLocked(d *Delivery, b *body) {
	d.body = b
	q.bodies++
	q.bytes += b.size
}

func (q *Queue) forgetBodyLocked(d *Delivery) {
	if d.list != nil {
		d.list.remove(d)
	}
	q.bodies--
	q.bytes -= d.body.size
	d.body = nil
}

// dropLocked drops a body to make room; it will be read again.
func (q *Queue) dropLocked(d *Delivery) {
	q.forgetBodyLocked(d)
	q.dropped++
}

// shedLocked drops bodies until they fit, parked ones first, then the youngest of those whose turn has not come.
func (q *Queue) shedLocked() {
	for q.bytes >= q.cfg.MaxBytes && q.parked.first != nil {
		q.dropLocked(q.parked.first)
	}
	for q.bytes >= q.cfg.MaxBytes && q.waiting.last != nil {
		q.dropLocked(q.waiting.last)
	}
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
	return q.bytes < q.cfg.MaxBytes
}

// makeRoomLocked sheds bodies if they are too many and tells a fetching that waits for room.
func (q *Queue) makeRoomLocked() {
	if q.roomLocked() && q.starving {
		q.starving = false
		q.Wake()
	}
}

// highest is the highest sequence held, 0 if none.
func (h *holding) highest() uint64 {
	var seq uint64
	for held := range h.held {
		seq = max(seq, held)
	}
	return seq
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
