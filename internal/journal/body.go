package journal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// Bodies keeps the bodies of dead letters that are too large for a message, each as an object of KEX_DOCUMENTS. Use
// NewBodies; its methods are safe for concurrent use.
type Bodies struct {
	js     jetstream.JetStream
	bucket lazy[jetstream.ObjectStore] // Opened at the first need: most relays never have one.
}

// NewBodies makes a Bodies without a call.
func NewBodies(js jetstream.JetStream) *Bodies { return &Bodies{js: js} }

// Body is an original body, read back.
type Body struct {
	Data []byte
	// Header holds the publisher's headers that found no room in the dead letter, nil if all did.
	Header nats.Header
}

// bodyRef is what a dead letter says about the object that holds its body.
type bodyRef struct {
	name   string
	size   int
	digest string
}

func (r bodyRef) describe(header nats.Header) {
	header[topology.HeaderBodyObject] = []string{topology.BucketDocuments + "/" + r.name}
	header[topology.HeaderBodySize] = []string{strconv.Itoa(r.size)}
	header[topology.HeaderBodyDigest] = []string{r.digest}
}

// store puts an update's body and the headers left over into an object, or finds them there from an earlier try.
// The name is a UUID made of the update's identity: nothing of the content shows in it, and a repeat never leaves
// a second object.
func (b *Bodies) store(ctx context.Context, u *update.Update, left nats.Header, maxPayload int64) (bodyRef, error) {
	bucket, err := b.open(ctx)
	if err != nil {
		return bodyRef{}, err
	}
	digest := sha256.Sum256(u.Body)
	ref := bodyRef{
		name:   uuid.NewSHA1(uuid.NameSpaceURL, []byte("urn:kexrelay:deadletter:"+identity(u))).String(),
		size:   len(u.Body),
		digest: "SHA-256=" + base64.URLEncoding.EncodeToString(digest[:]),
	}
	there, err := b.read(ctx, bucket, ref.name)
	if err == nil && bytes.Equal(there.Data, u.Body) && maps.EqualFunc(there.Header, left, slices.Equal) {
		return ref, nil
	}
	if err != nil && !errors.Is(err, ErrNoBody) {
		return bodyRef{}, fmt.Errorf("looking for the body of update %d in %s: %w", u.Seq, topology.BucketDocuments, err)
	}
	if err := put(ctx, bucket, ref, u.Body, left, maxPayload); err != nil {
		return bodyRef{}, fmt.Errorf("storing the body of update %d in %s: %w", u.Seq, topology.BucketDocuments, err)
	}
	return ref, nil
}

// put stores the body in as few chunks as the server takes, in all but odd cases one: the client reuses its buffer
// for the next chunk, and when it repeats a publish for want of a leader it would send that one's bytes. Only if there
// had to be more is the object read back, because the update leaves its stream in reliance on it.
//
// The context is without its end on purpose: with one, the client gives up without removing the chunks it has sent.
// Without one every publish and every call has the client's own timeout.
func put(ctx context.Context, bucket jetstream.ObjectStore, ref bodyRef, body []byte, left nats.Header, maxPayload int64) error {
	ctx = context.WithoutCancel(ctx)
	chunk := max(1, min(int64(len(body)), maxPayload, math.MaxUint32))
	meta := jetstream.ObjectMeta{Name: ref.name, Headers: left, Opts: &jetstream.ObjectMetaOptions{ChunkSize: uint32(chunk)}}
	info, err := bucket.Put(ctx, meta, bytes.NewReader(body))
	if err != nil && len(left) > 0 && refusalOf(err) == RefusedMessage {
		meta.Headers = nil // The headers alone pass max_payload as JSON: the body matters more.
		info, err = bucket.Put(ctx, meta, bytes.NewReader(body))
	}
	if err != nil || info.Chunks <= 1 {
		return err
	}
	_, err = bucket.GetBytes(ctx, ref.name) // Compares the digest.
	return err
}

// Read gives the body that a dead letter's Kex-Body-Object names, after comparing its digest. ErrNoBody says that
// it is gone.
func (b *Bodies) Read(ctx context.Context, object string) (Body, error) {
	name, err := objectName(object)
	if err != nil {
		return Body{}, err
	}
	bucket, err := b.open(ctx)
	if err != nil {
		return Body{}, err
	}
	body, err := b.read(ctx, bucket, name)
	if err != nil {
		return Body{}, fmt.Errorf("reading the body object %s: %w", object, err)
	}
	return body, nil
}

