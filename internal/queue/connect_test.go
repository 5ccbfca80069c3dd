package queue

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kexrelay/internal/embedded"
	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// secured runs a server with users and permissions, which embedded has none of.
func secured(t *testing.T, port int, users []*server.User) *server.Server {
	t.Helper()
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true, Users: users,
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	return srv
}

// hub runs a server with a JetStream domain, or without JetStream if domain is empty.
func hub(t *testing.T, domain string) *server.Server {
	t.Helper()
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: domain != "", JetStreamDomain: domain, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	return srv
}

func TestJetStreamIsReachedByItsDomainAndItsPrefix(t *testing.T) {
	url := hub(t, "leaf").ClientURL()
	byDomain := connect(t, ConnectOptions{URL: url, JSDomain: "leaf"}, Hooks{})
	setUp(t, byDomain)
	for name, conn := range map[string]*Conn{
		"domain": byDomain,
		"prefix": connect(t, ConnectOptions{URL: url, JSAPIPrefix: "$JS.leaf.API"}, Hooks{}),
	} {
		t.Run(name, func(t *testing.T) {
			fill(t, conn, 10, 2)
			q := open(t, conn, Config{BodiesPerKey: 1})
			if err := q.Reset(t.Context()); err != nil {
				t.Fatal(err)
			}
			r := start(t, q)
			for _, d := range r.await(10) {
				text(t, d)
				ackAll(t, []*Delivery{d})
			}
			eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
			r.stop()
		})
	}
	wrong := connect(t, ConnectOptions{URL: url, JSDomain: "other", Timeout: 200 * time.Millisecond}, Hooks{})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := New(ctx, wrong, Config{}); err == nil {
		t.Error("a domain that is not there is bound to")
	}
}

func TestBindingWaitsForJetStream(t *testing.T) {
	lines := &logWriter{tb: t}
	conn := connect(t, ConnectOptions{URL: hub(t, "").ClientURL()}, Hooks{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := New(ctx, conn, Config{Logger: slog.New(slog.NewTextHandler(lines, nil))})
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("without JetStream: %v", err)
	}
	if len(lines.lines) != 1 || !strings.Contains(lines.lines[0], "the consumer does not answer") {
		t.Errorf("logged %q", lines.lines)
	}
}

func TestConnectErrorsNameTheOption(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{nats.ErrSecureConnRequired, "--tlsfirst"},
		{x509.UnknownAuthorityError{}, "--tlsca"},
		{errors.New("remote error: tls: certificate required"), "--tlscert"},
		{nats.ErrAuthExpired, "--creds"},
		{errors.New("whatever"), "connecting to NATS at nats://host:1"},
	} {
		err := connectError("nats://user:canary@host:1", test.err)
		if !strings.Contains(err.Error(), test.want) || !errors.Is(err, test.err) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%v: %v", test.err, err)
		}
	}
	if got, want := redactURLs("nats://u:p@a:1, tls://token@b:2,c:3,nats://u:p@ss@d:4"), "nats://a:1,tls://b:2,c:3,nats://d:4"; got != want {
		t.Errorf("redacted %q, want %q", got, want)
	}
}

