package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

const (
	indexPrefix = "index.results."
	indexMagic  = "kexrelay-index/1"
	// indexSpan is how many sequences of KEX_RESULTS a block covers. Block n begins at sequence n*indexSpan, so that
	// two who write the same block write the same.
	indexSpan = 2048
	// indexPerSeq is how many hashes there are for each: of the trace ID and of the update ID.
	indexPerSeq = 2
	indexHeader = len(indexMagic) + 3*8
	indexSize   = indexHeader + indexSpan*indexPerSeq*4
	// indexPause is the rest after each block: a relay that finds a million results without an index must not take a
	// whole core for it.
	indexPause = 15 * time.Millisecond
	// indexRetry is the rest after an error, indexLook the time between two looks whether there are more results.
	indexRetry = 5 * time.Second
	indexLook  = time.Second
	// indexBatch bounds how many blocks are on their way to a reader at once, within the client's 64 MiB.
	indexBatch = 256
)

// Index finds the results of a trace ID or update ID without reading all of them: NATS knows messages by subject and
// sequence alone. It is made of blocks in KEX_CONTROL, 8 bytes per result, written by whoever runs [Index.Maintain]
// behind the results and never by the settling itself: it costs the way of an update next to nothing, everything in it
// can be made again, and what it does not cover yet is read from the results themselves. Use NewIndex, or [Journal.Index]
// for one that need not read what that Journal writes; its methods are safe for concurrent use.
type Index struct {
	control control
	results *Results
	own     *ownResults
}

// NewIndex makes an Index without a call.
func NewIndex(js jetstream.JetStream) *Index {
	return &Index{control: control{js: js}, results: NewResults(js), own: &ownResults{}}
}

// indexed is one block.
type indexed struct {
	number uint64
	// created is the results' stream's creation: another stream of that name has other results at its sequences.
	created int64
	// last and lastAt are the sequence and stored time of the last result in it, so that a stream which was restored
	// from a backup, and went on differently, is noticed.
	last   uint64
	lastAt int64
	hashes []byte
}

func newIndexed(number uint64, created time.Time) *indexed {
	return &indexed{number: number, created: created.UnixNano(), hashes: make([]byte, indexSpan*indexPerSeq*4)}
}

func (b *indexed) first() uint64 { return b.number * indexSpan }

// end is the last sequence it covers.
func (b *indexed) end() uint64 { return indexEnd(b.number) }

func indexEnd(number uint64) uint64 { return (number+1)*indexSpan - 1 }

func (b *indexed) key() string { return indexPrefix + strconv.FormatUint(b.number, 10) }

// add puts a result into its block.
func (b *indexed) add(msg jetstream.Msg, meta *jetstream.MsgMetadata) {
	putHashes(b.hashes, meta.Sequence.Stream-b.first(), msg.Headers())
	b.last, b.lastAt = meta.Sequence.Stream, meta.Timestamp.UnixNano()
}

func (b *indexed) encode() []byte {
	out := make([]byte, 0, indexSize)
	out = append(out, indexMagic...)
	for _, n := range [...]uint64{uint64(b.created), b.last, uint64(b.lastAt)} { //nolint:gosec // G115: the bits are all that counts.
		out = binary.LittleEndian.AppendUint64(out, n)
	}
	return append(out, b.hashes...)
}

// decodeIndexed reads a block; false for anything else.
func decodeIndexed(subject string, data []byte) (*indexed, bool) {
	number, ok := indexNumber(subject)
	if !ok || len(data) != indexSize || string(data[:len(indexMagic)]) != indexMagic {
		return nil, false
	}
	var n [3]uint64
	for i := range n {
		n[i] = binary.LittleEndian.Uint64(data[len(indexMagic)+8*i:])
	}
	return &indexed{
		number: number, created: int64(n[0]), last: n[1], lastAt: int64(n[2]), //nolint:gosec // G115: as in encode.
		hashes: data[indexHeader:],
	}, true
}

// indexNumber reads a block's number from its subject.
func indexNumber(subject string) (uint64, bool) {
	digits, ok := strings.CutPrefix(subject, controlSubject(indexPrefix))
	number, err := strconv.ParseUint(digits, 10, 48) // No product of it can overflow.
	return number, ok && err == nil
}

