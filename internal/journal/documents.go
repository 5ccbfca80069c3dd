package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

const documentsStream = "OBJ_" + topology.BucketDocuments

// readAhead is about how many bytes of an object are asked for at a time, and so how much of a document that is being
// sent lies in memory here.
const readAhead = 512 << 10

// Documents are the objects of KEX_DOCUMENTS that updates carry by reference: in an update's way they are looked at
// before the first attempt, read during each, and removed after the ack of the delivery. Use NewDocuments; its
// methods are safe for concurrent use.
type Documents struct {
	js     jetstream.JetStream
	bucket lazy[jetstream.ObjectStore] // Opened at the first need.
	bodies *Bodies
}

// NewDocuments makes a Documents without a call.
func NewDocuments(js jetstream.JetStream) *Documents {
	return &Documents{js: js, bodies: NewBodies(js)}
}

// Check makes sure that an object is there and has the size and the digest that the update says, by what the object
// store says about it; its bytes are not read. A permanent fault with reason object_missing says that it has not. Any
// other error says that this could not be found out. memory is how many bytes of it reading holds at a time.
func (d *Documents) Check(ctx context.Context, o *update.Object) (memory int64, err error) {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	info, err := d.info(ctx, o)
	if err != nil {
		return 0, err
	}
	// The object's data may be there without its chunks, see Bodies.read.
	switch err := d.bodies.count(ctx, info); {
	case errors.Is(err, ErrNoBody):
		return 0, missing(o, "is not whole")
	case err != nil:
		return 0, Explain("looking at the chunks of object "+o.Name, d.js, err)
	}
	// One more than is asked for: the one that is being taken apart.
	return min(int64(chunksAhead(info)+1)*chunkSize(info), o.Size), nil
}

// chunkSize is the size of an object's chunks, but for the last one.
func chunkSize(info *jetstream.ObjectInfo) int64 {
	chunks := uint64(max(info.Chunks, 1))
	return int64((info.Size + chunks - 1) / chunks) //nolint:gosec // Below MaxObjectSize.
}

// chunksAhead is how many chunks are asked for at a time.
func chunksAhead(info *jetstream.ObjectInfo) int {
	return int(max(2, readAhead/max(chunkSize(info), 1)))
}

// info is what the object store says about an object, if it is the one the update means.
func (d *Documents) info(ctx context.Context, o *update.Object) (*jetstream.ObjectInfo, error) {
	bucket, err := d.open(ctx)
	if err != nil {
		return nil, err
	}
	info, err := bucket.GetInfo(ctx, o.Name)
	switch {
	case errors.Is(err, jetstream.ErrObjectNotFound):
		return nil, missing(o, "is not there")
	case err != nil:
		return nil, Explain("looking for object "+o.Name, d.js, err)
	case info.Opts != nil && info.Opts.Link != nil:
		return nil, missing(o, "is only a link")
	case info.Size != uint64(o.Size): //nolint:gosec // at least 1.
		return nil, missing(o, fmt.Sprintf("has %d bytes, the update says %d", info.Size, o.Size))
	case info.Digest != o.DigestText():
		return nil, missing(o, "has another digest than the update says")
	}
	return info, nil
}

func missing(o *update.Object, what string) error {
	return &fault.Error{
		Kind: fault.Permanent, Reason: fault.ObjectMissing,
		Detail: fmt.Sprintf("the object %s/%s %s", topology.BucketDocuments, o.Name, what),
	}
}

// Open begins to read an object's bytes, in constant memory, from the store's own order of chunks. ctx ends the reading
// too. That size and digest prove right is for the reader to see: an object can be damaged while it is being read.
// Errors are faults: permanent with reason object_missing, or transient with reason storage.
func (d *Documents) Open(ctx context.Context, o *update.Object) (io.ReadCloser, error) {
	call, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	info, err := d.info(call, o)
	if err != nil {
		return nil, unreadable(err)
	}
	scan := Scan{
		Stream: documentsStream, Filters: []string{"$O." + topology.BucketDocuments + ".C." + info.NUID},
		Batch: chunksAhead(info),
	}
	r := &objectReader{}
	r.next, r.stop = iter.Pull2(scan.Messages(ctx, d.js))
	return r, nil
}

// unreadable makes a fault of an error.
func unreadable(err error) error {
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	return &fault.Error{Kind: fault.Transient, Reason: fault.Storage, Detail: err.Error(), Err: err}
}

// objectReader gives the bytes of an object's chunks.
type objectReader struct {
	next func() (jetstream.Msg, error, bool)
	stop func()
	rest []byte
}

// Read gives the next bytes; what is missing at the end is an early io.EOF.
func (r *objectReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		msg, err, ok := r.next()
		switch {
		case !ok:
			return 0, io.EOF
		case err != nil:
			return 0, unreadable(err)
		}
		r.rest = msg.Data()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Close ends the reading.
func (r *objectReader) Close() error {
	r.stop()
	r.rest = nil
	return nil
}

// Remove removes an object that no update needs any more. One that is gone already is no error.
func (d *Documents) Remove(ctx context.Context, o *update.Object) error {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	return d.bodies.Remove(ctx, topology.BucketDocuments+"/"+o.Name)
}

//nolint:ireturn // jetstream has no other type for it.
func (d *Documents) open(ctx context.Context) (jetstream.ObjectStore, error) {
	return d.bucket.open(func() (jetstream.ObjectStore, error) {
		bucket, err := d.js.ObjectStore(ctx, topology.BucketDocuments)
		return bucket, Explain("opening the object bucket "+topology.BucketDocuments, d.js, err)
	})
}
