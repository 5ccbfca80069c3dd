package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/fault"
	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// objects counts what is in the bucket of documents, chunks of what is no whole object included.
func (s *system) objects() (objects, messages int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	bucket, err := s.js.ObjectStore(ctx, topology.BucketDocuments)
	if err != nil {
		s.t.Fatal(err)
	}
	list, err := bucket.List(ctx)
	if err != nil && err != jetstream.ErrNoObjectsFound { //nolint:errorlint // As documented.
		s.t.Fatal(err)
	}
	stream, err := s.js.Stream(ctx, "OBJ_"+topology.BucketDocuments)
	if err != nil {
		s.t.Fatal(err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter("$O."+topology.BucketDocuments+".C.*"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, n := range info.State.Subjects {
		messages += int(n)
	}
	return len(list), messages
}

// aFile is a file of n bytes that differ from place to place, and from file to file.
func (s *system) aFile(name string, n int) (path string, content []byte) {
	s.t.Helper()
	content = bytes.Repeat(fmt.Appendf(nil, "%s %d ", name, n), n/8)[:n]
	path = filepath.Join(s.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path, content
}

// wantDocument checks that a booking is a document with this content.
func wantDocument(t *testing.T, body []byte, name string, content []byte) {
	t.Helper()
	var got struct{ Filename, Base64Content string }
	if err := json.Unmarshal(body, &got); err != nil {
		t.Errorf("%s: booked no JSON: %v", name, err)
		return
	}
	data, err := base64.StdEncoding.DecodeString(got.Base64Content)
	if err != nil || got.Filename != name || sha256.Sum256(data) != sha256.Sum256(content) {
		t.Errorf("booked %q with %d bytes, %v, want %q with %d", got.Filename, len(data), err, name, len(content))
	}
}

// A document too large for a message is stored in the bucket, streamed from there through retries, and removed when it
// is delivered. The small one beside it goes the usual way.
func TestALargeDocumentIsCarriedByReference(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{
		Faults: []simulator.Fault{
			{Rate: 0.3, Answer: simulator.Answer{Status: 503}},
			{Rate: 0.2, Answer: simulator.Answer{Cut: simulator.CutBeforeBooking, Reset: true}},
		},
	})
	large, content := s.aFile("Grundbuch.pdf", 25<<20)
	small, text := s.aFile("Ausweis.pdf", 1000)
	publish := func(vorgang string, files ...string) string {
		t.Helper()
		out, errs, code := runProgram(t, s.natsEnv(), nil, programs.kexrelay, append([]string{"publish", "document", "--json", "--vorgang", vorgang}, files...)...)
		if code != 0 {
			t.Fatalf("publish: exit code %d\n%s%s", code, out, errs)
		}
		return out
	}
	publish("123456", large, small)
	publish("123456", large) // Not stored again, and its second upload is taken back.
	publish("123457", large)
	if n, chunks := s.objects(); n != 2 || chunks < 400 || chunks > 402 {
		t.Errorf("%d objects of %d chunks, want two of about 200", n, chunks)
	}
	s.serve("KEXRELAY_RETRY_INITIAL=50ms", "KEXRELAY_RETRY_MAX_INTERVAL=500ms")
	s.drained(2 * time.Minute)
	bookings := s.api.Bookings("123456")
	if len(bookings) != 2 || len(s.api.Bookings("123457")) != 1 {
		t.Fatalf("%d bookings, want 2, and 1", len(bookings))
	}
	wantDocument(t, bookings[0].Body, "Grundbuch.pdf", content)
	wantDocument(t, bookings[1].Body, "Ausweis.pdf", text)
	wantDocument(t, s.api.Bookings("123457")[0].Body, "Grundbuch.pdf", content)
	for _, e := range s.results() {
		if e.Data.Outcome != update.Delivered {
			t.Errorf("result %+v", e.Data)
		}
	}
	eventually(t, 10*time.Second, "the objects are gone, but for the empty message that stands for the upload taken back", func() bool {
		n, chunks := s.objects()
		return n == 0 && chunks == 1
	})
}

// What is not there, or not what the update says, is a dead letter; nothing of it is booked, and it stays where it is.
func TestADamagedObjectIsADeadLetterAndNeverBooked(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{})
	bucket, err := s.js.ObjectStore(t.Context(), topology.BucketDocuments)
	if err != nil {
		t.Fatal(err)
	}
	_, content := s.aFile("x", 3<<20)
	put := func(data []byte) string {
		t.Helper()
		name := uuid.NewString()
		if _, err := bucket.PutBytes(t.Context(), name, data); err != nil {
			t.Fatal(err)
		}
		return name
	}
	reference := func(name string, size int, digest [32]byte) string {
		return fmt.Sprintf(`{"filename":"a.pdf","object":{"bucket":"KEX_DOCUMENTS","name":"%s","size":%d,"digest":"SHA-256=%s"}}`,
			name, size, base64.URLEncoding.EncodeToString(digest[:]))
	}
	right := sha256.Sum256(content)
	flipped := bytes.Clone(content)
	flipped[len(flipped)-1] ^= 1

	// The object's own digest is right, its bytes are not: only who reads them all can tell.
	damaged := put(content)
	info, err := bucket.GetInfo(t.Context(), damaged)
	if err != nil {
		t.Fatal(err)
	}
	chunks := "$O." + topology.BucketDocuments + ".C." + info.NUID
	stream, err := s.js.Stream(t.Context(), "OBJ_"+topology.BucketDocuments)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject(chunks)); err != nil {
		t.Fatal(err)
	}
	for rest := flipped; len(rest) > 0; rest = rest[min(len(rest), 128<<10):] {
		if _, err := s.js.Publish(t.Context(), chunks, rest[:min(len(rest), 128<<10)]); err != nil {
			t.Fatal(err)
		}
	}
	for i, body := range []string{
		reference(damaged, len(content), right),
		reference(put(flipped), len(content), right),
		reference(put(content), len(content)+1, right),
		reference(uuid.NewString(), len(content), right),
	} {
		s.publish(fmt.Sprintf("kex.vorgang.%d.dokument", 200+i), body, nil)
	}
	s.publish("kex.vorgang.300.dokument", reference(put(content), len(content), right), nil)
	s.serve()
	s.drained(time.Minute)
	for _, e := range s.results() {
		if whole := e.Data.Vorgangsnummer == "300"; whole != (e.Data.Outcome == update.Delivered) ||
			!whole && (e.Data.Reason != fault.ObjectMissing || e.Data.PossibleDuplicate) {
			t.Errorf("result %+v", e.Data)
		}
	}
	if n := len(s.api.Ledger()); n != 1 {
		t.Errorf("%d bookings, want one", n)
	}
	if n, _ := s.objects(); n != 3 {
		t.Errorf("%d objects, want the three of dead letters", n)
	}
}
