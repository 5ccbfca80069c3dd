package embedded_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"kexrelay/internal/embedded"
	"kexrelay/internal/embedded/embeddedtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func connect(t *testing.T, url string) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatalf("connecting to %s: %v", url, err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatalf("opening JetStream: %v", err)
	}
	return conn, js
}

// takePort occupies a loopback port until the test ends.
func takePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return int(netip.MustParseAddrPort(listener.Addr().String()).Port())
}

func TestServesJetStreamOnLoopbackOnly(t *testing.T) {
	server := embeddedtest.Run(t)
	if !strings.HasPrefix(server.URL(), "nats://127.0.0.1:") || server.FellBack() {
		t.Errorf("URL() = %s, FellBack() = %v, want a free loopback port that was wished for", server.URL(), server.FellBack())
	}
	conn, js := connect(t, server.URL())
	if got := conn.MaxPayload(); got != embedded.DefaultMaxPayload {
		t.Errorf("largest message = %d, want %d", got, embedded.DefaultMaxPayload)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s", make([]byte, embedded.DefaultMaxPayload-100)); err != nil {
		t.Errorf("publishing the largest message: %v", err)
	}
}

func TestMessagesOutliveARestart(t *testing.T) {
	dir := t.TempDir()
	first, err := embedded.Start(embedded.Options{StoreDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if first.StoreDir() != dir {
		t.Errorf("StoreDir() = %s, want %s", first.StoreDir(), dir)
	}
	conn, js := connect(t, first.URL())
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := first.Shutdown(); err != nil {
		t.Fatal(err)
	}

	_, js = connect(t, embeddedtest.RunIn(t, dir).URL())
	stream, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if msg, err := stream.GetMsg(t.Context(), 1); err != nil || string(msg.Data) != "kept" {
		t.Errorf("GetMsg(1) = %v, %v after the restart, want the message", msg, err)
	}
}

func TestATakenPortIsRefusedUnlessFallingBack(t *testing.T) {
	port := takePort(t)
	dir := filepath.Join(t.TempDir(), "store")
	_, err := embedded.Start(embedded.Options{Port: port, StoreDir: dir})
	if !errors.Is(err, embedded.ErrPortTaken) {
		t.Fatalf("Start on a taken port = %v, want ErrPortTaken", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused start left %s behind: %v", dir, err)
	}

	server, err := embedded.Start(embedded.Options{Port: port, StoreDir: dir, FallBack: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Shutdown() }()
	if !server.FellBack() {
		t.Error("FellBack() = false on another port than the wished one")
	}
	connect(t, server.URL())
}

func TestAWishedPortThatIsFreeIsUsed(t *testing.T) {
	port := embeddedtest.FreePort(t)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	server, err := embedded.Start(embedded.Options{Port: port, FallBack: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Shutdown() }()
	if server.URL() != "nats://"+address || server.FellBack() {
		t.Errorf("URL() = %s, FellBack() = %v, want nats://%s itself", server.URL(), server.FellBack(), address)
	}
}

func TestAStoreDirectoryBelongsToOneServer(t *testing.T) {
	server := embeddedtest.Run(t)
	_, err := embedded.Start(embedded.Options{StoreDir: server.StoreDir()})
	if !errors.Is(err, embedded.ErrStoreTaken) {
		t.Fatalf("a second server on the same directory: %v, want ErrStoreTaken", err)
	}
	if !strings.Contains(err.Error(), server.StoreDir()) {
		t.Errorf("error %q does not name the directory", err)
	}
	if err := server.Shutdown(); err != nil {
		t.Fatal(err)
	}
	embeddedtest.RunIn(t, server.StoreDir())
}

func TestATemporaryDirectoryGoesWithTheServer(t *testing.T) {
	server, err := embedded.Start(embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(server.StoreDir()); err != nil {
		t.Errorf("store directory while running: %v", err)
	}
	if err := server.Shutdown(); err != nil {
		t.Fatal(err)
	}
	if err := server.Shutdown(); err != nil {
		t.Errorf("second Shutdown = %v, want nil", err)
	}
	if _, err := os.Stat(server.StoreDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("store directory after Shutdown: %v, want it gone", err)
	}
}

func TestShutdownEndsConnections(t *testing.T) {
	server := embeddedtest.Run(t)
	closed := make(chan struct{})
	conn, err := nats.Connect(server.URL(), nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := server.Shutdown(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the connection is still open 10 s after Shutdown")
	}
}

func TestUnusableOptionsAreRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		opts embedded.Options
		want string
	}{
		"port too large":          {embedded.Options{Port: 70000}, "port 70000"},
		"port below zero":         {embedded.Options{Port: -2}, "port -2"},
		"payload below zero":      {embedded.Options{MaxPayload: -1}, "-1 bytes"},
		"payload above the limit": {embedded.Options{MaxPayload: 65 << 20}, "68157440 bytes"},
		"store below zero":        {embedded.Options{MaxStore: -1}, "-1 bytes"},
		"store is a file":         {embedded.Options{StoreDir: file}, "making the store directory"},
		"address of another host": {embedded.Options{Host: "192.0.2.1", Port: 4222}, "listening on 192.0.2.1:4222"},
		"the same on a free port": {embedded.Options{Host: "192.0.2.1"}, "Error listening on port"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			server, err := embedded.Start(test.opts)
			if err == nil {
				_ = server.Shutdown()
				t.Fatal("Start succeeded")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q does not say %q", err, test.want)
			}
		})
	}
}

func TestLogLinesGoToTheLogger(t *testing.T) {
	var out lockedBuffer
	logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	server, err := embedded.Start(embedded.Options{Logger: logger, StoreDir: t.TempDir(), MaxPayload: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Shutdown(); err != nil {
		t.Fatal(err)
	}
	lines := out.String()
	for _, want := range []string{
		`level=DEBUG msg=nats-server line="Server is ready"`,
		`level=WARN msg=nats-server line="Maximum payloads over`, // What the server says about 16 MiB.
		`level=DEBUG msg=nats-server line="Server Exiting.."`,
	} {
		if !strings.Contains(lines, want) {
			t.Errorf("no line %s in:\n%s", want, lines)
		}
	}
}

func TestQuietLoggerIsNotAsked(t *testing.T) {
	var out lockedBuffer
	logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))
	server, err := embedded.Start(embedded.Options{Logger: logger, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Shutdown(); err != nil {
		t.Fatal(err)
	}
	if lines := out.String(); lines != "" {
		t.Errorf("an ordinary start and stop warns:\n%s", lines)
	}
}

func TestStorageLimitIsTheServers(t *testing.T) {
	server, err := embedded.Start(embedded.Options{StoreDir: t.TempDir(), MaxStore: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Shutdown() }()
	_, js := connect(t, server.URL())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, MaxBytes: 2 << 20})
	if err == nil {
		t.Error("a stream of 2 MiB was accepted by a server of 1 MiB")
	}
}

// lockedBuffer lets the server's goroutines write while the test waits.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
