package journal

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// uploadChunk is how many bytes of an object go into one message: large enough that the rest of a message costs
// little, small enough for every server's max_payload (1 MB unless set lower than anybody does).
const uploadChunk = 128 << 10

// ErrBucketFull says that KEX_DOCUMENTS has no room for a document.
var ErrBucketFull = errors.New("the bucket " + topology.BucketDocuments + " is full: " +
	"deliver or discard what waits, or give it more room (kexrelay setup --max-bytes " + topology.BucketDocuments + "=…)")

// errUnconfirmed says that a server did not say that it has stored something: with a full disk it says nothing at all.
var errUnconfirmed = errors.New("NATS did not confirm in time that it has stored all of it: its disk may be full " +
	"(its log says so), or it is overloaded; publish it again, nothing was published")

// uploadsAhead is how many chunks may be under way at once: enough to make up for the way to the server.
const uploadsAhead = 16

// Put stores what r gives as a new object under a random name, in constant memory, for an update to name it: what every
// chunk holds when the server confirms it is what its digest was made of. An empty r is an error. On an error, and when the
// update was not published after all, nothing should stay: Put takes back what it began, the caller what it does not
// publish.
//
// It needs the right to publish to the bucket's subjects and no other: who may only store documents can read none. That
// is why the object store's own Put is not used, which also repeats a chunk's publish out of a buffer that it has filled
// anew by then.
func (d *Documents) Put(ctx context.Context, r io.Reader) (*update.Object, error) {
	js, err := d.uploader()
	if err != nil {
		return nil, fmt.Errorf("storing the document: %w", err)
	}
	defer js.CleanupPublisher()
	u := &upload{js: js, object: &update.Object{Name: uuid.NewString()}}
	if err := u.run(ctx, r); err != nil {
		switch {
		case tooFull(err):
			err = ErrBucketFull
		case timedOut(err), errors.Is(err, jetstream.ErrAsyncPublishTimeout):
			err = Explain("no answer", d.js, errors.Join(errUnconfirmed, err))
		default:
			err = Explain("no success", d.js, err)
		}
		if u.chunks > 0 {
			err = errors.Join(err, d.takeBack(ctx, u.object))
		}
		return nil, fmt.Errorf("storing the document: %w", err)
	}
	if u.object.Size == 0 {
		return nil, errors.New("it is empty")
	}
	return u.object, nil
}

// uploader is a JetStream context for one upload: what is under way is counted for each alone.
//
//nolint:ireturn // jetstream has no other type for it.
func (d *Documents) uploader() (jetstream.JetStream, error) {
	opts := []jetstream.JetStreamOpt{jetstream.WithPublishAsyncTimeout(callTimeout)}
	switch o := d.js.Options(); {
	case o.Domain != "":
		return jetstream.NewWithDomain(d.js.Conn(), o.Domain, opts...)
	case o.APIPrefix != "":
		return jetstream.NewWithAPIPrefix(d.js.Conn(), o.APIPrefix, opts...)
	}
	return jetstream.New(d.js.Conn(), opts...)
}

// upload is one object under way.
type upload struct {
	js     jetstream.JetStream
	object *update.Object
	chunks uint32
	slots  [uploadsAhead]struct {
		buffer []byte
		future jetstream.PubAckFuture
	}
}

// run stores the chunks, each confirmed, then what there is to know about the object. It ends with the first error:
// a chunk that came after a missing one must not be made up for, or their order would be another.
func (u *upload) run(ctx context.Context, r io.Reader) error {
	hash := sha256.New()
	if err := u.sendChunks(ctx, io.TeeReader(r, hash)); err != nil || u.object.Size == 0 {
		return err
	}
	for i := range u.slots {
		if err := confirmed(ctx, u.slots[i].future); err != nil {
			return err
		}
	}
	u.object.Digest = [sha256.Size]byte(hash.Sum(nil))
	about, err := aboutObject(u.object, u.chunks)
	if err != nil {
		return err
	}
	future, err := u.publish(about)
	if err != nil {
		return err
	}
	return confirmed(ctx, future)
}

