package deadletter

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kexrelay/internal/topology"
)

// A denied call is not answered; only the connection hears of it.
func TestAMissingRightIsNamed(t *testing.T) {
	opts := &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(),
		Users: []*server.User{
			{Username: "admin", Password: "admin"},
			{Username: "viewer", Password: "viewer", Permissions: &server.Permissions{
				Publish:   &server.SubjectPermission{Allow: []string{"$JS.API.STREAM.INFO.>"}},
				Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
			}},
		},
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not start")
	}
	if _, err := topology.Setup(t.Context(), connect(t, srv.ClientURL(), nats.UserInfo("admin", "admin")), topology.Options{}); err != nil {
		t.Fatal(err)
	}
	store := newStore(t, connect(t, srv.ClientURL(), nats.UserInfo("viewer", "viewer"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err = store.Show(ctx, 1)
	if err == nil || !strings.Contains(err.Error(), "NATS denies it to this user") || !strings.Contains(err.Error(), "STREAM.MSG.GET") {
		t.Errorf("Show: %v", err)
	}
}
