package queue

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kexrelay/internal/embedded"
	"kexrelay/internal/embedded/embeddedtest"
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
			if err := q.TakeOver(t.Context()); err != nil {
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
	t.Parallel()
	lines := &logWriter{tb: t}
	conn := connect(t, ConnectOptions{URL: hub(t, "").ClientURL()}, Hooks{})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
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
		{fmt.Errorf("%w: connection closed by remote after TLS handshake", nats.ErrTLS), "--tlscert"},
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

// Whatever the server's refusal arrives as.
func TestAServerThatWantsACertificateSaysSo(t *testing.T) {
	s := embeddedtest.RunSecured(t, embeddedtest.SecuredOptions{MutualTLS: true})
	opts := ConnectOptions{URL: s.URL(), NKey: s.File("reader.nk"), InboxPrefix: "_INBOX_reader", TLSCA: s.File("ca.crt")}
	for range 5 {
		if _, err := Connect(t.Context(), opts, Hooks{}); err == nil || !strings.Contains(err.Error(), "give --tlscert and --tlskey") {
			t.Errorf("without a certificate: %v", err)
		}
	}
	opts.TLSCert, opts.TLSKey = s.File("client.crt"), s.File("client.key")
	connect(t, opts, Hooks{})
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
		opts     ConnectOptions
		want     string
		settings bool
	}{
		"no server":       {ConnectOptions{URL: "nats://127.0.0.1:1"}, "--server", false},
		"wrong password":  {ConnectOptions{URL: srv.ClientURL(), User: "u", Password: "canary-secret"}, "--creds", false},
		"password in url": {ConnectOptions{URL: "nats://u:canary-secret@" + address}, "--creds", false},
		"token in url":    {ConnectOptions{URL: "nats://canary-secret@" + address}, "--creds", false},
		"unreadable url":  {ConnectOptions{URL: "nats://u:canary-secret@host:port"}, "nats://host:4222", true},
		"no context":      {ConnectOptions{Context: "nowhere"}, "nats context ls", true},
		"no creds file":   {ConnectOptions{URL: srv.ClientURL(), Creds: filepath.Join(t.TempDir(), "none")}, "--creds", true},
		"no nkey file":    {ConnectOptions{URL: srv.ClientURL(), NKey: filepath.Join(t.TempDir(), "none")}, "--nkey", true},
		"no ca file":      {ConnectOptions{URL: srv.ClientURL(), TLSCA: filepath.Join(t.TempDir(), "none")}, "--tlsca", true},
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
			if errors.Is(err, ErrSettings) != test.settings {
				t.Errorf("the settings are wrong: %v, want %v: %v", !test.settings, test.settings, err)
			}
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("the error has the secret: %v", err)
			}
		})
	}
}

// What a context names is checked before anything connects, bounded however large it is.
func TestFilesOfAContextAreNamed(t *testing.T) {
	dir := t.TempDir()
	embeddedtest.NewAuthority(t, "ca").IssueFiles(t, dir, "client", time.Hour)
	cert, key := filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key")
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	empty, text, large := file("empty", ""), file("text", "c4nary"), file("large", strings.Repeat("c4nary", 1<<20))
	whole, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	part := file("part", string(whole)+string(whole[:len(whole)/2]))
	half := file("half", "-----BEGIN CERTIFICATE-----\nc4nary")
	malformed := file("malformed", "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n")
	for name, tc := range map[string]struct{ member, value, more, says string }{
		"no authority":             {member: "ca", value: filepath.Join(dir, "none"), says: "cannot be read"},
		"directory as authority":   {member: "ca", value: dir, says: "no regular file"},
		"device as authority":      {member: "ca", value: "/dev/zero", says: "no regular file"},
		"empty authority":          {member: "ca", value: empty, says: "is an empty file"},
		"large authority":          {member: "ca", value: large, says: "is larger than"},
		"half an authority":        {member: "ca", value: half, says: "that is cut off"},
		"half a second authority":  {member: "ca", value: part, says: "that is cut off"},
		"malformed authority":      {member: "ca", value: malformed, says: "number 1) that is malformed"},
		"certificate without PEM":  {member: "cert", value: text, more: `,"key":"` + key + `"`, says: "holds no PEM certificate"},
		"key without PEM":          {member: "key", value: text, more: `,"cert":"` + cert + `"`, says: "is of no use for the certificate in " + cert},
		"certificate alone":        {member: "cert", value: cert, says: "without its key"},
		"key alone":                {member: "key", value: key, says: "without its certificate"},
		"device as credentials":    {member: "creds", value: "/dev/zero", says: "no regular file"},
		"large seed":               {member: "nkey", value: large, says: "is larger than"},
		"a proxy that is no proxy": {member: "socks_proxy", value: "u:c4nary@host", says: "socks5://host:1080"},
	} {
		t.Run(name, func(t *testing.T) {
			contexts(t, map[string]string{"it": `{"url":"nats://127.0.0.1:1","` + tc.member + `":"` + tc.value + `"` + tc.more + `}`}, "")
			conn, err := Connect(t.Context(), ConnectOptions{Context: "it", RetryOnFailedConnect: true}, Hooks{})
			if err == nil {
				conn.NATS().Close()
				t.Fatal("it tries to connect")
			}
			if !errors.Is(err, ErrSettings) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want wrong settings that say %q", err, tc.says)
			}
			if tc.member != "socks_proxy" && !strings.Contains(err.Error(), tc.value) {
				t.Errorf("the error does not name the file: %v", err)
			}
			if strings.Contains(err.Error(), "c4nary") {
				t.Errorf("the error repeats what is in it: %v", err)
			}
		})
	}
}

func TestAContextIsCheckedBeforeConnecting(t *testing.T) {
	contexts(t, map[string]string{
		"good": `{"url": "nats://named:1"}`, "broken": `{"url": `, "unreadable": `{"url": "nats://u:canary-secret@host:port"}`,
	}, "")
	for name, want := range map[string]string{
		"good": "", "nowhere": "`nats context ls`", "../good": "`nats context ls`", "broken": "JSON", "unreadable": "nats://host:4222",
	} {
		err := CheckContext(name)
		switch {
		case want == "":
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary"):
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}

func TestServeWaitsForItsFirstServer(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