// sendChunks sends every chunk; the last ones are not confirmed yet when it returns.
func (u *upload) sendChunks(ctx context.Context, r io.Reader) error {
	for more := true; more; {
		slot := &u.slots[u.chunks%uploadsAhead]
		if err := confirmed(ctx, slot.future); err != nil {
			return err
		}
		slot.future = nil
		if slot.buffer == nil {
			slot.buffer = make([]byte, uploadChunk)
		}
		n, err := readChunk(ctx, r, slot.buffer)
		if more = err == nil; err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n == 0 {
			break
		}
		u.object.Size += int64(n)
		u.chunks++
		if slot.future, err = u.publish(&nats.Msg{Subject: chunksOf(u.object), Data: slot.buffer[:n]}); err != nil {
			return err
		}
	}
	return nil
}

// readChunk reads until the buffer is full, or the reader or ctx has ended. io.ReadFull could not tell a reader that fails
// with io.ErrUnexpectedEOF from one that has ended.
func readChunk(ctx context.Context, r io.Reader, buffer []byte) (n int, err error) {
	for n < len(buffer) && err == nil {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		var read int
		read, err = r.Read(buffer[n:])
		n += read
	}
	return n, err
}

//nolint:ireturn // jetstream has no other type for it.
func (u *upload) publish(m *nats.Msg) (jetstream.PubAckFuture, error) {
	return u.js.PublishMsgAsync(m, jetstream.WithRetryAttempts(0), jetstream.WithStallWait(callTimeout))
}

// confirmed waits until the server has stored a message; nil is none.
func confirmed(ctx context.Context, future jetstream.PubAckFuture) error {
	if future == nil {
		return nil
	}
	select {
	case <-future.Ok():
		return nil
	case err := <-future.Err():
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// chunksOf is the subject of an object's chunks: of what Put stored, the ID that the object store wants of its own is
// the name.
func chunksOf(o *update.Object) string { return "$O." + topology.BucketDocuments + ".C." + o.Name }

// aboutObject is the message in which the object store keeps what there is to know about an object; without chunks, that
// it was deleted.
func aboutObject(o *update.Object, chunks uint32) (*nats.Msg, error) {
	info := jetstream.ObjectInfo{
		ObjectMeta: jetstream.ObjectMeta{Name: o.Name, Opts: &jetstream.ObjectMetaOptions{ChunkSize: uploadChunk}},
		Bucket:     topology.BucketDocuments, NUID: o.Name, Chunks: chunks,
	}
	if chunks == 0 {
		info.Deleted = true
	} else {
		info.Size, info.Digest = uint64(o.Size), o.DigestText() //nolint:gosec // It was counted up from 0.
	}
	data, err := json.Marshal(info)
	if err != nil {
		return nil, fmt.Errorf("encoding what there is to know about the object: %w", err)
	}
	return &nats.Msg{
		Subject: "$O." + topology.BucketDocuments + ".M." + base64.URLEncoding.EncodeToString([]byte(o.Name)),
		Header:  nats.Header{jetstream.MsgRollup: {jetstream.MsgRollupSubject}}, Data: data,
	}, nil
}

// TakeBack removes an object that Put stored and that no update names, with the rights of Put: an empty message takes
// the place of its chunks, until it is swept after a day.
func (d *Documents) TakeBack(ctx context.Context, o *update.Object) error {
	about, err := aboutObject(o, 0)
	if err != nil {
		return err
	}
	if err := d.takeBack(ctx, o); err != nil {
		return err
	}
	_, err = d.js.PublishMsg(ctx, about)
	return Explain("removing object "+o.Name, d.js, err)
}

// takeBack removes chunks, also if ctx has ended. What it cannot remove is swept after a day.
func (d *Documents) takeBack(ctx context.Context, o *update.Object) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	_, err := d.js.PublishMsg(ctx, &nats.Msg{
		Subject: chunksOf(o), Header: nats.Header{jetstream.MsgRollup: {jetstream.MsgRollupSubject}},
	})
	if tooFull(err) { // There is not even room for that: then with a right that only few have.
		var stream jetstream.Stream
		if stream, err = d.js.Stream(ctx, documentsStream); err == nil {
			err = stream.Purge(ctx, jetstream.WithPurgeSubject(chunksOf(o)))
		}
	}
	if errors.Is(err, nats.ErrConnectionClosed) {
		return nil // The error that led here says so.
	}
	return Explain("removing what was stored of it", d.js, err)
}

// tooFull reports the server's refusal of a chunk or of an object's data for want of room.
func tooFull(err error) bool {
	refused, ok := errors.AsType[*jetstream.APIError](err)
	return ok && refused.ErrorCode == codeStreamStoreFailed
}
