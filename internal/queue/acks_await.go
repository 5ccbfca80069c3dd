package queue

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// ackRound is how long answers to acks are waited for before those without one are sent again: a leader that
	// died, or one that was just elected, gives none.
	ackRound = time.Second
	// statusHeader is what a message of the server's own has, such as the one that nobody listens.
	statusHeader = "Status"
)

// AwaitAcks waits until the server has applied every ack, so that whoever takes the consumer over next gets none of
// the settled updates again. Call it at a clean stop, after the last Ack and before [Conn.Drain], whose flush proves
// only that the server has read them: it applies them later.
//
// It takes until ctx ends, but no longer than the connection's timeout. The error says how many updates may come
// again: the server did not answer, or it knows nothing of their delivery since it was killed.
func (q *Queue) AwaitAcks(ctx context.Context) error {
	q.ackNow()
	q.mu.Lock()
	open := q.unproven.unapplied()
	q.mu.Unlock()
	if len(open) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, q.conn.timeout)
	defer cancel()
	inbox := q.conn.nc.NewInbox() + "."
	answers, err := q.conn.nc.SubscribeSync(inbox + "*")
	if err != nil {
		return ackError(len(open), err)
	}
	defer func() { _ = answers.Unsubscribe() }() // It fails on a closed connection, which has none.
	for {
		if err := q.conn.AwaitConnected(ctx); err != nil {
			return ackError(len(open), err)
		}
		q.ackRound(ctx, answers, inbox, open)
		switch {
		case len(open) == 0:
			return nil
		case ctx.Err() != nil:
			return ackError(len(open), ctx.Err())
		}
	}
}

func ackError(open int, err error) error {
	return fmt.Errorf("waiting for NATS to apply the acks: %d of them may be missing, their updates come again: %w", open, err)
}

// ackRound sends the acks that have no answer as requests and takes the answered ones away. One that was applied
// before is answered too, after all that were sent before it.
func (q *Queue) ackRound(ctx context.Context, answers *nats.Subscription, inbox string, open map[string]string) {
	round, cancel := context.WithTimeout(ctx, ackRound)
	defer cancel()
	for token, reply := range open {
		if q.conn.nc.PublishRequest(reply, inbox+token, ackAck) != nil {
			break // Disconnected: the next round sends it.
		}
	}
	for len(open) > 0 {
		answer, err := answers.NextMsgWithContext(round)
		if err != nil {
			return
		}
		if answer.Header.Get(statusHeader) == "" {
			delete(open, answer.Subject[len(inbox):])
		}
	}
}

// unapplied gives those of which nobody can say that the server has applied them, by a number. It applies acks in
// the order it reads them, so the last one of all answers for those that are proven to be read.
func (u *unproven) unapplied() map[string]string {
	open := make(map[string]string, len(u.recent)+len(u.older)+1)
	asked := make(map[string]bool, len(u.recent)+len(u.older)+1) // A cluster answers only one of two requests for the same update.
	for _, replies := range [][]string{u.older, u.recent, {u.last}} {
		for _, reply := range replies {
			if reply != "" && !asked[reply] {
				asked[reply] = true
				open[strconv.Itoa(len(open))] = reply
			}
		}
	}
	return open
}
