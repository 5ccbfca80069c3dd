package journal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// stored puts data into the bucket, as a publisher does.
func stored(tb testing.TB, js jetstream.JetStream, data []byte) *update.Object {
	tb.Helper()
	o := &update.Object{Name: uuid.NewString(), Size: int64(len(data)), Digest: sha256.Sum256(data)}
	if _, err := documentBucket(tb, js).PutBytes(tb.Context(), o.Name, data); err != nil {
		tb.Fatal(err)
	}
	return o
}

func documentBucket(tb testing.TB, js jetstream.JetStream) jetstream.ObjectStore {
	tb.Helper()
	bucket, err := js.ObjectStore(tb.Context(), topology.BucketDocuments)
	if err != nil {
		tb.Fatal(err)
	}
	return bucket
}

func wantMissing(t *testing.T, err error) {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Kind != fault.Permanent || f.Reason != fault.ObjectMissing || f.Unknown {
		t.Errorf("got %v, want a permanent fault object_missing", err)
	}
}

func checked(t *testing.T, d *Documents, o *update.Object) error {
	t.Helper()
	_, err := d.Check(t.Context(), o)
	return err
}

func TestADocumentIsReadAsItWasStored(t *testing.T) {
	js := setUp(t, topology.Options{})
	d := NewDocuments(js)
	for _, size := range []int{1, 127 << 10, 128 << 10, 128<<10 + 1, 5 << 20} {
		data := content(size)
		o := stored(t, js, data)
		if err := checked(t, d, o); err != nil {
			t.Fatal(err)
		}
		r, err := d.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes: read %d, %v", size, len(got), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := d.Remove(t.Context(), o); err != nil {
			t.Error(err)
		}
		wantMissing(t, checked(t, d, o))
		_, err = d.Open(t.Context(), o)
		wantMissing(t, err)
		if err := d.Remove(t.Context(), o); err != nil {
			t.Errorf("removing it again: %v", err)
		}
	}
}

func TestADocumentThatIsNotTheOneMeantIsMissing(t *testing.T) {
	js := setUp(t, topology.Options{})
	d := NewDocuments(js)
	o := stored(t, js, content(300<<10))
	other := *o
	other.Size++
	wantMissing(t, checked(t, d, &other))
	other = *o
	other.Digest[0] ^= 1
	wantMissing(t, checked(t, d, &other))
	other = *o
	other.Name = uuid.NewString()
	wantMissing(t, checked(t, d, &other))

	bucket := documentBucket(t, js)
	info, err := bucket.GetInfo(t.Context(), o.Name)
	if err != nil {
		t.Fatal(err)
	}
	other.Digest, other.Size = o.Digest, o.Size
	if _, err := bucket.AddLink(t.Context(), other.Name, info); err != nil {
		t.Fatal(err)
	}
	wantMissing(t, checked(t, d, &other))

	stream, err := js.Stream(t.Context(), objectStream)
	if err != nil {
		t.Fatal(err)
	}
	chunk, err := stream.GetLastMsgForSubject(t.Context(), "$O."+topology.BucketDocuments+".C."+info.NUID)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), chunk.Sequence); err != nil {
		t.Fatal(err)
	}
	wantMissing(t, checked(t, d, o))
	r, err := d.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if got, err := io.ReadAll(r); err != nil || len(got) >= 300<<10 {
		t.Errorf("read %d bytes, %v: want fewer than there were", len(got), err)
	}
}

// Removed or replaced in the middle, the document ends early: its size and digest are the reader's to compare.
func TestADocumentRemovedWhileItIsReadEndsEarly(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	d := NewDocuments(js)
	data := content(8 << 20)
	o := stored(t, js, data)
	r, err := d.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, r); n+1000 >= int64(len(data)) || err != nil {
		t.Errorf("read %d bytes of %d, %v", n+1000, len(data), err)
	}
}

// Another document under the same name is never mixed with the one being read, and is not taken for it afterwards.
func TestADocumentReplacedWhileItIsReadIsMissing(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	d := NewDocuments(js)
	data := content(8 << 20)
	o := stored(t, js, data)
	r, err := d.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	got := make([]byte, 1000)
	if _, err := io.ReadFull(r, got); err != nil {
		t.Fatal(err)
	}
	if _, err := documentBucket(t, js).PutBytes(t.Context(), o.Name, bytes.Repeat([]byte("another "), len(data)/8)); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(r)
	if got := slices.Concat(got, rest); err != nil || len(got) >= len(data) || !bytes.HasPrefix(data, got) {
		t.Errorf("read %d bytes, %v: want fewer than there were, and those of the first", len(got), err)
	}
	wantMissing(t, checked(t, d, o))
	_, err = d.Open(t.Context(), o)
	wantMissing(t, err)
}