// find appends the sequences whose hashes are among the wanted ones.
func (b *indexed) find(wanted []uint32, found []uint64) []uint64 {
	for i := 0; i < len(b.hashes); i += 4 {
		if slices.Contains(wanted, binary.LittleEndian.Uint32(b.hashes[i:])) {
			seq := b.first() + uint64(i/(4*indexPerSeq))
			if len(found) == 0 || found[len(found)-1] != seq {
				found = append(found, seq)
			}
		}
	}
	return found
}

// idHash is 4 bytes of an ID, never 0: that stands for no result. Two IDs of the same hash cost a look at a result
// that then turns out to be another one.
func idHash(id string) uint32 {
	if id == "" {
		return 0
	}
	sum := uint64(14695981039346656037) // FNV-1a, as in hash/fnv, which would copy each ID.
	for i := range len(id) {
		sum = (sum ^ uint64(id[i])) * 1099511628211
	}
	return max(1, uint32(sum>>32)^uint32(sum)) //nolint:gosec // G115: the bits are all that counts.
}

// prepare gives the number of the first block to write. Blocks of another stream of results are removed.
func (x *Index) prepare(ctx context.Context, state resultsState) (uint64, error) {
	numbers, err := x.numbers(ctx)
	if err != nil {
		return 0, err
	}
	for len(numbers) > 0 {
		last := numbers[len(numbers)-1]
		block, err := x.block(ctx, last)
		if err != nil {
			return 0, err
		}
		good := block != nil
		if good {
			if good, err = x.good(ctx, block, state); err != nil {
				return 0, err
			}
		}
		if good {
			return last + 1, nil
		}
		if err := x.control.purge(ctx, indexPrefix+strconv.FormatUint(last, 10)); err != nil {
			return 0, err
		}
		numbers = numbers[:len(numbers)-1]
	}
	return state.first / indexSpan, nil
}

// block reads one block, nil if what is there is none.
func (x *Index) block(ctx context.Context, number uint64) (*indexed, error) {
	var block *indexed
	key := indexPrefix + strconv.FormatUint(number, 10)
	err := x.control.call(ctx, "reading", key, func(ctx context.Context, kv jetstream.KeyValue) error {
		entry, err := kv.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			return nil
		}
		if err == nil {
			block, _ = decodeIndexed(controlSubject(key), entry.Value())
		}
		return err
	})
	return block, err
}

// good reports whether a block tells of the results as they are. One whose last result was removed is believed.
func (x *Index) good(ctx context.Context, b *indexed, state resultsState) (bool, error) {
	if b.created != state.created.UnixNano() || b.last > state.last {
		return false, nil
	}
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	msg, err := state.stream.GetMsg(ctx, b.last)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return true, nil
	}
	if err != nil {
		return false, Explain(fmt.Sprintf("reading result %d", b.last), x.control.js, err)
	}
	return msg.Time.UnixNano() == b.lastAt, nil
}

// numbers lists the blocks there are, in order.
func (x *Index) numbers(ctx context.Context) ([]uint64, error) {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	stream, err := x.control.js.Stream(ctx, controlStream)
	if err != nil {
		return nil, Explain("opening the bucket "+topology.BucketControl, x.control.js, err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(controlSubject(indexPrefix+"*")))
	if err != nil {
		return nil, Explain("reading the blocks of the index", x.control.js, err)
	}
	var numbers []uint64
	for subject := range info.State.Subjects {
		if n, ok := indexNumber(subject); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// resultsState is KEX_RESULTS as its leader knows it.
type resultsState struct {
	stream      jetstream.Stream
	created     time.Time
	first, last uint64
	messages    uint64
	// firstAt is when the oldest result was stored, zero if there is none.
	firstAt time.Time
}

func (x *Index) state(ctx context.Context) (resultsState, error) {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	stream, err := x.results.open(ctx)
	if err != nil {
		return resultsState{}, err
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return resultsState{}, Explain("reading the state of "+topology.StreamResults, x.control.js, err)
	}
	state := resultsState{
		stream: stream, created: info.Created, first: info.State.FirstSeq, last: info.State.LastSeq, messages: info.State.Msgs,
	}
	if info.State.Msgs > 0 {
		state.firstAt = info.State.FirstTime
	}
	return state, nil
}