func contexts(t *testing.T, files map[string]string, selected string) {
	t.Helper()
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	dir := filepath.Join(home, "nats", "context")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name+".json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if selected != "" {
		if err := os.WriteFile(filepath.Join(home, "nats", "context.txt"), []byte(selected), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOptionsGoBeforeTheNamedContextBeforeTheSelectedOne(t *testing.T) {
	contexts(t, map[string]string{
		"named": `{"url": "nats://named:1", "user": "nina", "password": "np", "inbox_prefix": "_INBOX_named"}`,
		"other": `{"url": "nats://other:1", "jetstream_domain": "hub"}`,
	}, "other")
	for name, test := range map[string]struct {
		opts                    ConnectOptions
		url, user, creds, inbox string
		domain                  string
	}{
		"nothing given":                    {ConnectOptions{}, nats.DefaultURL, "", "", "", ""},
		"selected, as a command":           {ConnectOptions{UseSelectedContext: true}, "nats://other:1", "", "", "", "hub"},
		"url instead of the selected one":  {ConnectOptions{UseSelectedContext: true, URL: "nats://flag:1"}, "nats://flag:1", "", "", "", ""},
		"named":                            {ConnectOptions{Context: "named", UseSelectedContext: true}, "nats://named:1", "nina", "", "_INBOX_named", ""},
		"named, url by flag":               {ConnectOptions{Context: "named", URL: "nats://flag:1"}, "nats://flag:1", "nina", "", "_INBOX_named", ""},
		"named, other user by flag":        {ConnectOptions{Context: "named", User: "fred"}, "nats://named:1", "fred", "", "_INBOX_named", ""},
		"named, other credentials by flag": {ConnectOptions{Context: "named", Creds: "/c"}, "nats://named:1", "", "/c", "_INBOX_named", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := test.opts.settings()
			if err != nil {
				t.Fatal(err)
			}
			if got.ServerURL() != test.url || got.User() != test.user || got.Creds() != test.creds ||
				got.InboxPrefix() != test.inbox || got.JSDomain() != test.domain {
				t.Errorf("got url %q, user %q, creds %q, inbox %q, domain %q",
					got.ServerURL(), got.User(), got.Creds(), got.InboxPrefix(), got.JSDomain())
			}
		})
	}
}

func TestConnectingSaysWhatToDo(t *testing.T) {
	contexts(t, nil, "")
	srv := secured(t, -1, []*server.User{{Username: "u", Password: "right-secret"}})
	address := strings.TrimPrefix(srv.ClientURL(), "nats://")
	for name, test := range map[string]struct {
		opts ConnectOptions
		want string
	}{
		"no server":       {ConnectOptions{URL: "nats://127.0.0.1:1"}, "--server"},
		"wrong password":  {ConnectOptions{URL: srv.ClientURL(), User: "u", Password: "canary-secret"}, "--creds"},
		"password in url": {ConnectOptions{URL: "nats://u:canary-secret@" + address}, "--creds"},
		"token in url":    {ConnectOptions{URL: "nats://canary-secret@" + address}, "--creds"},
		"unreadable url":  {ConnectOptions{URL: "nats://u:canary-secret@host:port"}, "nats://host:4222"},
		"no context":      {ConnectOptions{Context: "nowhere"}, "nats context ls"},
		"no creds file":   {ConnectOptions{URL: srv.ClientURL(), Creds: filepath.Join(t.TempDir(), "none")}, "--creds"},
		"no nkey file":    {ConnectOptions{URL: srv.ClientURL(), NKey: filepath.Join(t.TempDir(), "none")}, "--nkey"},
		"no ca file":      {ConnectOptions{URL: srv.ClientURL(), TLSCA: filepath.Join(t.TempDir(), "none")}, "--tlsca"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := Connect(t.Context(), test.opts, Hooks{})
			if err == nil {
				conn.NATS().Close()
				t.Fatal("it connected")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error does not say %q: %v", test.want, err)
			}
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("the error has the secret: %v", err)
			}
		})
	}
}

