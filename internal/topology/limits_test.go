package topology_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded"
	"kexrelay/internal/topology"
)

// runServer starts a nats-server with a configuration file of its own.
func runServer(t *testing.T, config string) *server.Server {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "nats.conf")
	config = "listen: 127.0.0.1:-1\njetstream { store_dir: '" + dir + "' }\n" + config
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	opts.NoSigs, opts.NoLog = true, true
	nats, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	nats.Start()
	t.Cleanup(func() {
		nats.Shutdown()
		nats.WaitForShutdown()
	})
	if !nats.ReadyForConnections(deadline) {
		t.Fatal("the server takes no connections")
	}
	return nats
}

func TestRefusalsOfTheServerNameTheOptionToChange(t *testing.T) {
	tests := map[string]struct {
		limits string // The JetStream limits of the account.
		opts   topology.Options
		want   []string
	}{
		"the account has less room": {
			limits: "max_file: 600MB",
			want:   []string{"object bucket KEX_DOCUMENTS", "smaller --max-bytes KEX_DOCUMENTS=SIZE", "max_file"},
		},
		"a stream may not be so large": {
			limits: "disk_max_stream_bytes: 600MB, max_file: 10GB",
			opts:   topology.Options{MaxBytes: map[string]int64{"KEX_RESULTS": 1 << 20, "KEX_AUDIT": 1 << 20}},
			want:   []string{"object bucket KEX_DOCUMENTS", "one stream", "smaller --max-bytes KEX_DOCUMENTS=SIZE"},
		},
		"every stream needs a size": {
			limits: "max_bytes: true, max_file: 10GB",
			want:   []string{"stream KEX_RESULTS", "give --max-bytes KEX_RESULTS=SIZE"},
		},
		"fewer streams than needed": {
			limits: "max_streams: 6",
			want:   []string{"stream KEX_UPDATES", "max_streams", "kexrelay needs 7"},
		},
		"fewer consumers than partitions": {
			limits: "max_consumers: 2",
			opts:   topology.Options{Partitions: 3},
			want:   []string{"consumer relay-2", "max_consumers", "--partitions"},
		},
		"fewer updates may be held": {
			limits: "max_ack_pending: 1000",
			want:   []string{"consumer relay-0", "max_ack_pending", "50000"},
		},
		"no cluster": {
			limits: "max_streams: 100",
			opts:   topology.Options{Replicas: 3},
			want:   []string{"stream KEX_RESULTS", "--replicas 1"},
		},
		"the server has less room": {
			limits: "max_streams: 100",
			opts:   topology.Options{MaxBytes: map[string]int64{"KEX_LEDGER": 1 << 50}},
			want:   []string{"key-value bucket KEX_LEDGER", "smaller --max-bytes KEX_LEDGER=SIZE"},
		},
		"the server has less memory": {
			limits: "max_streams: 100",
			opts:   topology.Options{Storage: topology.Memory, MaxBytes: map[string]int64{"KEX_CONTROL": 1 << 50}},
			want:   []string{"key-value bucket KEX_CONTROL", "smaller --max-bytes KEX_CONTROL=SIZE", "max_memory_store"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			nats := runServer(t, "accounts { A { users: [{user: u, password: p}], jetstream: { "+test.limits+" } } }\nno_auth_user: u")
			js := connectTo(t, nats.ClientURL())
			report, err := topology.Setup(t.Context(), js, test.opts)
			if err == nil {
				t.Fatalf("Setup succeeded:\n%s", report)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			for _, thing := range report.Things {
				if strings.Contains(err.Error(), thing.Name+":") {
					t.Errorf("the report says that %s", thing)
				}
			}
		})
	}
}

func TestDefaultSizesFitASmallMachine(t *testing.T) {
	// Four GiB of free disk: a server offers three quarters of it.
	for size, fits := range map[int64]bool{3 << 30: true, 2 << 30: false} {
		nats, err := embedded.Start(embedded.Options{StoreDir: t.TempDir(), MaxStore: size})
		if err != nil {
			t.Fatal(err)
		}
		js := connectTo(t, nats.URL())
		_, err = topology.Setup(t.Context(), js, topology.Options{})
		if fits != (err == nil) || err != nil && !strings.Contains(err.Error(), "--max-bytes KEX_UPDATES=SIZE") {
			t.Errorf("Setup with room for %d bytes = %v, want it to fit: %v", size, err, fits)
		}
		if !fits { // Running it again with the option goes on where it stopped.
			opts := topology.Options{MaxBytes: map[string]int64{"KEX_UPDATES": 256 << 20}}
			if got := len(changed(setUp(t, js, opts))); got != 2 {
				t.Errorf("the second setup changes %d things, want the stream and its consumer", got)
			}
		}
		js.Conn().Close()
		if err := nats.Shutdown(); err != nil {
			t.Error(err)
		}
	}
}

func TestSubjectsOfAnotherStreamAreNamed(t *testing.T) {
	js := connect(t)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"kex.>"}}); err != nil {
		t.Fatal(err)
	}
	_, err := topology.Setup(t.Context(), js, topology.Options{})
	if err == nil || !strings.Contains(err.Error(), "nats stream find --subject 'kex.result.>'") {
		t.Errorf("Setup = %v, want it to say how to find the other stream", err)
	}
}

