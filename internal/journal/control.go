package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// errNoKey says that a key of KEX_CONTROL is not there.
var errNoKey = errors.New("no such key")

// errChanged says that somebody else wrote a key first.
var errChanged = errors.New("changed by somebody else")

// control is the bucket KEX_CONTROL, with JSON values.
type control struct {
	js     jetstream.JetStream
	bucket lazy[jetstream.KeyValue]
}

// written is when and as which revision the server stored a value.
type written struct {
	revision uint64
	at       time.Time
}

// get decodes the value of a key. errNoKey says that it is not there.
func (c *control) get(ctx context.Context, key string, into any) (w written, err error) {
	err = c.call(ctx, "reading", key, func(ctx context.Context, kv jetstream.KeyValue) error {
		entry, err := kv.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			return errNoKey
		}
		if err != nil {
			return err
		}
		w = written{revision: entry.Revision(), at: entry.Created()}
		return json.Unmarshal(entry.Value(), into)
	})
	return w, err
}

// create writes a key that is not there; errChanged says that it is.
func (c *control) create(ctx context.Context, key string, value any) (revision uint64, err error) {
	err = c.write(ctx, "creating", key, value, func(ctx context.Context, kv jetstream.KeyValue, data []byte) error {
		revision, err = kv.Create(ctx, key, data)
		if errors.Is(err, jetstream.ErrKeyExists) {
			return errChanged
		}
		return err
	})
	return revision, err
}

// update writes a key that is still at revision; errChanged says that it is not.
func (c *control) update(ctx context.Context, key string, value any, revision uint64) (uint64, error) {
	err := c.write(ctx, "updating", key, value, func(ctx context.Context, kv jetstream.KeyValue, data []byte) (err error) {
		revision, err = kv.Update(ctx, key, data, revision)
		if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			return errChanged
		}
		return err
	})
	return revision, err
}

func (c *control) write(ctx context.Context, doing, key string, value any, do func(context.Context, jetstream.KeyValue, []byte) error) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", key, err)
	}
	return c.call(ctx, doing, key, func(ctx context.Context, kv jetstream.KeyValue) error { return do(ctx, kv, data) })
}

func (c *control) call(ctx context.Context, doing, key string, do func(context.Context, jetstream.KeyValue) error) error {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	kv, err := c.open(ctx)
	if err != nil {
		return err
	}
	return Explain(doing+" "+key+" in "+topology.BucketControl, c.js, do(ctx, kv))
}

//nolint:ireturn // jetstream has no other type for it.
func (c *control) open(ctx context.Context) (jetstream.KeyValue, error) {
	return c.bucket.open(func() (jetstream.KeyValue, error) {
		kv, err := c.js.KeyValue(ctx, topology.BucketControl)
		return kv, Explain("opening the bucket "+topology.BucketControl, c.js, err)
	})
}
