package relay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// fakeDocuments has one object, or says why not.
type fakeDocuments struct {
	data   []byte
	refuse error

	mu      sync.Mutex
	removed int
}

const fakeMemory = 1000

func (f *fakeDocuments) Check(context.Context, *update.Object) (int64, error) {
	return fakeMemory, f.refuse
}

func (f *fakeDocuments) Open(context.Context, *update.Object) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(f.data)), nil
}

func (f *fakeDocuments) Remove(context.Context, *update.Object) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.removed++
	return nil
}

func (f *fakeDocuments) removals() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.removed
}

// fakeMemoryOf gives memory when the channel lets it, and notes what it was asked for.
type fakeMemoryOf struct {
	gate chan struct{}

	mu     sync.Mutex
	story  []string
	before func() string // What was going on when it was asked.
}

func (f *fakeMemoryOf) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.story = append(f.story, fmt.Sprintf(format, args...))
}

func (f *fakeMemoryOf) all() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.story)
}

func (f *fakeMemoryOf) Take(ctx context.Context, n int64) (func(), error) {
	f.note("asked for %d%s", n, f.before())
	select {
	case <-f.gate:
		f.note("given")
		return func() { f.note("back") }, nil
	case <-ctx.Done():
		f.note("given up")
		return nil, ctx.Err()
	}
}

// byReference is an update that names an object.
func byReference(seq uint64, vorgang string) *fakeDelivery {
	o := update.Object{Digest: sha256.Sum256([]byte("scan"))}
	d := comments(seq, vorgang)
	d.subject = update.SubjectPrefix + vorgang + ".dokument"
	d.body = fmt.Sprintf(`{"filename":"a.pdf","object":{"bucket":"KEX_DOCUMENTS","name":"0b0e8f1c-6a55-4a52-9f0e-3f1d2c7b8a90","size":4,"digest":"%s"}}`, o.DigestText())
	return d
}

// startWithDocuments is start with objects to read and memory to wait for.
func startWithDocuments(t *testing.T, api *fakeAPI, documents *fakeDocuments) (*bench, *fakeMemoryOf) {
	t.Helper()
	memory := &fakeMemoryOf{gate: make(chan struct{}), before: func() string { return "" }}
	b := start(t, api, nil)
	b.deps.Documents, b.deps.Memory = documents, memory
	return b, memory
}

// Who waits for memory holds none and has written nothing down: the record of a request is young when it is made.
func TestADocumentByReferenceWaitsForMemoryBeforeItsRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		documents := &fakeDocuments{data: []byte("scan")}
		b, memory := startWithDocuments(t, &fakeAPI{answer: func(n int, _ update.Request) error {
			if n == 1 {
				return unavailable()
			}
			return nil
		}}, documents)
		d := byReference(1, "7")
		memory.before = func() string {
			return fmt.Sprintf(", released %t, ledger %q, requests %d", d.released(), b.tenure.story(), len(b.api.requests()))
		}
		b.Accept(d)
		synctest.Wait()
		if got := len(b.api.requests()); got != 0 {
			t.Fatalf("%d requests before there was memory", got)
		}
		close(memory.gate)
		<-d.acked
		synctest.Wait()
		asked := fmt.Sprintf("asked for %d", fakeMemory+sending)
		want := []string{
			asked + `, released true, ledger "", requests 0`, "given", "back",
			asked + `, released true, ledger "sending 1/1, idle 1/1", requests 1`, "given", "back",
		}
		if got := memory.all(); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if documents.removals() != 1 {
			t.Error("the object was not removed")
		}
	})
}

func TestWaitingForMemoryEndsWithTheRightToSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, memory := startWithDocuments(t, &fakeAPI{}, &fakeDocuments{})
		b.Accept(byReference(1, "7"))
		synctest.Wait()
		b.tenure.lose()
		synctest.Wait()
		if got := memory.all(); len(got) != 2 || got[1] != "given up" {
			t.Errorf("got %q", got)
		}
		if len(b.api.requests()) != 0 || len(b.journal.all()) != 0 {
			t.Error("something was sent or settled")
		}
	})
}

// What its object is not is known before a request is begun; that nobody can tell is no fault of the update.
func TestADocumentWithoutItsObjectIsADeadLetterWithoutACall(t *testing.T) {
	for name, tt := range map[string]struct {
		refuse error
		dead   int
	}{
		"missing":                 {&fault.Error{Kind: fault.Permanent, Reason: fault.ObjectMissing, Detail: "the object is not there"}, 1},
		"no bucket, or NATS away": {errors.New("no stream response"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				documents := &fakeDocuments{refuse: tt.refuse}
				b, memory := startWithDocuments(t, &fakeAPI{}, documents)
				b.Accept(byReference(1, "7"))
				synctest.Wait()
				settled := b.journal.all()
				if len(settled) != tt.dead || tt.dead > 0 && (settled[0].Reason != fault.ObjectMissing || settled[0].Attempts != 0) {
					t.Errorf("settled %+v", settled)
				}
				if len(b.api.requests()) != 0 || len(memory.all()) != 0 || documents.removals() != 0 {
					t.Error("a request was begun, or the object of a dead letter removed")
				}
			})
		})
	}
}
