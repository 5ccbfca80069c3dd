package journal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// SweepAge is how old a claim must be before it may go: far above any pause between the steps of a replay.
const SweepAge = 24 * time.Hour

// Sweep removes claims that nobody can need any more, so that the bucket does not grow for ever: those last written
// before a time (at least SweepAge ago) of which finished says that neither the dead letter nor the new message is
// there any more. It looks at no more than limit of them, taken at random: some are never finished, and those must not
// keep it from the others. It returns how many it removed.
func (c *Claims) Sweep(ctx context.Context, before time.Time, limit int, finished func(context.Context, Claim) (bool, error)) (removed int, err error) {
	keys, err := c.olderThan(ctx, before, limit)
	if err != nil {
		return 0, err
	}
	for _, key := range keys {
		var claim Claim
		claim.written, err = c.control.get(ctx, key, &claim)
		if errors.Is(err, errNoKey) || err == nil && claim.WrittenAt().After(before) {
			continue // Somebody swept it, or goes on with it.
		}
		if err != nil {
			return removed, err
		}
		done, err := finished(ctx, claim)
		if err != nil {
			return removed, err
		}
		if !done {
			continue
		}
		if err := c.control.purge(ctx, key); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// olderThan gives the keys of some claims last written before a time: all of them, or limit, each as likely as any
// other.
func (c *Claims) olderThan(ctx context.Context, before time.Time, limit int) ([]string, error) {
	var keys []string
	prefix := controlSubject("")
	scan := Scan{Stream: controlStream, Filters: []string{controlSubject(claimPrefix + ">")}, HeadersOnly: true}
	seen := 0
	for msg, err := range scan.Messages(ctx, c.control.js) {
		if err != nil {
			return nil, err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return nil, err
		}
		if meta.Timestamp.After(before) {
			break // They come in the order of their last write.
		}
		key := msg.Subject()[len(prefix):]
		if seen++; len(keys) < limit {
			keys = append(keys, key)
			continue
		}
		// The n-th one replaces another with the chance limit/n.
		if place := rand.N(seen); place < limit { //nolint:gosec // G404: any fair choice does.
			keys[place] = key
		}
	}
	return keys, nil
}

// The bucket as the stream it is: what the key-value API has no call for.
const controlStream = "KV_" + topology.BucketControl

func controlSubject(key string) string { return "$KV." + topology.BucketControl + "." + key }

// purge removes a key without the mark that the key-value API would leave for ever.
func (c *control) purge(ctx context.Context, key string, opts ...jetstream.StreamPurgeOpt) error {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	stream, err := c.js.Stream(ctx, controlStream)
	if err != nil {
		return Explain("opening the bucket "+topology.BucketControl, c.js, err)
	}
	err = stream.Purge(ctx, append(opts, jetstream.WithPurgeSubject(controlSubject(key)))...)
	return Explain(fmt.Sprintf("removing %s from %s", key, topology.BucketControl), c.js, err)
}
