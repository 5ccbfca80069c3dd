package embeddedtest_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
)

// What is stored cannot be read in the files, and is there again with a new key, also once the old one is gone. nats-server
// 2.15.2 forgets the consumers and the streams in which nothing was ever stored: `setup` makes them again, as the README says.
func TestFilesAreEncryptedAndTheKeyRotates(t *testing.T) {
	const canary = "c4nary-at-rest"
	s := embeddedtest.RunSecured(t, embeddedtest.SecuredOptions{Key: "first-key"})
	as := func(role string) (jetstream.JetStream, func()) {
		key, err := nats.NkeyOptionFromSeed(s.File(role + ".nk"))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := nats.Connect(s.URL(), key, nats.RootCAs(s.File("ca.crt")), nats.CustomInboxPrefix("_INBOX_"+role))
		if err != nil {
			t.Fatal(err)
		}
		js, err := jetstream.New(conn)
		if err != nil {
			t.Fatal(err)
		}
		return js, conn.Close
	}
	js, end := as("setup")
	if _, err := topology.Setup(t.Context(), js, topology.Options{}); err != nil {
		t.Fatal(err)
	}
	end()
	js, end = as("publisher")
	if _, err := js.Publish(t.Context(), "kex.vorgang.1.kommentare", []byte(`["`+canary+`"]`)); err != nil {
		t.Fatal(err)
	}
	end()
	for _, opts := range []embeddedtest.SecuredOptions{{Key: "second-key", PreviousKey: "first-key"}, {Key: "second-key"}} {
		if opts.PreviousKey != "" {
			s.ForgetConsumers()
		}
		s.Restart(opts)
		js, end = as("setup")
		if _, err := topology.Setup(t.Context(), js, topology.Options{}); err != nil {
			t.Fatal(err)
		}
		end()
		js, end = as("operator")
		stream, err := js.Stream(t.Context(), topology.StreamUpdates)
		if err != nil {
			t.Fatal(err)
		}
		msg, err := stream.GetMsg(t.Context(), 1)
		if err != nil || !bytes.Contains(msg.Data, []byte(canary)) {
			t.Errorf("with %+v: %v", opts, err)
		}
		end()
	}
	s.Stop()
	files := 0
	err := filepath.WalkDir(s.File("store"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files++
		if bytes.Contains(data, []byte(canary)) {
			t.Errorf("%s holds what was published", path)
		}
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("%d files were looked at, %v", files, err)
	}
}
