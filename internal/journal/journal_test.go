package journal

import (
	"context"
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"kexrelay/internal/embedded"
	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// The client's goroutine for lost acknowledgements waits for ever if its publisher is cleaned up before it has run for
// the first time, as an object's is right after its upload. Whether ours are cleaned up is a test of its own.
func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked { // Those that say they may run side by side mostly wait, however many cores there are.
		if err := flag.Set("test.parallel", "5"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"))
}

const source = "urn:kexrelay:test"

// connect opens JetStream on a server; the connection is quick to reconnect and buffers nothing, as the relay's.
func connect(tb testing.TB, serverURL string) jetstream.JetStream {
	tb.Helper()
	nc, err := nats.Connect(serverURL, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond),
		nats.ReconnectJitter(time.Millisecond, time.Millisecond), nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // Else it prints what is provoked here.
	if err != nil {
		tb.Fatalf("connecting: %v", err)
	}
	tb.Cleanup(nc.Close)
	// A disk that stands still for some seconds is no failure of what is tested.
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(30*time.Second))
	if err != nil {
		tb.Fatalf("opening JetStream: %v", err)
	}
	return js
}

// set up a server with the whole topology.
func setUp(tb testing.TB, opts topology.Options) jetstream.JetStream {
	tb.Helper()
	js := connect(tb, embeddedtest.Run(tb).URL())
	if _, err := topology.Setup(tb.Context(), js, opts); err != nil {
		tb.Fatalf("Setup: %v", err)
	}
	return js
}

// newJournal makes one that is patient: what is written must go through, however long the machine takes.
func newJournal(tb testing.TB, js jetstream.JetStream) *Journal {
	tb.Helper()
	j := New(js, Config{Source: source, PublishTimeout: 10 * time.Second, Patience: 30 * time.Second})
	tb.Cleanup(j.Close)
	return j
}

// impatient makes a Journal that soon gives up, where nothing can go through.
func impatient(tb testing.TB, js jetstream.JetStream) *Journal {
	tb.Helper()
	j := New(js, Config{Source: source, PublishTimeout: time.Second, Patience: 200 * time.Millisecond})
	tb.Cleanup(j.Close)
	return j
}

// restartable is a server that can be stopped and started again on the same port and files.
type restartable struct {
	opts embedded.Options
	*embedded.Server
}

func startRestartable(t *testing.T) *restartable {
	t.Helper()
	r := &restartable{opts: embedded.Options{StoreDir: t.TempDir(), Port: embeddedtest.FreePort(t)}}
	r.start(t)
	t.Cleanup(func() { _ = r.Shutdown() })
	return r
}

func (r *restartable) start(t *testing.T) {
	t.Helper()
	server, err := embedded.Start(r.opts)
	if err != nil {
		t.Fatalf("starting the server: %v", err)
	}
	r.Server = server
}

func (r *restartable) stop(t *testing.T) {
	t.Helper()
	if err := r.Shutdown(); err != nil {
		t.Fatalf("stopping the server: %v", err)
	}
}

var storedAt = time.Date(2026, 11, 22, 14, 5, 6, 123456789, time.UTC)

// anUpdate is a decoded update with comments; seq makes its identity.
func anUpdate(seq uint64) *update.Update {
	return &update.Update{
		ID:             fmt.Sprintf("crm-%d", seq),
		Seq:            seq,
		StoredAt:       storedAt,
		Subject:        "kex.vorgang.123456.kommentare",
		Vorgangsnummer: "123456",
		Kind:           update.Comments,
		TraceID:        "sys12345678",
		Header:         map[string][]string{},
		Body:           []byte(`["Testkommentar"]`),
	}
}

func delivered(u *update.Update) *update.Settlement {
	return &update.Settlement{
		Update: u, Outcome: update.Delivered, Status: 200, Attempts: 1, RequestID: u.TraceID,
		FirstAttemptAt: storedAt.Add(time.Second), SettledAt: storedAt.Add(1500 * time.Millisecond),
	}
}

func deadLettered(u *update.Update) *update.Settlement {
	return &update.Settlement{
		Update: u, Outcome: update.DeadLettered, Reason: "gone", Status: 410, Detail: "the Vorgang is deleted",
		Attempts: 2, RequestID: u.TraceID + "-2",
		Answers: update.Answers{
			{Attempt: 1, RequestID: u.TraceID, At: storedAt.Add(time.Second), DurationMs: 20, Status: 503, Reason: "outage"},
			{Attempt: 2, RequestID: u.TraceID + "-2", At: storedAt.Add(1480 * time.Millisecond), DurationMs: 19, Status: 410, Reason: "gone"},
		},
		FirstAttemptAt: storedAt.Add(time.Second), SettledAt: storedAt.Add(1500 * time.Millisecond),
	}
}

func settle(tb testing.TB, j *Journal, s *update.Settlement) {
	tb.Helper()
	if err := j.Settle(tb.Context(), s); err != nil {
		tb.Fatalf("Settle: %v", err)
	}
}

// messages reads a whole stream.
func messages(tb testing.TB, js jetstream.JetStream, stream string) []jetstream.Msg {
	tb.Helper()
	var all []jetstream.Msg
	for msg, err := range (Scan{Stream: stream}).Messages(tb.Context(), js) {
		if err != nil {
			tb.Fatalf("reading %s: %v", stream, err)
		}
		all = append(all, msg)
	}
	return all
}

// only reads the one message of a stream.
func only(tb testing.TB, js jetstream.JetStream, stream string) jetstream.Msg {
	tb.Helper()
	all := messages(tb, js, stream)
	if len(all) != 1 {
		tb.Fatalf("%s has %d messages, want 1", stream, len(all))
	}
	return all[0]
}

func streamState(tb testing.TB, js jetstream.JetStream, name string) jetstream.StreamState {
	tb.Helper()
	stream, err := js.Stream(tb.Context(), name)
	if err != nil {
		tb.Fatalf("opening %s: %v", name, err)
	}
	info, err := stream.Info(tb.Context())
	if err != nil {
		tb.Fatalf("state of %s: %v", name, err)
	}
	return info.State
}

// updateStream changes the configuration of a stream.
func updateStream(tb testing.TB, js jetstream.JetStream, name string, change func(*jetstream.StreamConfig)) {
	tb.Helper()
	stream, err := js.Stream(tb.Context(), name)
	if err != nil {
		tb.Fatalf("opening %s: %v", name, err)
	}
	cfg := stream.CachedInfo().Config
	change(&cfg)
	if _, err := js.UpdateStream(tb.Context(), cfg); err != nil {
		tb.Fatalf("changing %s: %v", name, err)
	}
}

// within ends a test's wait for something that should happen soon.
func within(tb testing.TB, d time.Duration) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), d)
	tb.Cleanup(cancel)
	return ctx
}
