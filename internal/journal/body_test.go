package journal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

const objectStream = "OBJ_" + topology.BucketDocuments

// content is n bytes that differ from place to place.
func content(n int) []byte {
	body := make([]byte, n)
	for i := range body {
		body[i] = byte(i * 31 >> 3)
	}
	return body
}

// wantBodyObject checks that a dead letter without a body names an object with the whole of it, and reads that back.
func wantBodyObject(t *testing.T, js jetstream.JetStream, msg jetstream.Msg, body []byte) Body {
	t.Helper()
	if len(msg.Data()) != 0 {
		t.Errorf("the dead letter has a body of %d bytes", len(msg.Data()))
	}
	header := msg.Headers()
	if got, want := header.Get("Kex-Body-Size"), strconv.Itoa(len(body)); got != want {
		t.Errorf("Kex-Body-Size %s, want %s", got, want)
	}
	digest := sha256.Sum256(body)
	if got, want := header.Get("Kex-Body-Digest"), "SHA-256="+base64.URLEncoding.EncodeToString(digest[:]); got != want {
		t.Errorf("Kex-Body-Digest %s, want %s", got, want)
	}
	got, err := NewBodies(js).Read(t.Context(), header.Get("Kex-Body-Object"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Data, body) {
		t.Errorf("the object has other %d bytes, want %d", len(got.Data), len(body))
	}
	return got
}

func TestABodyNearMaxPayloadGoesIntoAnObject(t *testing.T) {
	js := setUp(t, topology.Options{})
	maxPayload := int(js.Conn().MaxPayload())
	j := newJournal(t, js)
	for name, test := range map[string]struct {
		size   int
		object bool
	}{
		"fits with its headers":   {maxPayload - 2000, false},
		"fits only without them":  {maxPayload - 10, true},
		"is as large as possible": {maxPayload, true},
	} {
		t.Run(name, func(t *testing.T) {
			u := anUpdate(uint64(test.size))
			u.Body = content(test.size)
			settle(t, j, deadLettered(u))
			letters := messages(t, js, topology.StreamDeadLetters)
			msg := letters[len(letters)-1]
			if !test.object {
				if !bytes.Equal(msg.Data(), u.Body) || msg.Headers().Get("Kex-Body-Object") != "" {
					t.Error("the dead letter has not its own body alone")
				}
				return
			}
			wantBodyObject(t, js, msg, u.Body)
			validateHeaders(t, msg.Headers())
		})
	}
}

func TestHeadersWithoutRoomGoIntoTheObject(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := anUpdate(1)
	for i := range 60 {
		u.Header[fmt.Sprintf("X-Header-%02d", i)] = []string{strings.Repeat("v", 1000)}
	}
	u.Header["X-Small"] = []string{"one", "two"}
	u.Header["X-Traceid"], u.Header["Nats-Msg-Id"] = []string{"not kept"}, []string{"not kept"}
	j := newJournal(t, js)
	settle(t, j, deadLettered(u))

	msg := only(t, js, topology.StreamDeadLetters)
	if size := headerSize(msg.Headers()); size > 8<<10+300 {
		t.Errorf("the dead letter has %d bytes of headers", size) // Kex-Body-* come on top.
	}
	body := wantBodyObject(t, js, msg, u.Body)
	all := nats.Header{}
	for name, values := range msg.Headers() {
		if PublishersOwn(name) && name != update.HeaderTraceID {
			all[name] = values
		}
	}
	maps.Copy(all, body.Header)
	delete(u.Header, "X-Traceid")
	delete(u.Header, "Nats-Msg-Id")
	if diff := cmp.Diff(nats.Header(u.Header), all); diff != "" {
		t.Errorf("headers in the dead letter and the object (-want +got):\n%s", diff)
	}
	if got := msg.Headers()["X-Small"]; !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("X-Small fits, but is %q", got)
	}
}

func TestARepeatLeavesOneObject(t *testing.T) {
	js := setUp(t, topology.Options{})
	maxPayload := int(js.Conn().MaxPayload())
	u := anUpdate(1)
	u.Body = content(maxPayload)
	j := newJournal(t, js)
	settle(t, j, deadLettered(u))
	before := streamState(t, js, objectStream)
	settle(t, j, deadLettered(u))
	settle(t, New(js, Config{Source: source}), deadLettered(u)) // Another process, after a crash.
	if after := streamState(t, js, objectStream); after.Msgs != before.Msgs || after.LastSeq != before.LastSeq {
		t.Errorf("the bucket went from %d to %d messages, up to sequence %d", before.Msgs, after.Msgs, after.LastSeq)
	}
	other := anUpdate(2)
	other.Body = u.Body
	settle(t, j, deadLettered(other))
	letters := messages(t, js, topology.StreamDeadLetters)
	if letters[0].Headers().Get("Kex-Body-Object") == letters[1].Headers().Get("Kex-Body-Object") {
		t.Error("two updates share an object")
	}
}

func TestAHalfWrittenObjectIsWrittenAgain(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := anUpdate(1)
	u.Body = content(int(js.Conn().MaxPayload()))
	j := newJournal(t, js)
	bucket, err := j.bodies.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ref, err := j.bodies.store(t.Context(), u, nil, js.Conn().MaxPayload())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bucket.PutBytes(t.Context(), ref.name, u.Body[:1000]); err != nil {
		t.Fatal(err)
	}
	settle(t, j, deadLettered(u))
	wantBodyObject(t, js, only(t, js, topology.StreamDeadLetters), u.Body)
}