// serveRights is what DESIGN grants to serve of JetStream's API, as far as Verify is concerned.
const serveRights = `"$JS.API.STREAM.INFO.*", "$JS.API.CONSUMER.INFO.KEX_UPDATES.*"`

func TestVerifyNeedsOnlyTheRightToAsk(t *testing.T) {
	nats := runServer(t, fmt.Sprintf(`accounts { A { jetstream: enabled, users: [
		{user: admin, password: p}
		{user: serve, password: p, permissions: { publish: [%s], subscribe: ["_INBOX.>"] }}
		{user: nobody, password: p, permissions: { publish: ["kex.>"], subscribe: ["_INBOX.>"] }}
	] } }`, serveRights))
	as := func(user string) jetstream.JetStream {
		return connectTo(t, strings.Replace(nats.ClientURL(), "nats://", "nats://"+user+":p@", 1))
	}
	if _, err := topology.Verify(t.Context(), as("serve")); !errors.Is(err, topology.ErrSetupNeeded) {
		t.Errorf("Verify of nothing = %v, want ErrSetupNeeded", err)
	}
	setUp(t, as("admin"), topology.Options{Partitions: 3})
	if found, err := topology.Verify(t.Context(), as("serve")); err != nil || found.Partitions != 3 {
		t.Errorf("Verify = %+v, %v, want 3 partitions", found, err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := topology.Verify(ctx, as("nobody"))
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, topology.ErrSetupNeeded) || !strings.Contains(err.Error(), "missing right") {
		t.Errorf("Verify without any right = %v, want a timeout that speaks of rights", err)
	}
}

func TestEverythingMissingIsNamedAtOnce(t *testing.T) {
	js := connect(t)
	setUp(t, js, topology.Options{Partitions: 2})
	for _, name := range []string{"KEX_RESULTS", "KV_KEX_LEDGER", "OBJ_KEX_DOCUMENTS"} {
		if err := js.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := js.DeleteConsumer(t.Context(), topology.StreamUpdates, topology.Consumer(1)); err != nil {
		t.Fatal(err)
	}
	_, err := topology.Verify(t.Context(), js)
	if !errors.Is(err, topology.ErrSetupNeeded) {
		t.Fatalf("Verify = %v, want ErrSetupNeeded", err)
	}
	for _, want := range []string{
		"stream KEX_RESULTS is missing", "key-value bucket KEX_LEDGER is missing", "object bucket KEX_DOCUMENTS is missing",
		"consumer relay-1 is missing", "run kexrelay setup",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "relay-0") || strings.Contains(err.Error(), "KEX_AUDIT") {
		t.Errorf("error %q names what is there", err)
	}
}

func TestAServerWithoutJetStreamIsNamed(t *testing.T) {
	nats, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	nats.Start()
	t.Cleanup(func() { nats.Shutdown(); nats.WaitForShutdown() })
	if !nats.ReadyForConnections(deadline) {
		t.Fatal("the server takes no connections")
	}
	js := connectTo(t, nats.ClientURL())
	_, setupErr := topology.Setup(t.Context(), js, topology.Options{})
	_, verifyErr := topology.Verify(t.Context(), js)
	for what, err := range map[string]error{"Setup": setupErr, "Verify": verifyErr} {
		if err == nil || !strings.Contains(err.Error(), "with JetStream") || errors.Is(err, topology.ErrSetupNeeded) {
			t.Errorf("%s = %v, want it to say that JetStream is missing", what, err)
		}
	}
}
