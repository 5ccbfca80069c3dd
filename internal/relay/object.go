package relay

import (
	"context"
	"io"
	"log/slog"

	"kexrelay/internal/update"
)

// Documents are what updates carry by reference. All errors but those of Remove are faults, or unclassified.
type Documents interface {
	// Check makes sure, before an attempt, that an object is the one an update means. memory is how many bytes reading
	// it takes, however large it is.
	Check(ctx context.Context, o *update.Object) (memory int64, err error)
	// Open begins to read it during one.
	Open(ctx context.Context, o *update.Object) (io.ReadCloser, error)
	// Remove removes it after the delivery.
	Remove(ctx context.Context, o *update.Object) error
}

// Memory bounds what is held in it.
type Memory interface {
	// Take takes n bytes, in turn, until release is called.
	Take(ctx context.Context, n int64) (release func(), err error)
}

// sending is what a document by reference takes while it is being sent, beside reading its object: the update, and the
// buffers of the request.
const sending = update.MaxReferenceLength + 112<<10

// decode decodes an update and looks at what it carries by reference: what is missing or another one becomes a dead
// letter without a call. The update is usable also beside a permanent fault.
func (r *Relay) decode(ctx context.Context, it *item, m update.Message) (*update.Update, error) {
	u, err := update.Decode(m, func() string { return r.traceID(it) })
	r.traced(it, u)
	if err == nil && u.Object != nil {
		it.memory, err = r.deps.Documents.Check(ctx, u.Object)
	}
	return u, err
}

// room waits for the memory that an attempt needs beside the update's body: none, but for a document by reference. It
// ends with the right to send.
func (r *Relay) room(stop context.Context, it *item, u *update.Update) (release func(), err error) {
	if u.Object == nil {
		return func() {}, nil
	}
	it.delivery.Release() // Who waits for memory must hold none.
	ctx, cancel := context.WithCancel(stop)
	defer cancel()
	go func() {
		for {
			wanted, changes := r.wanted(it.tenure)
			if !wanted {
				cancel()
				return
			}
			select {
			case <-changes[0]:
			case <-changes[1]:
			case <-ctx.Done():
				return
			}
		}
	}()
	return r.deps.Memory.Take(ctx, it.memory+sending)
}

// content is the body of a document by reference, nil for all other updates. Each attempt reads it anew.
func (r *Relay) content(u *update.Update) *update.Content {
	c := u.Content()
	if c != nil {
		c.Open = func(ctx context.Context) (io.ReadCloser, error) { return r.deps.Documents.Open(ctx, u.Object) }
	}
	return c
}

// removeObject removes what a delivered update carried by reference. Only after the ack: until then the update may
// come again. A dead letter keeps its object. One that could not be removed is swept after a day.
func (r *Relay) removeObject(ctx context.Context, s *update.Settlement) {
	if s.Update.Object == nil || s.Outcome != update.Delivered {
		return
	}
	if err := r.deps.Documents.Remove(ctx, s.Update.Object); err != nil {
		r.deps.Logger.Warn("document of a delivered update could not be removed; it is swept after a day",
			append(identity(s.Update), slog.String("object", s.Update.Object.Name), slog.Any("error", err))...)
	}
}
