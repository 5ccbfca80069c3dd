package topology_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
)

// callItself puts a proxy in front of a server that gives its greeting another version, and returns its URL.
func callItself(t *testing.T, url, version string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			backend, err := net.Dial("tcp", strings.TrimPrefix(url, "nats://"))
			if err != nil {
				_ = client.Close()
				return
			}
			go func() {
				_, _ = io.Copy(backend, client)
				_ = backend.Close()
			}()
			go func() {
				greet(client, bufio.NewReader(backend), version)
				_ = client.Close()
			}()
		}
	}()
	return "nats://" + listener.Addr().String()
}

func greet(client io.Writer, backend *bufio.Reader, version string) {
	for {
		line, err := backend.ReadString('\n')
		if err != nil {
			return
		}
		if strings.HasPrefix(line, "INFO ") {
			line = strings.Replace(line, `"version":"`+server.VERSION+`"`, `"version":"`+version+`"`, 1)
		}
		if _, err := io.WriteString(client, line); err != nil {
			return
		}
	}
}

func TestServersBefore2_14AreRefused(t *testing.T) {
	url := embeddedtest.Run(t).URL()
	setUp(t, connectTo(t, url), topology.Options{})
	tests := map[string]bool{
		"2.13.99": false, "2.9.0": false, "1.4.1": false, "v2.11.0-RC.1": false,
		"2.14.0": true, "2.14.0-RC.1": true, "2.15.2": true, "3.0.0": true, "3.0": true,
		"custom": true, "dev.build": true, // The API level decides.
	}
	for version, supported := range tests {
		js := connectTo(t, callItself(t, url, version))
		if got := js.Conn().ConnectedServerVersion(); got != version {
			t.Fatalf("connected to version %s, want %s", got, version)
		}
		report, setupErr := topology.Setup(t.Context(), js, topology.Options{})
		found, verifyErr := topology.Verify(t.Context(), js)
		for what, err := range map[string]error{"Setup": setupErr, "Verify": verifyErr} {
			if supported != (err == nil) || err != nil && (!errors.Is(err, topology.ErrServerTooOld) ||
				!strings.Contains(err.Error(), version) || !strings.Contains(err.Error(), "2.14")) {
				t.Errorf("%s with a server %s = %v, want it supported: %v", what, version, err, supported)
			}
		}
		if report.Server != version || found.Server != version {
			t.Errorf("server is %s and %s, want %s", report.Server, found.Server, version)
		}
	}
}

// oldJetStream answers like a JetStream with an API level of its own behind a newer server.
type oldJetStream struct {
	jetstream.JetStream

	level int
}

func (o oldJetStream) AccountInfo(ctx context.Context) (*jetstream.AccountInfo, error) {
	info, err := o.JetStream.AccountInfo(ctx)
	if err == nil {
		info.API.Level = o.level
	}
	return info, err
}

func (o oldJetStream) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	stream, err := o.JetStream.Stream(ctx, name)
	if err == nil {
		metadata := stream.CachedInfo().Config.Metadata
		delete(metadata, "_nats.level")
		if o.level > 0 {
			metadata["_nats.level"] = string(rune('0' + o.level))
		}
	}
	return stream, err
}

func TestJetStreamBefore2_14IsRefused(t *testing.T) {
	js := connect(t)
	setUp(t, js, topology.Options{})
	for level, supported := range []bool{false, false, false, false, true, true} {
		old := oldJetStream{js, level}
		_, setupErr := topology.Setup(t.Context(), old, topology.Options{})
		_, verifyErr := topology.Verify(t.Context(), old)
		for what, err := range map[string]error{"Setup": setupErr, "Verify": verifyErr} {
			if supported != (err == nil) || err != nil && !errors.Is(err, topology.ErrServerTooOld) {
				t.Errorf("%s with API level %d = %v, want it supported: %v", what, level, err, supported)
			}
		}
	}
}
