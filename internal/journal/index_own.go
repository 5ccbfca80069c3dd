package journal

import (
	"encoding/binary"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// maxOwn bounds the blocks that are kept until the index takes them, 16 KiB each. What is dropped is read.
const maxOwn = 64

// ownResults are the results that this process has published itself, as the index needs them: their PubAcks say where
// they lie, so that they need not be read again. It gathers only while somebody maintains the index. The zero value is
// ready.
type ownResults struct {
	mu       sync.Mutex
	gathered map[uint64][]byte // By number of block: its hashes. nil while nobody wants them.
}

// begin gathers from now on, end no longer.
func (o *ownResults) begin() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gathered = map[uint64][]byte{}
}

func (o *ownResults) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gathered = nil
}

// forget drops what was gathered: it may not be what is stored.
func (o *ownResults) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.gathered)
}

// stored notes a message that was stored.
func (o *ownResults) stored(m *nats.Msg, ack jetstream.PubAck) {
	if ack.Stream != topology.StreamResults || ack.Duplicate {
		return
	}
	number := ack.Sequence / indexSpan
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gathered == nil {
		return
	}
	hashes := o.gathered[number]
	if hashes == nil {
		if len(o.gathered) >= maxOwn {
			clear(o.gathered) // The index is far behind: it reads everything in one go.
		}
		hashes = make([]byte, indexSpan*indexPerSeq*4)
		o.gathered[number] = hashes
	}
	putHashes(hashes, ack.Sequence%indexSpan, m.Header)
}

// putHashes puts the nth result into the hashes of a block.
func putHashes(hashes []byte, n uint64, header nats.Header) {
	at := n * indexPerSeq * 4
	binary.LittleEndian.PutUint32(hashes[at:], idHash(header.Get(update.HeaderTraceID)))
	binary.LittleEndian.PutUint32(hashes[at+4:], idHash(header.Get(topology.HeaderUpdateID)))
}

// complete reports whether every result of a block was gathered.
func (o *ownResults) complete(number uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return allKnown(number, o.gathered[number])
}

// take gives a block's hashes and forgets them, nil if not all were gathered.
func (o *ownResults) take(number uint64) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	hashes := o.gathered[number]
	delete(o.gathered, number)
	if !allKnown(number, hashes) {
		return nil
	}
	return hashes
}

// allKnown reports whether there is an update ID's hash for each sequence: every result has one, and it is never 0.
func allKnown(number uint64, hashes []byte) bool {
	begin := 0
	if number == 0 {
		begin = indexPerSeq * 4 // There is no message 0.
	}
	for at := begin; at < len(hashes); at += indexPerSeq * 4 {
		if binary.LittleEndian.Uint32(hashes[at+4:]) == 0 {
			return false
		}
	}
	return hashes != nil
}