// max_payload may have been lowered since the update was published; the object then has several chunks.
func TestABodyAboveMaxPayloadIsStoredInChunks(t *testing.T) {
	js := setUp(t, topology.Options{})
	j := New(js, Config{Source: source, MaxPayload: func() int64 { return 100_000 }})
	t.Cleanup(j.Close)
	u := anUpdate(1)
	u.Body = content(1_000_000)
	settle(t, j, deadLettered(u))
	wantBodyObject(t, js, only(t, js, topology.StreamDeadLetters), u.Body)
	if n := streamState(t, js, objectStream).Msgs; n != 11 {
		t.Errorf("%d messages in the bucket, want 10 chunks and the object's data", n)
	}
}

func TestAStreamsOwnLimitIsNoStorageFault(t *testing.T) {
	js := setUp(t, topology.Options{})
	updateStream(t, js, topology.StreamDeadLetters, func(cfg *jetstream.StreamConfig) { cfg.MaxMsgSize = 20_000 })
	u := anUpdate(1)
	u.Body = content(30_000)
	settle(t, newJournal(t, js), deadLettered(u))
	wantBodyObject(t, js, only(t, js, topology.StreamDeadLetters), u.Body)
}

func TestAnEmptyBodyWithManyHeadersIsKept(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := anUpdate(1)
	u.Body = nil
	u.Header["X-Large"] = []string{strings.Repeat("v", 9000)}
	settle(t, newJournal(t, js), deadLettered(u))
	body := wantBodyObject(t, js, only(t, js, topology.StreamDeadLetters), nil)
	if len(body.Header.Get("X-Large")) != 9000 {
		t.Errorf("X-Large has %d bytes in the object", len(body.Header.Get("X-Large")))
	}
}

func TestAnObjectThatCannotBeStoredIsAStorageFault(t *testing.T) {
	u := anUpdate(1)
	u.Header["X-Large"] = []string{strings.Repeat("v", 9000)}
	t.Run("no bucket", func(t *testing.T) {
		js := connect(t, embeddedtest.Run(t).URL())
		wantStorage(t, newJournal(t, js).Settle(t.Context(), deadLettered(u)), "update 1", topology.BucketDocuments, "kexrelay setup")
	})
	t.Run("full bucket", func(t *testing.T) {
		js := setUp(t, topology.Options{})
		updateStream(t, js, objectStream, func(cfg *jetstream.StreamConfig) { cfg.MaxBytes = 10_000 })
		big := anUpdate(1)
		big.Body = content(int(js.Conn().MaxPayload()))
		j := newJournal(t, js)
		wantStorage(t, j.Settle(t.Context(), deadLettered(big)), "update 1", topology.BucketDocuments, "maximum bytes exceeded")
		if n := len(messages(t, js, topology.StreamDeadLetters)); n != 0 {
			t.Errorf("%d dead letters without their body", n)
		}
		updateStream(t, js, objectStream, func(cfg *jetstream.StreamConfig) { cfg.MaxBytes = -1 })
		settle(t, j, deadLettered(big))
		wantBodyObject(t, js, only(t, js, topology.StreamDeadLetters), big.Body)
		if n := streamState(t, js, objectStream).Msgs; n != 2 {
			t.Errorf("%d messages in the bucket, want one chunk and the object's data", n)
		}
	})
}

func TestRemovedBodiesAreGone(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := anUpdate(1)
	u.Body = content(int(js.Conn().MaxPayload()))
	settle(t, newJournal(t, js), deadLettered(u))
	object := only(t, js, topology.StreamDeadLetters).Headers().Get("Kex-Body-Object")
	bodies := NewBodies(js)
	for range 2 {
		if err := bodies.Remove(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := bodies.Read(t.Context(), object); !errors.Is(err, ErrNoBody) {
		t.Errorf("reading it gives %v, want ErrNoBody", err)
	}
	for _, object := range []string{"", "KEX_DOCUMENTS/", "OTHER/0b0e8f1c-6a55-4a52-9f0e-3f1d2c7b8a90", "KEX_DOCUMENTS/not-ours"} {
		if _, err := bodies.Read(t.Context(), object); err == nil || errors.Is(err, ErrNoBody) {
			t.Errorf("Read(%q) gives %v, want a refusal", object, err)
		}
		if err := bodies.Remove(t.Context(), object); err == nil {
			t.Errorf("Remove(%q) does not refuse", object)
		}
	}
}

// meddled is a bucket in which something happens between the counting of an object's chunks and their reading, which
// then waits in vain.
type meddled struct {
	jetstream.ObjectStore
	meddle func()
}

func (m meddled) GetBytes(context.Context, string, ...jetstream.GetObjectOpt) ([]byte, error) {
	m.meddle()
	return nil, nats.ErrTimeout
}

func TestABodyThatGoesWhileItIsReadIsGone(t *testing.T) {
	js := setUp(t, topology.Options{})
	u := anUpdate(1)
	u.Body = content(1000)
	bodies := NewBodies(js)
	ref, err := bodies.store(t.Context(), u, nil, js.Conn().MaxPayload())
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := bodies.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		meddle func()
		want   error
	}{
		{"nothing happens", func() {}, nats.ErrTimeout},
		{"replaced", func() {
			if _, err := bucket.PutBytes(t.Context(), ref.name, u.Body); err != nil {
				t.Error(err)
			}
		}, ErrNoBody},
		{"removed", func() {
			if err := bucket.Delete(t.Context(), ref.name); err != nil {
				t.Error(err)
			}
		}, ErrNoBody},
	} {
		if _, err := bodies.read(t.Context(), meddled{bucket, test.meddle}, ref.name); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}