func TestServeWaitsForItsFirstServer(t *testing.T) {
	first := embeddedtest.Run(t)
	n, url := port(t, first), first.URL()
	if err := first.Shutdown(); err != nil {
		t.Fatal(err)
	}
	lines := &logWriter{tb: t}
	conn := connect(t, ConnectOptions{URL: url, RetryOnFailedConnect: true}, Hooks{Logger: slog.New(slog.NewTextHandler(lines, nil))})
	if conn.Connected() {
		t.Fatal("it is connected to nothing")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := New(ctx, conn, Config{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("binding without a server: %v", err)
	}
	again, err := embedded.Start(embedded.Options{Port: n, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := again.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	if err := conn.AwaitConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	setUp(t, conn)
	fill(t, conn, 3, 1)
	start(t, open(t, conn, Config{})).await(3)
	lines.mu.Lock()
	defer lines.mu.Unlock()
	if tries := strings.Count(strings.Join(lines.lines, ""), "does not answer"); tries != 1 {
		t.Errorf("%d lines about the tries, want 1:\n%s", tries, lines.lines)
	}
	lines.tb = nil
}

func TestRefusedCredentialsDoNotEndTheConnection(t *testing.T) {
	srv := secured(t, -1, []*server.User{{Username: "u", Password: "first"}})
	conn := connect(t, ConnectOptions{URL: srv.ClientURL(), User: "u", Password: "first"}, Hooks{Logger: logger(t)})
	address, ok := srv.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatalf("the server listens on %v", srv.Addr())
	}
	port := address.Port
	srv.Shutdown()
	srv.WaitForShutdown()
	other := secured(t, port, []*server.User{{Username: "u", Password: "second"}})
	eventually(t, "it has been refused a few times", func() bool { return conn.Stats().Reconnects >= 4 })
	other.Shutdown()
	other.WaitForShutdown()
	secured(t, port, []*server.User{{Username: "u", Password: "first"}})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := conn.AwaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
}

// allow is a permission list.
func allow(subjects ...string) *server.SubjectPermission {
	return &server.SubjectPermission{Allow: subjects}
}

// relayRights are all a queue needs of partition 0.
func relayRights() *server.Permissions {
	return &server.Permissions{
		Publish: allow(
			"$JS.API.CONSUMER.INFO.KEX_UPDATES.relay-0", "$JS.API.CONSUMER.MSG.NEXT.KEX_UPDATES.relay-0",
			"$JS.API.CONSUMER.UNPIN.KEX_UPDATES.relay-0", "$JS.API.CONSUMER.RESET.KEX_UPDATES.relay-0",
			"$JS.API.STREAM.MSG.GET.KEX_UPDATES",
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
	if err := q.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	taken := start(t, q).await(10)
	eventually(t, "all have had a heartbeat", func() bool { return q.Stats().Heartbeats >= 10 })
	for _, d := range taken {
		text(t, d)
	}
	ackAll(t, taken)
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
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("it took %s to find out", took)
	}
	if got := nobody.Stats().PermissionViolations; got != 2 {
		t.Errorf("%d violations counted, want 2", got)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(told) != 3 || told[0] != "kex.vorgang.1.kommentare" || !strings.HasPrefix(told[2], "_INBOX.") {
		t.Errorf("told of %v", told)
	}
}

func TestDrainSendsTheAcks(t *testing.T) {
	server := embeddedtest.Run(t)
	conn := connect(t, ConnectOptions{URL: server.URL()}, Hooks{})
	setUp(t, conn)
	fill(t, conn, 2000, 10)
	other := connect(t, ConnectOptions{URL: server.URL()}, Hooks{})
	q := open(t, other, Config{})
	r := start(t, q)
	taken := r.await(2000)
	r.stop()
	ackAll(t, taken)
	if err := other.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-other.Closed():
	default:
		t.Error("the connection is not closed")
	}
	if err := other.Drain(t.Context()); err != nil {
		t.Errorf("draining again: %v", err)
	}
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
}

func TestDrainWithoutAServerSaysSo(t *testing.T) {
	server := embeddedtest.Run(t)
	conn := connect(t, ConnectOptions{URL: server.URL()}, Hooks{})
	if err := server.Shutdown(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the disconnect is seen", func() bool { return !conn.Connected() })
	if err := conn.Drain(t.Context()); !errors.Is(err, nats.ErrDisconnected) {
		t.Errorf("draining gave %v", err)
	}
	<-conn.Closed()
	if err := conn.Err(); !errors.Is(err, ErrConnectionClosed) {
		t.Errorf("the connection's error is %v", err)
	}
}

func TestSlowConsumersAreTold(t *testing.T) {
	server := embeddedtest.Run(t)
	told := make(chan struct{}, 100)
	conn := connect(t, ConnectOptions{URL: server.URL()}, Hooks{Logger: logger(t), OnSlowConsumer: func() { told <- struct{}{} }})
	if _, err := conn.NATS().ChanSubscribe("full", make(chan *nats.Msg, 1)); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := conn.NATS().Publish("full", nil); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-told:
	case <-time.After(patience):
		t.Fatal("nobody was told")
	}
	if conn.Stats().SlowConsumers == 0 {
		t.Error("it was not counted")
	}
}

func TestTheBacklogIsRead(t *testing.T) {
	conn := prepared(t)
	empty, err := conn.Backlog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if empty.Messages != 0 || !empty.OldestAt.IsZero() || len(empty.Partitions) != 1 || empty.Partitions[0].PinnedClient != "" {
		t.Errorf("an empty stream: %+v", empty)
	}
	fill(t, conn, 10, 5)
	q := open(t, conn, Config{})
	r := start(t, q)
	taken := r.await(10)
	r.stop()
	ackAll(t, taken[:4])
	fillFrom(t, conn, 10, 3, 5)
	eventually(t, "the acks are processed", func() bool { return stored(t, conn) == 9 })
	got, err := conn.Backlog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p := got.Partitions[0]
	if got.MaxBytes <= 0 || got.Bytes == 0 || got.FirstSeq != 5 || got.LastSeq != 13 || time.Since(got.OldestAt) > time.Minute {
		t.Errorf("the stream: %+v", got)
	}
	if p.Number != 0 || p.Pending != 3 || p.AckPending != 6 || p.LastDelivered != 10 || p.AckFloor != 4 || p.PinnedClient == "" || p.PinnedAt.IsZero() {
		t.Errorf("the partition: %+v", p)
	}
	if err := conn.JetStream().DeleteStream(t.Context(), topology.StreamUpdates); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Backlog(t.Context()); !errors.Is(err, ErrConsumerGone) {
		t.Errorf("without a stream: %v", err)
	}
}
