package topology_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

func TestEveryUnusableOptionIsNamedAtOnce(t *testing.T) {
	js := connect(t)
	_, err := topology.Setup(t.Context(), js, topology.Options{
		Partitions: 65, Replicas: 6, Storage: "disk", ResultAge: time.Minute,
		MaxBytes: map[string]int64{"KEX_UPDATES": 0, "KEX_RESULTS": -2, "UPDATES": 1},
	})
	if err == nil {
		t.Fatal("Setup took unusable options")
	}
	for _, want := range []string{
		"--partitions: 65", "--replicas: 6", `--storage: "disk"`, "--result-age: 1m0s",
		"--max-bytes: KEX_UPDATES: 0", "--max-bytes: KEX_RESULTS: -2", `--max-bytes: there is no stream or bucket "UPDATES"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not say %s:\n%v", want, err)
		}
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 7 {
		t.Errorf("%d lines for 7 errors:\n%v", n, err)
	}
	for _, opts := range []topology.Options{{Partitions: -1}, {Replicas: -1}} {
		if opts.Validate() == nil {
			t.Errorf("%+v is valid", opts)
		}
	}
	if names := allStreams(t, js); len(names) != 0 {
		t.Errorf("unusable options created %q", names)
	}
}

func allStreams(t *testing.T, js jetstream.JetStream) []string {
	t.Helper()
	lister := js.StreamNames(t.Context())
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range lister.Name() {
			if !yield(name) {
				return
			}
		}
	})
	if err := lister.Err(); err != nil {
		t.Fatal(err)
	}
	return names
}

func TestADryRunChangesNothing(t *testing.T) {
	js := connect(t)
	report := setUp(t, js, topology.Options{DryRun: true, Partitions: 2})
	if !report.DryRun || !report.Changed() || len(report.Things) != 9 {
		t.Errorf("dry run reports %+v, want 9 things to be created", report)
	}
	if names := allStreams(t, js); len(names) != 0 {
		t.Fatalf("a dry run created %q", names)
	}

	setUp(t, js, topology.Options{})
	before := configOf(t, js, topology.StreamResults)
	want := map[string]string{"max_age": "720h0m0s → 48h0m0s"}
	report = setUp(t, js, topology.Options{DryRun: true, ResultAge: 48 * time.Hour})
	if got := changesIn(report); !maps.Equal(got, want) {
		t.Errorf("dry run would change %v, want %v", got, want)
	}
	if after := configOf(t, js, topology.StreamResults); after.MaxAge != before.MaxAge {
		t.Errorf("a dry run changed max_age to %s", after.MaxAge)
	}
}

func TestOptionsLeftOutKeepWhatIsThere(t *testing.T) {
	js := connect(t)
	opts := topology.Options{
		Storage: topology.Memory, ResultAge: 48 * time.Hour,
		MaxBytes: map[string]int64{
			"KEX_UPDATES": 1 << 20, "KEX_DEADLETTERS": 2 << 20, "KEX_DOCUMENTS": 3 << 20, "KEX_RESULTS": 4 << 20, "KEX_LEDGER": 5 << 20,
		},
	}
	setUp(t, js, opts)
	for name, stream := range map[string]string{
		"KEX_UPDATES": "KEX_UPDATES", "KEX_DEADLETTERS": "KEX_DEADLETTERS", "KEX_DOCUMENTS": "OBJ_KEX_DOCUMENTS",
		"KEX_RESULTS": "KEX_RESULTS", "KEX_LEDGER": "KV_KEX_LEDGER",
	} {
		cfg := configOf(t, js, stream)
		if cfg.MaxBytes != opts.MaxBytes[name] || cfg.Storage != jetstream.MemoryStorage {
			t.Errorf("%s has %d bytes in %s, want %d in memory", stream, cfg.MaxBytes, cfg.Storage, opts.MaxBytes[name])
		}
	}
	if got := configOf(t, js, "KEX_RESULTS").MaxAge; got != opts.ResultAge {
		t.Errorf("results are kept %s, want %s", got, opts.ResultAge)
	}
	if report := setUp(t, js, topology.Options{}); report.Changed() {
		t.Errorf("setup without options changes\n%s", report)
	}
	found, err := topology.Verify(t.Context(), js)
	if err != nil || found.Storage != topology.Memory {
		t.Errorf("Verify = %+v, %v, want it to take the operator's choices", found, err)
	}

	want := map[string]string{"max_bytes": "1048576 → unlimited"}
	report := setUp(t, js, topology.Options{MaxBytes: map[string]int64{"KEX_UPDATES": topology.Unlimited}})
	if got := changesIn(report); !maps.Equal(got, want) {
		t.Errorf("setup changes %v, want %v", got, want)
	}
	_, err = topology.Setup(t.Context(), js, topology.Options{Storage: topology.File})
	if refusal, ok := errors.AsType[*topology.RefusedError](err); !ok || !strings.Contains(refusal.Error(), "storage memory and must have file") {
		t.Errorf("Setup into files = %v, want a refusal", err)
	}
}

func TestWhatOperatorsChooseWithOtherToolsStays(t *testing.T) {
	js := connect(t)
	setUp(t, js, topology.Options{})
	cfg := configOf(t, js, topology.StreamResults)
	cfg.Description = "ours"
	cfg.Metadata = map[string]string{"owner": "crm"}
	cfg.Compression = jetstream.S2Compression
	cfg.RePublish = &jetstream.RePublish{Source: ">", Destination: "copy.>"}
	cfg.AllowAtomicPublish, cfg.AllowBatchPublish = true, true
	cfg.Duplicates = 3 * time.Hour
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	consumer := relayConsumer()
	consumer.Description = "ours"
	consumer.Metadata = map[string]string{"owner": "crm"}
	consumer.SampleFrequency = "10%"
	if _, err := js.UpdateConsumer(t.Context(), topology.StreamUpdates, consumer); err != nil {
		t.Fatal(err)
	}
	if report := setUp(t, js, topology.Options{}); report.Changed() {
		t.Errorf("setup changes the operator's choices:\n%s", report)
	}
	// A change elsewhere must not reset them either.
	setUp(t, js, topology.Options{ResultAge: 48 * time.Hour, Partitions: 2})
	got := configOf(t, js, topology.StreamResults)
	if got.Description != "ours" || got.Metadata["owner"] != "crm" || got.Compression != jetstream.S2Compression || got.RePublish == nil ||
		!got.AllowAtomicPublish || !got.AllowBatchPublish || got.Duplicates != 3*time.Hour || got.MaxAge != 48*time.Hour {
		t.Errorf("after a change the stream is %+v", got)
	}
	relay, err := js.Consumer(t.Context(), topology.StreamUpdates, topology.Consumer(0))
	if err != nil {
		t.Fatal(err)
	}
	if got := relay.CachedInfo().Config; got.Description != "ours" || got.Metadata["owner"] != "crm" || got.SampleFrequency != "10%" {
		t.Errorf("after a change the consumer is %+v", got)
	}
}

// adjusting stands for a server that changes what was asked for without an error.
type adjusting struct{ jetstream.JetStream }

func (a adjusting) CreateStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	cfg.AllowRollup = cfg.AllowRollup || cfg.Name == topology.StreamDeadLetters
	return a.JetStream.CreateStream(ctx, cfg)
}

func (a adjusting) UpdateStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	return a.CreateStream(ctx, cfg)
}

func (a adjusting) CreateConsumer(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	cfg.MaxAckPending = 1000
	return a.JetStream.CreateConsumer(ctx, stream, cfg)
}

func (a adjusting) UpdateConsumer(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	cfg.MaxAckPending = 1000
	return a.JetStream.UpdateConsumer(ctx, stream, cfg)
}

func TestWhatTheServerChangesSilentlyIsAnError(t *testing.T) {
	js := connect(t)
	stream := "stream KEX_DEADLETTERS: the server accepted it but changed allow_rollup_hdrs (asked for no, got yes)"
	consumer := "consumer relay-0: the server accepted it but changed max_ack_pending (asked for 50000, got 1000)"
	for range 2 { // Created, then updated.
		report, err := topology.Setup(t.Context(), adjusting{js}, topology.Options{})
		if err == nil || err.Error() != stream || len(report.Things) != 1 {
			t.Fatalf("Setup = %v, want %s", err, stream)
		}
	}
	setUp(t, js, topology.Options{})
	if err := js.DeleteConsumer(t.Context(), topology.StreamUpdates, topology.Consumer(0)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		report, err := topology.Setup(t.Context(), adjusting{js}, topology.Options{})
		if err == nil || err.Error() != consumer || len(report.Things) != 7 {
			t.Fatalf("Setup = %v, want %s", err, consumer)
		}
	}
}

func TestASealedStreamIsRefused(t *testing.T) {
	js := connect(t)
	setUp(t, js, topology.Options{})
	cfg := configOf(t, js, topology.StreamDeadLetters)
	cfg.Sealed = true
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	_, err := topology.Setup(t.Context(), js, topology.Options{})
	if refusal, ok := errors.AsType[*topology.RefusedError](err); !ok || !strings.Contains(err.Error(), "sealed yes and must have no") {
		t.Errorf("Setup = %v (%v), want a refusal of the seal", err, refusal)
	}
	if _, err := topology.Verify(t.Context(), js); !errors.Is(err, topology.ErrSetupNeeded) {
		t.Errorf("Verify = %v, want ErrSetupNeeded", err)
	}
}

func TestTheReportHasALineForEachThing(t *testing.T) {
	report := topology.Report{Things: []topology.Thing{
		{Name: "stream KEX_RESULTS", Action: topology.Created},
		{Name: "stream KEX_UPDATES", Action: topology.Updated, Changes: []topology.Change{
			{Field: "max_age", Old: "5h0m0s", New: "none"}, {Field: "discard", Old: "old", New: "new"},
		}},
		{Name: "consumer relay-0", Action: topology.Unchanged, Note: "and more"},
	}}
	want := "stream KEX_RESULTS: created\n" +
		"stream KEX_UPDATES: updated (max_age: 5h0m0s → none; discard: old → new)\n" +
		"consumer relay-0: unchanged, and more\n"
	if got := report.String(); got != want {
		t.Errorf("report is\n%swant\n%s", got, want)
	}
}
