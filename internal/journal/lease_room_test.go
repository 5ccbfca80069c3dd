package journal

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// room is KEX_CONTROL in memory, with the compare-and-set of the real one. What leases do with time is tested in it, on
// the clock of a bubble, to the nanosecond and whatever else the machine does; that they do the same on a server is
// tested with the real times and by TestNeverTwoHolders.
type room struct {
	mu     sync.Mutex
	values map[string]roomValue
	last   uint64
}

type roomValue struct {
	data []byte
	written
}

func newRoom() *room { return &room{values: map[string]roomValue{}} }

// leases are those of one replica, with the real times.
func (r *room) leases(replica string) (*Leases, *faultyStore) {
	store := &faultyStore{leaseStore: r}
	l := NewLeases(nil, replica, discard())
	l.store, l.clock = store, monotonicClock() // The bubble's.
	l.ledger.handle, l.ledger.opened = emptyLedger{}, true
	return l, store
}

// emptyLedger is a ledger nobody has written into.
type emptyLedger struct{ jetstream.Stream }

func (emptyLedger) Info(context.Context, ...jetstream.StreamInfoOpt) (*jetstream.StreamInfo, error) {
	return &jetstream.StreamInfo{}, nil
}

func (r *room) get(_ context.Context, key string, into any) (written, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.values[key]
	if !ok {
		return written{}, errNoKey
	}
	return v.written, json.Unmarshal(v.data, into)
}

func (r *room) create(_ context.Context, key string, value any) (uint64, error) {
	return r.write(key, value, 0)
}

func (r *room) update(_ context.Context, key string, value any, revision uint64) (uint64, error) {
	return r.write(key, value, revision)
}

func (r *room) write(key string, value any, revision uint64) (uint64, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.values[key].revision != revision {
		return 0, errChanged
	}
	r.last++
	r.values[key] = roomValue{data: data, written: written{revision: r.last, at: time.Now()}}
	return r.last, nil
}
