package journal

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
)

// asRole connects as a role of deploy/nats.
func asRole(t *testing.T, s *embeddedtest.Secured, role string) jetstream.JetStream {
	t.Helper()
	key, err := nats.NkeyOptionFromSeed(s.File(role + ".nk"))
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(s.URL(), key, nats.RootCAs(s.File("ca.crt")), nats.CustomInboxPrefix("_INBOX_"+role),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// What a relay does now and then only, it may do too: taking over after a crash, sweeping, the index, large bodies.
func TestTheRelaysRoleIsEnoughForWhatComesSeldom(t *testing.T) {
	secured := embeddedtest.RunSecured(t, embeddedtest.SecuredOptions{})
	if _, err := topology.Setup(t.Context(), asRole(t, secured, "setup"), topology.Options{}); err != nil {
		t.Fatal(err)
	}
	js := asRole(t, secured, "relay")
	operator := asRole(t, secured, "operator")

	sent := waiting(t, operator, 1)[0]
	for crashes := range 3 {
		r := aReplica(t, js, "a")
		if got := r.past(sent).Crashes; got != crashes {
			t.Errorf("%d crashes are known, want %d", got, crashes)
		}
		sent.Attempts, sent.Crashes, sent.Unknowns = crashes+1, crashes, crashes
		r.sending(t, sent)
		r.crash()
	}

	d := NewDocuments(asRole(t, secured, "publisher"))
	for n := range 3 { // One that is waited for, one that nothing names, one that is taken back.
		o, err := d.Put(t.Context(), bytes.NewReader(content(1<<20+n)))
		if err != nil {
			t.Fatal(err)
		}
		switch n {
		case 0:
			reference := fmt.Appendf(nil, `{"filename":"a","object":{"bucket":"KEX_DOCUMENTS","name":"%s","size":%d,"digest":"%s"}}`, o.Name, o.Size, o.DigestText())
			if _, err := operator.Publish(t.Context(), "kex.deadletter.gone.1.dokument", reference); err != nil {
				t.Fatal(err)
			}
		case 2:
			if err := d.TakeBack(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
	}
	sweeper := NewSweeper(js)
	sweeper.age = 0
	for _, want := range []int{0, 2} {
		if n, err := sweeper.Sweep(t.Context()); n != want || err != nil {
			t.Errorf("swept %d, %v, want %d", n, err, want)
		}
	}

	j := newJournal(t, js)
	large := anUpdate(7)
	large.Body = bytes.Repeat([]byte("x"), 9<<20)
	settle(t, j, deadLettered(large))
	letter := second(t, operator)
	if err := NewBodies(js).Remove(t.Context(), letter.Header.Get(topology.HeaderBodyObject)); err != nil {
		t.Error(err)
	}

	claims := NewClaims(operator)
	claim := Claim{DeadLetterSeq: 1, DeadLetterAt: time.Now()}
	if _, _, err := claims.Acquire(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	all := func(context.Context, Claim) (bool, error) { return true, nil }
	if n, err := claims.Sweep(t.Context(), time.Now().Add(time.Hour), 10, all); n != 1 || err != nil {
		t.Errorf("%d claims were swept, %v", n, err)
	}
	writeResults(t, js, 100, 100+indexSpan+10)
	maintainTo(t, NewIndex(js), 1)

	for _, refused := range secured.Refused() {
		t.Errorf("not permitted: %s", refused.Line)
	}
}

// second is the second dead letter.
func second(t *testing.T, js jetstream.JetStream) *jetstream.RawStreamMsg {
	t.Helper()
	stream, err := js.Stream(t.Context(), topology.StreamDeadLetters)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetMsg(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// A publisher may store documents and read none, and nothing of what it does needs more.
func TestAPublisherStoresDocumentsWithTheRightToPublishAlone(t *testing.T) {
	secured := embeddedtest.RunSecured(t, embeddedtest.SecuredOptions{})
	if _, err := topology.Setup(t.Context(), asRole(t, secured, "setup"), topology.Options{}); err != nil {
		t.Fatal(err)
	}
	relay, d := asRole(t, secured, "relay"), NewDocuments(asRole(t, secured, "publisher"))
	for _, size := range []int{1, uploadChunk - 1, uploadChunk, uploadChunk + 1, uploadsAhead*uploadChunk + 1, 9 << 20} {
		o, err := d.Put(t.Context(), bytes.NewReader(content(size)))
		if err != nil {
			t.Fatal(err)
		}
		if err := checked(t, NewDocuments(relay), o); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		bucket := documentBucket(t, relay)
		if read, err := bucket.GetBytes(t.Context(), o.Name); err != nil || !bytes.Equal(read, content(size)) {
			t.Errorf("%d bytes: read %d bytes, %v", size, len(read), err)
		}
		if err := d.TakeBack(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		wantMissing(t, checked(t, NewDocuments(relay), o))
	}
	if n := chunksIn(t, relay); n != 0 {
		t.Errorf("%d chunks were left", n)
	}
	for _, refused := range secured.Refused() {
		t.Errorf("not permitted: %s", refused.Line)
	}
	reader := NewDocuments(asRole(t, secured, "reader"))
	if _, err := reader.Put(t.Context(), bytes.NewReader(content(10))); err == nil {
		t.Error("a reader stored a document")
	}
}