func TestReadingADocumentEndsWithItsContext(t *testing.T) {
	js := setUp(t, topology.Options{})
	d := NewDocuments(js)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := d.Open(ctx, stored(t, js, content(8<<20)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	cancel()
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestWithoutTheBucketADocumentIsNotTakenForMissing(t *testing.T) {
	js := setUp(t, topology.Options{})
	o := stored(t, js, content(10))
	if err := js.DeleteObjectStore(t.Context(), topology.BucketDocuments); err != nil {
		t.Fatal(err)
	}
	_, err := NewDocuments(js).Open(t.Context(), o)
	if f := fault.Of(err); f.Kind != fault.Transient || f.Reason != fault.Storage {
		t.Errorf("got %+v", f)
	}
}

// BenchmarkDocument reads a document of 100 MB.
func BenchmarkDocument(b *testing.B) {
	js := setUp(b, topology.Options{})
	d := NewDocuments(js)
	o := stored(b, js, content(100<<20))
	b.SetBytes(o.Size)
	b.ReportAllocs()
	for b.Loop() {
		r, err := d.Open(b.Context(), o)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, r); n != o.Size || err != nil {
			b.Fatal(n, err)
		}
		_ = r.Close()
	}
}

func TestADocumentIsStoredWholeOrNotAtAll(t *testing.T) {
	js := setUp(t, topology.Options{Replicas: 1})
	d := NewDocuments(js)
	data := content(1<<20 + 1)
	o, err := d.Put(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if o.Size != int64(len(data)) || o.Digest != sha256.Sum256(data) {
		t.Errorf("got %+v", o)
	}
	if err := checked(t, d, o); err != nil {
		t.Error(err)
	}
	if err := d.Remove(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the disk broke")
	if _, err := d.Put(t.Context(), io.MultiReader(bytes.NewReader(data), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, err := d.Put(t.Context(), bytes.NewReader(nil)); err == nil {
		t.Error("an empty document was stored")
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := d.Put(ctx, io.MultiReader(bytes.NewReader(data), readerFunc(func([]byte) (int, error) {
		cancel()
		return 0, io.ErrUnexpectedEOF
	}))); err == nil {
		t.Error("an interrupted document was stored")
	}
	if n := chunksIn(t, js); n != 0 {
		t.Errorf("%d chunks were left", n)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// chunksIn counts what is left of documents.
func chunksIn(tb testing.TB, js jetstream.JetStream) uint64 {
	tb.Helper()
	stream, err := js.Stream(tb.Context(), objectStream)
	if err != nil {
		tb.Fatal(err)
	}
	info, err := stream.Info(tb.Context(), jetstream.WithSubjectFilter("$O."+topology.BucketDocuments+".C.*"))
	if err != nil {
		tb.Fatal(err)
	}
	var n uint64
	for subject, count := range info.State.Subjects {
		last, err := stream.GetLastMsgForSubject(tb.Context(), subject)
		if err != nil {
			tb.Fatal(err)
		}
		if count == 1 && len(last.Data) == 0 {
			continue // It stands where an upload was taken back.
		}
		n += count
	}
	return n
}

func TestAFullBucketIsSaidSo(t *testing.T) {
	js := setUp(t, topology.Options{})
	stream, err := js.Stream(t.Context(), objectStream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.MaxBytes, cfg.Discard = 1<<20, jetstream.DiscardNew
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := NewDocuments(js).Put(t.Context(), bytes.NewReader(content(3<<20))); !errors.Is(err, ErrBucketFull) {
		t.Errorf("got %v", err)
	}
	if n := chunksIn(t, js); n != 0 {
		t.Errorf("%d chunks were left", n)
	}
}

func TestOnlyObjectsThatNothingNamesAreSweptAndOnlyAtTheSecondLook(t *testing.T) {
	js := setUp(t, topology.Options{})
	waiting, dead, body, orphan, young := stored(t, js, content(1)), stored(t, js, content(2)), stored(t, js, content(3)), stored(t, js, content(4)), stored(t, js, content(5))
	reference := func(o *update.Object) []byte {
		return fmt.Appendf(nil, `{"filename":"a","object":{"bucket":"KEX_DOCUMENTS","name":"%s","size":%d,"digest":"%s"}}`, o.Name, o.Size, o.DigestText())
	}
	if _, err := js.Publish(t.Context(), "kex.vorgang.1.dokument", reference(waiting)); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "kex.deadletter.gone.1.dokument", reference(dead)); err != nil {
		t.Fatal(err)
	}
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{
		Subject: "kex.deadletter.gone.1.dokument", Header: nats.Header{topology.HeaderBodyObject: {topology.BucketDocuments + "/" + body.Name}},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "$O."+topology.BucketDocuments+".C.unfinished", []byte("x")); err != nil {
		t.Fatal(err)
	}
	empty := func() {
		t.Helper()
		stream, err := js.Stream(t.Context(), topology.StreamUpdates)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.DeleteMsg(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
	s := NewSweeper(js)
	sweep := func(want int) {
		t.Helper()
		if n, err := s.Sweep(t.Context()); n != want || err != nil {
			t.Errorf("swept %d, %v, want %d", n, err, want)
		}
	}
	sweep(0) // All are young.
	sweep(0)
	s.age = 0
	sweep(0) // A document waits.
	sweep(0)
	empty()
	sweep(0) // The first look at them.
	sweep(4)
	sweep(0)
	d := NewDocuments(js)
	for _, o := range []*update.Object{dead, body} {
		if err := checked(t, d, o); err != nil {
			t.Errorf("swept although it is named: %v", err)
		}
	}
	for _, o := range []*update.Object{orphan, young, waiting} {
		wantMissing(t, checked(t, d, o))
	}
	if n := chunksIn(t, js); n != 2 {
		t.Errorf("%d chunks are left, want those of the two", n)
	}
}
