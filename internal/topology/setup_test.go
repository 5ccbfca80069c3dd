package topology_test

import (
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
)

// connect opens JetStream on a server of the test's own.
func connect(t *testing.T, opts ...jetstream.JetStreamOpt) jetstream.JetStream {
	t.Helper()
	return connectTo(t, embeddedtest.Run(t).URL(), opts...)
}

func connectTo(t *testing.T, url string, opts ...jetstream.JetStreamOpt) jetstream.JetStream {
	t.Helper()
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatalf("connecting to %s: %v", url, err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn, append(opts, jetstream.WithDefaultTimeout(30*time.Second))...) // A disk may stand still for some seconds.
	if err != nil {
		t.Fatalf("opening JetStream: %v", err)
	}
	return js
}

func setUp(t *testing.T, js jetstream.JetStream, opts topology.Options) topology.Report {
	t.Helper()
	report, err := topology.Setup(t.Context(), js, opts)
	if err != nil {
		t.Fatalf("Setup(%+v): %v", opts, err)
	}
	return report
}

// actions is each thing's name and what was done to it.
func actions(r topology.Report) []string {
	lines := make([]string, len(r.Things))
	for i, thing := range r.Things {
		lines[i] = thing.Name + " " + string(thing.Action)
	}
	return lines
}

func TestASecondSetupChangesNothing(t *testing.T) {
	js := connect(t)
	things := []string{
		"stream KEX_RESULTS", "stream KEX_DEADLETTERS", "stream KEX_AUDIT", "object bucket KEX_DOCUMENTS",
		"key-value bucket KEX_LEDGER", "key-value bucket KEX_CONTROL", "stream KEX_UPDATES", "consumer relay-0",
	}
	for _, action := range []string{"created", "unchanged", "unchanged"} {
		want := make([]string, len(things))
		for i, thing := range things {
			want[i] = thing + " " + action
		}
		report := setUp(t, js, topology.Options{})
		if got := actions(report); !slices.Equal(got, want) {
			t.Fatalf("Setup did %q, want %q", got, want)
		}
		if report.Changed() != (action == "created") {
			t.Errorf("Changed() = %v when everything is %s", report.Changed(), action)
		}
	}
	found, err := topology.Verify(t.Context(), js)
	if err != nil || found.Partitions != 1 || found.Replicas != 1 || found.Storage != topology.File {
		t.Errorf("Verify = %+v, %v, want 1 partition, 1 replica in files", found, err)
	}
}
