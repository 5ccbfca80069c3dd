package journal

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// A publish that the server does not permit is not answered: the operator must still read which right is missing.
func TestADeniedPublishNamesTheSubjectAndTheRight(t *testing.T) {
	t.Parallel()
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		Users: []*server.User{{Username: "admin", Password: "a"}, {
			Username: "relay", Password: "r",
			Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{"$JS.API.>"}, Deny: []string{"kex.result.>"}}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not start")
	}
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	as := func(user string) jetstream.JetStream {
		nc, err := nats.Connect(srv.ClientURL(), nats.UserInfo(user, user[:1]), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
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
	if _, err := topology.Setup(t.Context(), as("admin"), topology.Options{}); err != nil {
		t.Fatal(err)
	}
	j := New(as("relay"), Config{Source: "urn:test", PublishTimeout: time.Second, Patience: 1200 * time.Millisecond})
	t.Cleanup(j.Close)
	err = j.Settle(t.Context(), &update.Settlement{
		Update:  &update.Update{ID: "u", Seq: 1, StoredAt: time.Unix(1, 0), Vorgangsnummer: "1", Kind: update.Comments},
		Outcome: update.Delivered, Status: 200, Attempts: 1, SettledAt: time.Unix(2, 0),
	})
	f := fault.Of(err)
	if f == nil || f.Kind != fault.Systemic || f.Reason != fault.Storage {
		t.Fatalf("Settle: %v", err)
	}
	for _, want := range []string{"kex.result.delivered.1.kommentare", "grant this user the right to publish"} {
		if !strings.Contains(f.Detail, want) {
			t.Errorf("the detail does not have %q: %s", want, f.Detail)
		}
	}
}
