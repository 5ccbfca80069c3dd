package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// Maintain writes the index behind the results until ctx ends. One process at a time should; two only do the work
// twice. Trouble is logged and waited out: without an index everything works, only looking for a trace takes longer.
func (x *Index) Maintain(ctx context.Context, logger *slog.Logger) {
	for ctx.Err() == nil {
		if err := x.maintain(ctx); err != nil && ctx.Err() == nil {
			logger.Warn("index of the results cannot be written; it is tried again", slog.Any("error", err))
		}
		pause(ctx, indexRetry)
	}
}

// maintain writes blocks from the first one that is missing on. A block is written once a result behind it was there at
// the look before: by now the PubAcks of all that this process has in it are here, unless they will never come. Nil means
// that the results are not those of the beginning any more.
func (x *Index) maintain(ctx context.Context) error {
	x.own.begin()
	defer x.own.end()
	state, err := x.state(ctx)
	if err != nil {
		return err
	}
	next, err := x.prepare(ctx, state)
	if err != nil {
		return err
	}
	reconnects := x.control.js.Conn().Stats().Reconnects
	for {
		pause(ctx, indexLook)
		now, err := x.state(ctx)
		if err != nil {
			return err
		}
		if !now.created.Equal(state.created) || now.last < state.last {
			return nil
		}
		// A server that was killed may have forgotten what it had acknowledged, and others have stored theirs there.
		if n := x.control.js.Conn().Stats().Reconnects; n != reconnects {
			reconnects = n
			x.own.forget()
		}
		if err := x.cover(ctx, &next, state); err != nil {
			return err
		}
		state = now
	}
}

// cover writes the blocks from next on that have a result behind them, and moves next behind them.
func (x *Index) cover(ctx context.Context, next *uint64, state resultsState) error {
	for *next = max(*next, state.first/indexSpan); indexEnd(*next) < state.last; {
		block, err := x.ownBlock(ctx, *next, state)
		if err != nil {
			return err
		}
		if block != nil {
			if err := x.write(ctx, block); err != nil {
				return err
			}
			*next++
			pause(ctx, indexPause)
			continue
		}
		to := *next // All at once up to where reading is not needed: each reader costs the server a consumer.
		for indexEnd(to+1) < state.last && !x.own.complete(to+1) {
			to++
		}
		if err := x.read(ctx, *next, to, state); err != nil {
			return err
		}
		*next = to + 1
	}
	return nil
}

// ownBlock is a block of which every result is this process's own, nil if there are others, or if its last result is
// not what it should be.
func (x *Index) ownBlock(ctx context.Context, number uint64, state resultsState) (*indexed, error) {
	block := newIndexed(number, state.created)
	if block.hashes = x.own.take(number); block.hashes == nil {
		return nil, nil //nolint:nilnil // Nothing is an answer.
	}
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	msg, err := state.stream.GetMsg(ctx, block.end())
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil //nolint:nilnil // As above.
	}
	if err != nil {
		return nil, Explain(fmt.Sprintf("reading result %d", block.end()), x.control.js, err)
	}
	last := make([]byte, indexPerSeq*4)
	putHashes(last, 0, msg.Header)
	if !bytes.HasSuffix(block.hashes, last) {
		return nil, nil //nolint:nilnil // As above.
	}
	block.last, block.lastAt = msg.Sequence, msg.Time.UnixNano()
	return block, nil
}

// read writes the blocks of a range from what is stored.
func (x *Index) read(ctx context.Context, from, to uint64, state resultsState) error {
	block := newIndexed(from, state.created)
	scan := Scan{
		Stream: topology.StreamResults, FromSeq: max(1, block.first()), ToSeq: indexEnd(to), Batch: settledBatch, HeadersOnly: true,
	}
	for msg, err := range scan.Messages(ctx, x.control.js) {
		if err != nil {
			return err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		if meta.Sequence.Stream > block.end() {
			if err := x.write(ctx, block); err != nil {
				return err
			}
			block = newIndexed(meta.Sequence.Stream/indexSpan, state.created)
			pause(ctx, indexPause)
		}
		block.add(msg, meta)
	}
	return x.write(ctx, block)
}

// write stores a block that is not empty, and removes those of which every result has expired.
func (x *Index) write(ctx context.Context, block *indexed) error {
	if block.last == 0 {
		return nil
	}
	if err := x.control.call(ctx, "writing", block.key(), func(ctx context.Context, kv jetstream.KeyValue) error {
		_, err := kv.Put(ctx, block.key(), block.encode())
		return err
	}); err != nil {
		return err
	}
	state, err := x.state(ctx)
	if err != nil {
		return err
	}
	numbers, err := x.numbers(ctx)
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if (n+1)*indexSpan-1 >= state.first {
			break
		}
		if err := x.control.purge(ctx, indexPrefix+strconv.FormatUint(n, 10)); err != nil {
			return err
		}
	}
	return nil
}
