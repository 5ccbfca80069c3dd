package queue

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// The answer "not found" counts when it is given twice in a row: a cluster that is just electing may say it wrongly.
const missingCounts = 2

// A question to a leader that has just died is answered by the next one, not later.
const (
	lookTimeout = 2 * time.Second
	lookPause   = 500 * time.Millisecond
)

// verify looks after a request that was never answered in full, or one that was answered strangely.
func (f *fetcher) verify(ctx context.Context) error {
	info, err := f.look(ctx)
	if info == nil {
		return err
	}
	// Most deliveries made before the answer are here by now. One that comes later is read meanwhile, and only renews a handle.
	if err := f.drain(inboxSize); err != nil {
		return err
	}
	f.mustCheck, f.current.open = false, false
	f.q.ackAgain() // A leader that is gone may have taken some with it.
	if f.pinned(info) {
		f.mustRead(f.q.missed(info), "deliveries were lost on their way")
	}
	return nil
}

// rejoin goes on after a reconnect. What was on its way when the connection broke is lost; the consumer knows how
// much it has delivered, so nothing need be read again unless something is missing.
func (f *fetcher) rejoin(ctx context.Context) error {
	seen := f.q.conn.reconnects()
	if err := f.drain(inboxSize); err != nil {
		return err
	}
	// The old request may still wait at a server that was not restarted; nothing must come of it meanwhile.
	f.unsubscribe()
	f.q.ackAgain()
	info, err := f.look(ctx)
	if info == nil {
		return errors.Join(err, f.resubscribe())
	}
	f.reconnects, f.mustCheck = seen, false
	ours := f.pinned(info)
	if pinnedClient(info) == "" {
		f.pin = "" // A restarted server does not remember it.
	}
	if ours {
		f.mustRead(f.q.missed(info), "deliveries were lost with the connection")
	}
	f.healthy()
	return f.resubscribe()
}

func (f *fetcher) resubscribe() error {
	f.unsubscribe()
	return f.subscribe()
}

// look asks for the consumer's state. Without an answer it returns neither state nor error and makes the fetcher try
// again after a pause, until the consumer is known to be gone.
func (f *fetcher) look(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	asking, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	info, err := f.q.info(asking)
	switch {
	case err == nil:
		f.missing = 0
		return info, nil
	case errors.Is(err, ErrConsumerGone):
		if f.missing++; f.missing >= missingCounts {
			return nil, err
		}
	case !transient(err):
		return nil, err
	}
	f.mustCheck = true
	f.retryAt = time.Now().Add(lookPause)
	f.trouble(err)
	return nil, nil //nolint:nilnil // Neither: the contract of this method.
}

// pinned reports whether nobody else gets the consumer's deliveries, as far as it knows.
func (f *fetcher) pinned(info *jetstream.ConsumerInfo) bool {
	client := pinnedClient(info)
	return client == "" || client == f.pin
}

func pinnedClient(info *jetstream.ConsumerInfo) string {
	for _, group := range info.PriorityGroups {
		if group.Group == topology.PriorityGroup {
			return group.PinnedClientID
		}
	}
	return ""
}