// read reads an object and compares its digest. That the object's data is there does not mean that its chunks are:
// the client sends it before it knows that they were stored. They are counted first, because reading waits for
// those that will never come. Somebody may still remove the object between the counting and the reading: then too the
// reading waits until its time is up, so a timeout is no answer before the object was asked for again.
func (b *Bodies) read(ctx context.Context, bucket jetstream.ObjectStore, name string) (Body, error) {
	call, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	info, err := bucket.GetInfo(call, name)
	if err != nil {
		return Body{}, bodyError(err)
	}
	if err := b.count(call, info); err != nil {
		return Body{}, err
	}
	data, err := bucket.GetBytes(call, name)
	if timedOut(err) && ctx.Err() == nil {
		return Body{}, stillThere(ctx, bucket, info, err)
	}
	if err != nil {
		return Body{}, bodyError(err)
	}
	return Body{Data: data, Header: info.Headers}, nil
}

// count compares the object's chunks with what its data says of them.
func (b *Bodies) count(ctx context.Context, info *jetstream.ObjectInfo) error {
	stream, err := b.js.Stream(ctx, "OBJ_"+topology.BucketDocuments)
	if err != nil {
		return err
	}
	chunks := "$O." + topology.BucketDocuments + ".C." + info.NUID
	state, err := stream.Info(ctx, jetstream.WithSubjectFilter(chunks))
	if err != nil {
		return err
	}
	if state.State.Subjects[chunks] != uint64(info.Chunks) {
		return fmt.Errorf("%w: it has %d of %d chunks", ErrNoBody, state.State.Subjects[chunks], info.Chunks)
	}
	return nil
}

// stillThere is why an object was not read in time: it was removed or replaced while it was being read, or, if it is
// still the same, what the reading said.
func stillThere(ctx context.Context, bucket jetstream.ObjectStore, was *jetstream.ObjectInfo, timeout error) error {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	is, err := bucket.GetInfo(ctx, was.Name)
	switch {
	case err != nil:
		return bodyError(err)
	case is.NUID != was.NUID:
		return fmt.Errorf("%w: it was replaced while it was being read", ErrNoBody)
	}
	return timeout
}

// timedOut reports whether err is one of the ways the client says that time is up.
func timedOut(err error) bool {
	return errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}

// Remove removes the object that a dead letter's Kex-Body-Object names. One that is gone already is no error.
func (b *Bodies) Remove(ctx context.Context, object string) error {
	name, err := objectName(object)
	if err != nil {
		return err
	}
	bucket, err := b.open(ctx)
	if err != nil {
		return err
	}
	if err := bucket.Delete(ctx, name); err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
		return fmt.Errorf("removing the body object %s: %w", object, err)
	}
	return nil
}

// ErrNoBody says that the object which held a dead letter's body is not there, or not whole.
var ErrNoBody = errors.New("the object is missing or damaged")

func bodyError(err error) error {
	if errors.Is(err, jetstream.ErrObjectNotFound) || errors.Is(err, jetstream.ErrDigestMismatch) {
		return ErrNoBody
	}
	return err
}

// objectName takes the name out of <bucket>/<name>. Another bucket is refused: the header is data of a stream.
func objectName(object string) (string, error) {
	name, ok := strings.CutPrefix(object, topology.BucketDocuments+"/")
	if !ok || uuid.Validate(name) != nil {
		return "", fmt.Errorf("the header %s does not name an object of %s", topology.HeaderBodyObject, topology.BucketDocuments)
	}
	return name, nil
}

//nolint:ireturn // jetstream has no other type for it.
func (b *Bodies) open(ctx context.Context) (jetstream.ObjectStore, error) {
	return b.bucket.open(func() (jetstream.ObjectStore, error) {
		ctx, cancel := topology.Call(ctx, callTimeout)
		defer cancel()
		bucket, err := b.js.ObjectStore(ctx, topology.BucketDocuments)
		return bucket, Explain("opening the object bucket "+topology.BucketDocuments, b.js, err)
	})
}
