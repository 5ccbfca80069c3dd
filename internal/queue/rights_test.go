package queue

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"kexrelay/internal/update"
)

// allow is a permission list.
func allow(subjects ...string) *server.SubjectPermission {
	return &server.SubjectPermission{Allow: subjects}
}

// relayRights are all a queue needs of partition 0.
func relayRights() *server.Permissions {
	return &server.Permissions{
		Publish: allow(
			"$JS.API.CONSUMER.INFO.KEX_UPDATES.relay-0", "$JS.API.CONSUMER.MSG.NEXT.KEX_UPDATES.relay-0",
			"$JS.API.CONSUMER.UNPIN.KEX_UPDATES.relay-0",
			"$JS.API.STREAM.INFO.KEX_UPDATES", "$JS.API.STREAM.MSG.GET.KEX_UPDATES",
			"$JS.ACK.KEX_UPDATES.relay-0.>", "$JS.ACK.*.*.KEX_UPDATES.relay-0.>",
		),
		Subscribe: allow("_INBOX_relay.>"),
	}
}

func TestLeastPrivilegeIsEnough(t *testing.T) {
	srv := secured(t, -1, []*server.User{
		{Username: "admin", Password: "a"},
		{Username: "relay", Password: "r", Permissions: relayRights()},
		{Username: "publisher", Password: "p", Permissions: &server.Permissions{
			Publish: allow("kex.vorgang.>"), Subscribe: allow("_INBOX_publisher.>"),
		}},
		{Username: "monitor", Password: "m", Permissions: &server.Permissions{
			Publish:   allow("$JS.API.STREAM.INFO.KEX_UPDATES", "$JS.API.CONSUMER.LIST.KEX_UPDATES"),
			Subscribe: allow("_INBOX_monitor.>"),
		}},
	})
	user := func(name string) *Conn {
		return connect(t, ConnectOptions{URL: srv.ClientURL(), User: name, Password: name[:1], InboxPrefix: "_INBOX_" + name}, Hooks{Logger: logger(t)})
	}
	admin, relay, publisher, monitor := user("admin"), user("relay"), user("publisher"), user("monitor")
	setUp(t, admin, ackWait(2*time.Second))
	for range 10 {
		if _, err := NewPublisher(publisher).Publish(t.Context(), PublishRequest{Vorgangsnummer: "1", Kind: update.Comments, Body: []byte(`["x"]`)}); err != nil {
			t.Fatal(err)
		}
	}
	q := open(t, relay, Config{Heartbeat: 200 * time.Millisecond, BodiesPerKey: 1})
	if err := q.TakeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	taken := start(t, q).await(10)
	eventually(t, "all have had a heartbeat", func() bool { return q.Stats().Heartbeats >= 10 })
	for _, d := range taken {
		text(t, d)
	}
	ackAll(t, taken)
	if err := q.AwaitAcks(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "the stream is empty", func() bool { return stored(t, monitor) == 0 })
	for _, conn := range []*Conn{relay, publisher, monitor} {
		if got := conn.Stats().PermissionViolations; got != 0 {
			t.Errorf("%d permission violations", got)
		}
	}
}

func TestAMissingRightIsTold(t *testing.T) {
	srv := secured(t, -1, []*server.User{
		{Username: "admin", Password: "a"},
		{Username: "nobody", Password: "n", Permissions: &server.Permissions{Publish: allow("other"), Subscribe: allow("_INBOX.>")}},
		{Username: "deaf", Password: "d", Permissions: &server.Permissions{Publish: allow(">"), Subscribe: allow("other")}},
	})
	setUp(t, connect(t, ConnectOptions{URL: srv.ClientURL(), User: "admin", Password: "a"}, Hooks{}))
	var mu sync.Mutex
	var told []string
	hooks := Hooks{Logger: logger(t), OnPermission: func(subject string) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, subject)
	}}
	request := PublishRequest{Vorgangsnummer: "1", Kind: update.Comments, Body: []byte(`["x"]`)}
	nobody := connect(t, ConnectOptions{URL: srv.ClientURL(), User: "nobody", Password: "n"}, hooks)
	machine := watchStalls(t)
	begin := time.Now()
	if _, err := NewPublisher(nobody).Publish(t.Context(), request); !errors.Is(err, ErrPermission) || !strings.Contains(err.Error(), "publish kex.vorgang.1.kommentare") {
		t.Errorf("publishing without the right: %v", err)
	}
	if _, err := New(t.Context(), nobody, Config{}); !errors.Is(err, ErrPermission) || !strings.Contains(err.Error(), "$JS.API.CONSUMER.INFO.KEX_UPDATES.relay-0") {
		t.Errorf("binding without the right: %v", err)
	}
	deaf := connect(t, ConnectOptions{URL: srv.ClientURL(), User: "deaf", Password: "d"}, hooks)
	for range 2 { // The second time the server says nothing any more.
		if _, err := deaf.Backlog(t.Context()); !errors.Is(err, ErrPermission) || !strings.Contains(err.Error(), "subscribe _INBOX.") {
			t.Errorf("asking without an inbox: %v", err)
		}
	}
	machine.wantWithin(t, "finding out", begin, 3*time.Second)
	eventually(t, "the hook is told of all three", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(told) >= 3
	})
	if got := nobody.Stats().PermissionViolations; got != 2 {
		t.Errorf("%d violations counted, want 2", got)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(told) != 3 || told[0] != "kex.vorgang.1.kommentare" || !strings.HasPrefix(told[2], "_INBOX.") {
		t.Errorf("told of %v", told)
	}
}
