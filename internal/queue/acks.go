package queue

import (
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// ackAge is how long after an ack the request must be made whose answer proves that the server has read it.
	ackAge = time.Second
	// maxUnproven bounds the acks remembered to be sent again; one beyond it that is lost makes its update come
	// again after the ack wait.
	maxUnproven = 1 << 16
)

// unproven are the acks that the server may not have read: they are sent without waiting for an answer, and what is
// on its way when a connection breaks is lost. An answer to a request proves that what was sent before the request
// was read, for both go the same way. The queue's mutex guards it.
type unproven struct {
	// recent are those since turned, older those before. proof is the request whose answer proves the older ones,
	// 0 if it was not made yet.
	recent, older []string
	turned        time.Time
	proof         uint64
	// last is the last ack of all, proven or not.
	last string
}

func (u *unproven) add(reply string) {
	u.last = reply
	if len(u.recent)+len(u.older) < maxUnproven {
		u.recent = append(u.recent, reply)
	}
}

// asked notes that a request is made.
func (u *unproven) asked(request uint64, now time.Time) {
	switch {
	case now.Sub(u.turned) < ackAge:
	case len(u.older) == 0:
		u.older, u.recent = u.recent, nil
		u.turned, u.proof = now, 0
	case u.proof == 0:
		u.proof = request
	}
}

// answered notes that a request was answered.
func (u *unproven) answered(request uint64) {
	if u.proof != 0 && request >= u.proof {
		u.older, u.proof = nil, 0
	}
}

// all gives them for being sent again on a new connection, which is not proven by an old request.
func (u *unproven) all(now time.Time) []string {
	u.recent = append(u.older, u.recent...)
	u.older, u.proof, u.turned = nil, 0, now
	return slices.Clip(u.recent)
}

// forgetAcks gives up the acks that may be sent again: their consumer is gone. In a stream that was made anew with it
// they would name other updates by the same sequences, and the server would take them: seen, one of 35 updates was lost
// so. What is settled comes again and is recognised.
func (q *Queue) forgetAcks() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.forgetAcksLocked()
}

func (q *Queue) forgetAcksLocked() {
	q.unproven = unproven{}
	q.order.late = nil
}

// ack sends an ack that is remembered already. While NATS is away that fails; it is sent again afterwards. It is
// not called under the mutex, for a full socket blocks it.
func (q *Queue) ack(reply string) error {
	if err := q.conn.nc.Publish(reply, ackAck); errors.Is(err, nats.ErrConnectionClosed) {
		return q.conn.Err()
	}
	return nil
}

// ackAgain sends the acks that may be lost. The server ignores those of updates it does not know to have delivered,
// after a take-over or a crash; they come again and are recognised.
func (q *Queue) ackAgain() {
	q.mu.Lock()
	replies := q.unproven.all(time.Now())
	q.mu.Unlock()
	for _, reply := range replies {
		if q.ack(reply) != nil {
			return // Closed for good, which Run finds out by itself.
		}
	}
}
