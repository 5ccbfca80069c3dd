package deadletter

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded"
	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// inFiles counts the files below dir that contain text.
func inFiles(tb testing.TB, dir string, text []byte) (n int) {
	tb.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, text) {
			n++
			tb.Logf("found in %s", path)
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

func TestAnErasureLeavesNoContentOfTheVorgangInAnyStreamObjectOrFile(t *testing.T) {
	dir := t.TempDir()
	srv, err := embedded.Start(embedded.Options{StoreDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Shutdown() })
	js := connect(t, srv.URL())
	if _, err := topology.Setup(t.Context(), js, topology.Options{}); err != nil {
		t.Fatal(err)
	}
	b := &bench{js: js, journal: journal.New(js, journal.Config{Source: source}), store: newStore(t, js)}
	t.Cleanup(b.journal.Close)
	random := make([]byte, 16)
	_, _ = rand.Read(random) // Never fails.
	canary := "CANARY" + hex.EncodeToString(random)

	for i := range uint64(20) {
		letter := aDeadLetter(i+1, "100")
		letter.Update.Body = fmt.Appendf(nil, `["%s %d"]`, canary, i)
		if i%5 == 0 { // Its body goes into an object, a header of the publisher with it.
			letter.Update.Header["X-Large"] = []string{canary + strings.Repeat("v", 9000)}
		}
		b.write(t, letter)
	}
	odd := aDeadLetter(50, update.NoVorgangsnummer)
	odd.Update.Subject, odd.Update.Kind, odd.Reason = "kex.vorgang.100.kommentare.extra", update.Invalid, fault.Invalid
	odd.Update.Body = []byte(canary)
	other := aDeadLetter(51, "1001")
	b.write(t, odd, other)
	for i, subject := range []string{"kex.vorgang.100.kommentare", "kex.vorgang.100.dokument", "kex.vorgang.100.x.y", "kex.vorgang.1001.kommentare"} {
		body := []byte(canary)
		if i == 3 {
			body = []byte(`["other"]`)
		}
		if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Data: body, Header: nats.Header{"X-Own": {string(body)}}}); err != nil {
			t.Fatal(err)
		}
	}
	// A document by reference: the update's own object.
	store, err := js.ObjectStore(t.Context(), topology.BucketDocuments)
	if err != nil {
		t.Fatal(err)
	}
	const name = "0b5c3c1e-1111-4222-8333-444444444444"
	if _, err := store.PutBytes(t.Context(), name, []byte(canary)); err != nil {
		t.Fatal(err)
	}
	reference := fmt.Appendf(nil, `{"filename":"%s.pdf","object":{"bucket":"KEX_DOCUMENTS","name":"%s","size":1,"digest":"x"}}`, canary, name)
	if _, err := js.Publish(t.Context(), "kex.vorgang.100.dokument", reference); err != nil {
		t.Fatal(err)
	}
	if inFiles(t, dir, []byte(canary)) == 0 {
		t.Fatal("the canary is in no file before")
	}

	held, err := b.store.Held(t.Context(), "100")
	if err != nil || held != (Holding{Updates: 4, DeadLetters: 21}) {
		t.Errorf("Held: %+v, %v", held, err)
	}
	done, err := b.store.Erase(t.Context(), "100", "asked for by the customer")
	if err != nil || done != (Holding{Updates: 4, DeadLetters: 21, Objects: 5}) {
		t.Errorf("Erase: %+v, %v", done, err)
	}
	if n := inFiles(t, dir, []byte(canary)); n != 0 {
		t.Errorf("the canary is in %d files", n)
	}
	for _, stream := range []string{
		topology.StreamDeadLetters, topology.StreamResults, topology.StreamAudit, streamDocuments,
		"KV_" + topology.BucketControl, "KV_" + topology.BucketLedger,
	} {
		for msg, err := range (journal.Scan{Stream: stream}).Messages(t.Context(), js) {
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(msg.Data(), []byte(canary)) || strings.Contains(fmt.Sprint(msg.Headers()), canary) {
				t.Errorf("the canary is in %s", stream)
			}
		}
	}
	if letters := b.letters(t); len(letters) != 1 {
		t.Errorf("dead letters left: %v", letters)
	}
	if updates := b.updates(t); len(updates) != 1 || topology.PublishedSubject(updates[0].Subject) != "kex.vorgang.1001.kommentare" {
		t.Errorf("updates left: %v", updates)
	}
	if events := b.events(t, update.Erased); len(events) != 25 {
		t.Errorf("%d erased events", len(events))
	}
	if events := b.events(t, update.DeadLettered); len(events) != 22 {
		t.Errorf("%d results are left", len(events))
	}
	audits := b.audits(t, journal.ActionErase) // Its begin, one for each update, its end.
	if len(audits) != 6 || audits[5].Details["deadLetters"] != "21" || audits[5].Details["state"] != "done" || audits[0].Reason == "" {
		t.Errorf("audit %+v", audits)
	}
	for _, audit := range audits[1:5] {
		if audit.UpdateSeq == 0 || audit.Reason == "" {
			t.Errorf("audit %+v", audit)
		}
	}
	if done, err = b.store.Erase(t.Context(), "100", "again"); err != nil || done != (Holding{}) {
		t.Errorf("again: %+v, %v", done, err)
	}
}

func TestAnErasureIsForOneVorgang(t *testing.T) {
	b := setUp(t)
	b.write(t, aDeadLetter(1, "1"))
	for _, vorgang := range []string{"", "*", ">", update.NoVorgangsnummer, "1.2"} {
		if _, err := b.store.Erase(t.Context(), vorgang, "x"); err == nil {
			t.Errorf("%q is erased", vorgang)
		}
	}
	if len(b.letters(t)) != 1 || len(b.audits(t, journal.ActionErase)) != 0 {
		t.Error("something was erased")
	}
}

func TestCopiesOfTheStreamsAreNamed(t *testing.T) {
	b := setUp(t)
	_, err := b.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "COPY", Mirror: &jetstream.StreamSource{Name: topology.StreamDeadLetters}})
	if err != nil {
		t.Fatal(err)
	}
	copies, err := b.store.Copies(t.Context())
	if err != nil || len(copies) != 1 || copies[0] != "COPY, a copy of KEX_DEADLETTERS" {
		t.Errorf("Copies: %v, %v", copies, err)
	}
}
