package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/journal"
	"kexrelay/internal/queue"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// prepared is a call of publish on a server of its own.
func prepared(t *testing.T) (*publishDocumentCommand, *publishing, jetstream.JetStream) {
	t.Helper()
	conn, err := queue.Connect(t.Context(), queue.ConnectOptions{URL: embeddedtest.Run(t).URL()}, queue.Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { disconnect(context.WithoutCancel(t.Context()), conn) })
	if _, err := topology.Setup(t.Context(), conn.JetStream(), topology.Options{}); err != nil {
		t.Fatal(err)
	}
	env := &environment{stderr: io.Discard}
	c := &publishDocumentCommand{publishCommand: publishCommand{env: env, vorgang: "1"}}
	return c, &publishing{
		command: &c.publishCommand, env: env, kind: update.Document, vorgang: "1", tracePrefix: "kxr",
		publisher: queue.NewPublisher(conn), documents: journal.NewDocuments(conn.JetStream()),
	}, conn.JetStream()
}

// wantNothing checks that nothing was published and nothing stays in the bucket.
func wantNothing(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	for stream, subject := range map[string]string{
		topology.StreamUpdates: ">", "OBJ_" + topology.BucketDocuments: "$O." + topology.BucketDocuments + ".C.>",
	} {
		s, err := js.Stream(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		info, err := s.Info(t.Context(), jetstream.WithSubjectFilter(subject))
		if err != nil {
			t.Fatal(err)
		}
		for subject, count := range info.State.Subjects {
			last, err := s.GetLastMsgForSubject(t.Context(), subject)
			if err != nil {
				t.Fatal(err)
			}
			if count > 1 || len(last.Data) > 0 { // An empty message may stand where an upload was taken back.
				t.Errorf("%s has %v", stream, info.State.Subjects)
			}
		}
	}
}

// Half an old and half a new file is no document, whether it fits into a message or goes into the bucket.
func TestAFileThatChangesWhileItIsPublishedIsNotPublished(t *testing.T) {
	c, run, js := prepared(t)
	for name, size := range map[string]int{"inline": 1000, "by reference": 9 << 20} {
		for change, do := range map[string]func(path string) error{
			"grows": func(path string) error { return os.WriteFile(path, make([]byte, size+1), 0o600) },
			"is written anew": func(path string) error {
				return errors.Join(os.WriteFile(path, bytes.Repeat([]byte("x"), size), 0o600), os.Chtimes(path, time.Time{}, time.Unix(1, 0)))
			},
			"is cut": func(path string) error { return os.Truncate(path, int64(size/2)) },
		} {
			t.Run(name+" "+change, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "scan.pdf")
				if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
					t.Fatal(err)
				}
				file, err := c.open(source{path: path})
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = file.Close() }()
				begun := false
				original := file.ReadCloser
				file.ReadCloser = struct {
					io.Reader
					io.Closer
				}{readerFunc(func(p []byte) (int, error) {
					if begun {
						return original.Read(p)
					}
					begun = true
					n, err := original.Read(p[:min(len(p), size/4)])
					return n, errors.Join(err, do(path))
				}), original}
				_, err = c.message(t.Context(), run, "scan.pdf", file)
				if err == nil || !strings.Contains(err.Error(), "it was changed while it was being read") {
					t.Errorf("got %v", err)
				}
				wantNothing(t, js)
			})
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestADocumentOfZeroBytesIsNotPublished(t *testing.T) {
	c, run, js := prepared(t)
	c.env.stdin = strings.NewReader("")
	file, err := c.open(source{stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.message(t.Context(), run, "scan.pdf", file); err == nil || err.Error() != "it is empty" {
		t.Errorf("got %v", err)
	}
	wantNothing(t, js)
}

// Nothing is published and nothing stays; a document that fits goes on being published, and the same one, once there is
// room.
func TestADocumentThatTheBucketHasNoRoomForIsNotPublished(t *testing.T) {
	c, run, js := prepared(t)
	stream, err := js.Stream(t.Context(), "OBJ_"+topology.BucketDocuments)
	if err != nil {
		t.Fatal(err)
	}
	enough := stream.CachedInfo().Config
	small := enough
	small.MaxBytes, small.Discard = 1<<20, jetstream.DiscardNew
	if _, err := js.UpdateStream(t.Context(), small); err != nil {
		t.Fatal(err)
	}
	publish := func(size int) (*published, error) {
		c.env.stdin = bytes.NewReader(make([]byte, size))
		c.filename = "scan.pdf"
		return run.one(t.Context(), c.item(source{path: "-", stdin: true}))
	}
	_, err = publish(9 << 20)
	if !errors.Is(err, journal.ErrBucketFull) || !strings.Contains(err.Error(), "setup --max-bytes KEX_DOCUMENTS=") {
		t.Errorf("got %v", err)
	}
	wantNothing(t, js)
	if line, err := publish(1000); err != nil || line.Seq != 1 {
		t.Errorf("a small one: %+v, %v", line, err)
	}
	if _, err := js.UpdateStream(t.Context(), enough); err != nil {
		t.Fatal(err)
	}
	if line, err := publish(9 << 20); err != nil || line.Seq != 2 || line.Duplicate {
		t.Errorf("with room: %+v, %v", line, err)
	}
}
