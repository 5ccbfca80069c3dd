package kex

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"hash"
	"io"
	"sync"
	"sync/atomic"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// rawPart is how many bytes of a document are encoded at a time: a multiple of 3, so that no part needs padding but
// the last. With its encoded form it is what a request by reference holds in memory here.
const rawPart = 24 << 10

// parts are the buffers of documents that are being sent: the bytes read, then their base64.
var parts = sync.Pool{New: func() any {
	b := make([]byte, rawPart+rawPart/3*4)
	return &b
}}

// contentBody is the request body of a document by reference: what stands before the content, the content in base64,
// what stands after it. The last part goes out only when the content has proven to have the size and the digest that
// the update says: a damaged document never completes a request.
//
// Reads come from net/http's goroutine, one at a time; Close may come from another one.
type contentBody struct {
	content *update.Content
	ctx     context.Context //nolint:containedctx // A Reader is given none.
	state   atomic.Int32    // As of body.
	failed  atomic.Pointer[error]

	mu     sync.Mutex // Between Read and Close: the buffer must not go back while it is being read into.
	closed bool
	source io.ReadCloser
	digest hash.Hash
	left   int64 // Bytes of the content that are not read yet.
	buffer *[]byte
	ready  []byte // What goes out next.
	stage  int
}

// The stages of a contentBody.
const (
	stageBefore = iota
	stageContent
	stageAfter
	stageEnd
)

func newContentBody(ctx context.Context, c *update.Content) *contentBody {
	return &contentBody{content: c, ctx: ctx, left: c.Size, digest: sha256.New()}
}

// Read gives the next bytes. From the first one on the body counts as begun.
func (b *contentBody) Read(p []byte) (int, error) {
	if b.state.Load() != bodyBegun && !b.state.CompareAndSwap(bodyUntouched, bodyBegun) {
		return 0, errBodyClosed
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, errBodyClosed
	}
	for len(b.ready) == 0 {
		if b.stage == stageEnd {
			return 0, io.EOF
		}
		if err := b.failure(); err != nil {
			return 0, err
		}
		if err := b.next(); err != nil {
			b.failed.Store(&err)
			return 0, err
		}
	}
	n := copy(p, b.ready)
	b.ready = b.ready[n:]
	return n, nil
}

// next makes the next bytes ready, or goes on to the next stage.
func (b *contentBody) next() error {
	switch b.stage {
	case stageBefore:
		b.ready = b.content.Before
		b.stage = stageContent
	case stageContent:
		if b.left > 0 {
			return b.encode()
		}
		if err := b.verify(); err != nil {
			return err
		}
		b.ready = b.content.After
		b.stage = stageAfter
	case stageAfter:
		b.stage = stageEnd
	}
	return nil
}

// encode reads one part and makes its base64 ready.
func (b *contentBody) encode() error {
	if b.source == nil {
		source, err := b.content.Open(b.ctx)
		if err != nil {
			return err
		}
		b.source = source
	}
	if b.buffer == nil {
		b.buffer, _ = parts.Get().(*[]byte)
	}
	raw := (*b.buffer)[:min(b.left, rawPart)]
	if _, err := io.ReadFull(b.source, raw); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return damaged("the object is shorter than the update says")
		}
		return err
	}
	b.left -= int64(len(raw))
	_, _ = b.digest.Write(raw) // Never fails, as documented.
	b.ready = (*b.buffer)[rawPart : rawPart+base64.StdEncoding.EncodedLen(len(raw))]
	base64.StdEncoding.Encode(b.ready, raw)
	return nil
}

// verify holds what was read against what the update says.
func (b *contentBody) verify() error {
	switch n, err := io.CopyN(io.Discard, b.source, 1); {
	case n > 0:
		return damaged("the object is longer than the update says")
	case !errors.Is(err, io.EOF):
		return err
	}
	if [sha256.Size]byte(b.digest.Sum(nil)) != b.content.Digest {
		return damaged("the object's digest differs from the one in the update")
	}
	return nil
}

func damaged(detail string) error {
	return &fault.Error{Kind: fault.Permanent, Reason: fault.ObjectMissing, Detail: detail}
}

// Close ends reading and gives back what the body holds.
func (b *contentBody) Close() error {
	b.state.CompareAndSwap(bodyUntouched, bodyClosed)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	b.ready = nil
	if b.buffer != nil {
		parts.Put(b.buffer)
		b.buffer = nil
	}
	if b.source != nil {
		return b.source.Close()
	}
	return nil
}

// begun reports whether any byte was taken; a false is final.
func (b *contentBody) begun() bool {
	b.state.CompareAndSwap(bodyUntouched, bodyClosed)
	return b.state.Load() == bodyBegun
}

// failure is why the body could not be given in full, nil if nothing was wrong with it. The request then never
// became complete, so nothing can have been booked.
func (b *contentBody) failure() error {
	if err := b.failed.Load(); err != nil {
		return *err
	}
	return nil
}
