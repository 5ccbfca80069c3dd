package topology_test

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// streamDrift is one way a stream can differ, made by change on the configuration that setup gives it.
type streamDrift struct {
	stream string // KEX_UPDATES if empty.
	change func(c *jetstream.StreamConfig)
	// changed are the settings setup reports, by their old and new values.
	changed map[string]string
	// refused says that no server changes one of them.
	refused bool
}

func streamDrifts() map[string]streamDrift {
	type cfg = jetstream.StreamConfig
	return map[string]streamDrift{
		"Subjects": {
			change:  func(c *cfg) { c.Subjects = []string{"kex.vorgang.*.*"} },
			changed: map[string]string{"subjects": "kex.vorgang.*.* → kex.vorgang.>"},
		},
		"Retention of a work queue": {
			change:  func(c *cfg) { c.Retention = jetstream.LimitsPolicy },
			changed: map[string]string{"retention": "limits → workqueue"}, refused: true,
		},
		"Retention to a work queue": {
			stream: topology.StreamResults, change: func(c *cfg) { c.Retention = jetstream.WorkQueuePolicy },
			changed: map[string]string{"retention": "workqueue → limits"}, refused: true,
		},
		"Retention": {
			stream: topology.StreamResults, change: func(c *cfg) { c.Retention = jetstream.InterestPolicy },
			changed: map[string]string{"retention": "interest → limits"},
		},
		"MaxConsumers":      {change: func(c *cfg) { c.MaxConsumers = 5 }, changed: map[string]string{"max_consumers": "5 → unlimited"}},
		"MaxMsgs":           {change: func(c *cfg) { c.MaxMsgs = 10 }, changed: map[string]string{"max_msgs": "10 → unlimited"}},
		"Discard":           {change: func(c *cfg) { c.Discard = jetstream.DiscardOld }, changed: map[string]string{"discard": "old → new"}},
		"MaxAge":            {change: func(c *cfg) { c.MaxAge = 5 * time.Hour }, changed: map[string]string{"max_age": "5h0m0s → none"}},
		"MaxMsgsPerSubject": {change: func(c *cfg) { c.MaxMsgsPerSubject = 3 }, changed: map[string]string{"max_msgs_per_subject": "3 → unlimited"}},
		"MaxMsgSize":        {change: func(c *cfg) { c.MaxMsgSize = 100 }, changed: map[string]string{"max_msg_size": "100 → unlimited"}},
		"DiscardNewPerSubject": {
			change:  func(c *cfg) { c.DiscardNewPerSubject, c.MaxMsgsPerSubject = true, 1 },
			changed: map[string]string{"discard_new_per_subject": "yes → no", "max_msgs_per_subject": "1 → unlimited"},
		},
		"NoAck": {change: func(c *cfg) { c.NoAck = true }, changed: map[string]string{"no_ack": "yes → no"}},
		"Duplicates": {
			change:  func(c *cfg) { c.Duplicates = 2 * time.Minute },
			changed: map[string]string{"duplicate_window": "2m0s → 2h0m0s"},
		},
		"SubjectTransform": {
			change: func(c *cfg) { c.SubjectTransform = nil },
			changed: map[string]string{
				"subject_transform": "none → kex.vorgang.*.* to kex.update.{{partition(1,1)}}.{{wildcard(1)}}.{{wildcard(2)}}",
			},
		},
		"AllowDirect": {
			stream: "KV_" + topology.BucketLedger, change: func(c *cfg) { c.AllowDirect = true },
			changed: map[string]string{"allow_direct": "yes → no"},
		},
		"AllowRollup": {change: func(c *cfg) { c.AllowRollup = true }, changed: map[string]string{"allow_rollup_hdrs": "yes → no"}},
		"AllowRollup of a bucket": {
			stream: "KV_" + topology.BucketControl, change: func(c *cfg) { c.AllowRollup = false },
			changed: map[string]string{"allow_rollup_hdrs": "no → yes"},
		},
		"DenyDelete":              {change: func(c *cfg) { c.DenyDelete = true }, changed: map[string]string{"deny_delete": "yes → no"}, refused: true},
		"DenyPurge":               {change: func(c *cfg) { c.DenyPurge = true }, changed: map[string]string{"deny_purge": "yes → no"}, refused: true},
		"DenyDelete of the audit": {stream: topology.StreamAudit, change: func(c *cfg) { c.DenyDelete = false }, changed: map[string]string{"deny_delete": "no → yes"}},
		"DenyPurge of the audit":  {stream: topology.StreamAudit, change: func(c *cfg) { c.DenyPurge = false }, changed: map[string]string{"deny_purge": "no → yes"}},
		"ConsumerLimits": {
			change:  func(c *cfg) { c.ConsumerLimits.InactiveThreshold = time.Hour },
			changed: map[string]string{"consumer_limits": "inactive_threshold 1h0m0s, max_ack_pending 0 → none"},
		},
		"AllowMsgTTL": {change: func(c *cfg) { c.AllowMsgTTL = true }, changed: map[string]string{"allow_msg_ttl": "yes → no"}, refused: true},
		"SubjectDeleteMarkerTTL": {
			change: func(c *cfg) { c.SubjectDeleteMarkerTTL = time.Minute },
			changed: map[string]string{
				"subject_delete_marker_ttl": "1m0s → none", "allow_msg_ttl": "yes → no", "allow_rollup_hdrs": "yes → no",
			},
			refused: true,
		},
		"AllowMsgCounter": {
			stream: topology.StreamResults, change: func(c *cfg) { c.AllowMsgCounter, c.Discard = true, jetstream.DiscardOld },
			changed: map[string]string{"allow_msg_counter": "yes → no", "discard": "old → new"}, refused: true,
		},
		"AllowMsgSchedules": {
			change: func(c *cfg) { c.AllowMsgSchedules, c.Discard = true, jetstream.DiscardOld },
			changed: map[string]string{
				"allow_msg_schedules": "yes → no", "discard": "old → new", "allow_rollup_hdrs": "yes → no",
			},
			refused: true,
		},
		"PersistMode": {
			change:  func(c *cfg) { c.PersistMode = jetstream.AsyncPersistMode },
			changed: map[string]string{"persist_mode": "async → default"}, refused: true,
		},
		"Mirror": {
			stream: topology.StreamResults, change: func(c *cfg) {
				c.Mirror, c.Subjects, c.Duplicates = &jetstream.StreamSource{Name: "ELSEWHERE"}, nil, 0
			},
			changed: map[string]string{"mirror": "ELSEWHERE → none", "subjects": "none → kex.result.>", "duplicate_window": "0s → 2h0m0s"},
		},
		"Sources": {
			change:  func(c *cfg) { c.Sources = []*jetstream.StreamSource{{Name: "B"}, {Name: "A"}} },
			changed: map[string]string{"sources": "A, B → none"},
		},
	}
}

// streamChoices are the settings that are an option of setup or that operators may set with other tools.
func streamChoices() []string {
	return []string{
		"Name", "Description", "Placement", "Metadata", "Compression", "RePublish", "FirstSeq", "MirrorDirect", "Template",
		"AllowAtomicPublish", "AllowBatchPublish", "MaxBytes", "Storage", "Replicas", "Sealed",
	}
}

func TestEverySettingOfAStreamIsComparedOrLeftToTheOperator(t *testing.T) {
	covered := streamChoices()
	for name := range streamDrifts() {
		covered = append(covered, strings.Fields(name)[0])
	}
	for field := range reflect.TypeFor[jetstream.StreamConfig]().Fields() {
		if !slices.Contains(covered, field.Name) {
			t.Errorf("nobody has decided about %s", field.Name)
		}
	}
}

func TestADifferingStreamIsMendedOrRefused(t *testing.T) {
	js := connect(t)
	setUp(t, js, topology.Options{})
	for name, drift := range streamDrifts() {
		t.Run(name, func(t *testing.T) {
			stream := drift.stream
			if stream == "" {
				stream = topology.StreamUpdates
			}
			recreate(t, js, stream, drift.change)
			before := configOf(t, js, stream)
			checkDrift(t, js, drift.changed, drift.refused)
			if drift.refused {
				if diff := cmp.Diff(before, configOf(t, js, stream)); diff != "" {
					t.Errorf("a refused setup changed the stream:\n%s", diff)
				}
				if err := js.DeleteStream(t.Context(), stream); err != nil {
					t.Fatal(err)
				}
			}
			setUp(t, js, topology.Options{})
			if _, err := topology.Verify(t.Context(), js); err != nil {
				t.Errorf("Verify after mending: %v", err)
			}
		})
	}
}

// checkDrift holds dry run, Verify and Setup against what differs.
func checkDrift(t *testing.T, js jetstream.JetStream, changed map[string]string, refused bool) {
	t.Helper()
	dry, dryErr := topology.Setup(t.Context(), js, topology.Options{DryRun: true})
	if diff := cmp.Diff(changed, changesIn(dry)); diff != "" {
		t.Errorf("dry run reports other changes:\n%s", diff)
	}
	_, verifyErr := topology.Verify(t.Context(), js)
	if !errors.Is(verifyErr, topology.ErrSetupNeeded) {
		t.Errorf("Verify = %v, want ErrSetupNeeded", verifyErr)
	}
	report, err := topology.Setup(t.Context(), js, topology.Options{})
	if !refused {
		if diff := cmp.Diff(changed, changesIn(report)); err != nil || diff != "" {
			t.Errorf("Setup reports other changes, error %v:\n%s", err, diff)
		}
		if dryErr != nil {
			t.Errorf("dry run: %v", dryErr)
		}
	}
	for field, values := range changed {
		if field == "priority_timeout" {
			continue // Verify puts up with it.
		}
		from, to, _ := strings.Cut(values, " → ")
		if text := field + " " + from + " and must have " + to; verifyErr == nil || !strings.Contains(verifyErr.Error(), text) {
			t.Errorf("Verify = %v, does not say %q", verifyErr, text)
		}
	}
	if !refused {
		return
	}
	refusal, ok := errors.AsType[*topology.RefusedError](err)
	if !ok || dryErr == nil || dryErr.Error() != err.Error() {
		t.Fatalf("Setup = %v, dry run = %v, want the same RefusedError", err, dryErr)
	}
	if !slices.ContainsFunc(slices.Collect(maps.Keys(changed)), func(field string) bool {
		return strings.Contains(refusal.Problem, "has "+field+" ")
	}) || refusal.Advice == "" {
		t.Errorf("refusal %q does not name the setting and what to do", refusal)
	}
	if report.Changed() {
		t.Errorf("a refused setup did %q", actions(report))
	}
}

func changesIn(r topology.Report) map[string]string {
	changes := map[string]string{}
	for _, thing := range r.Things {
		for _, c := range thing.Changes {
			changes[c.Field] = c.Old + " → " + c.New
		}
	}
	return changes
}

func configOf(t *testing.T, js jetstream.JetStream, name string) jetstream.StreamConfig {
	t.Helper()
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatalf("asking for stream %s: %v", name, err)
	}
	return stream.CachedInfo().Config
}

// recreate makes the stream anew with another configuration. A consumer it has keeps its own.
func recreate(t *testing.T, js jetstream.JetStream, name string, change func(c *jetstream.StreamConfig)) {
	t.Helper()
	cfg := configOf(t, js, name)
	change(&cfg)
	if err := js.DeleteStream(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), cfg)
	if err != nil {
		t.Fatalf("creating the differing stream: %v", err)
	}
	if name != topology.StreamUpdates || cfg.ConsumerLimits.InactiveThreshold != 0 {
		return
	}
	consumer := relayConsumer()
	if cfg.Retention == jetstream.WorkQueuePolicy {
		if _, err := stream.CreateConsumer(t.Context(), consumer); err != nil {
			t.Fatal(err)
		}
	}
}

func relayConsumer() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: topology.Consumer(0), AckPolicy: jetstream.AckExplicitPolicy, AckWait: topology.AckWait, MaxDeliver: -1,
		MaxAckPending: topology.MaxAckPending, PriorityPolicy: jetstream.PriorityPolicyPinned,
		PriorityGroups: []string{topology.PriorityGroup}, PinnedTTL: topology.PinnedTTL,
	}
}

// consumerDrift is one way relay-0 can differ.
type consumerDrift struct {
	change  func(c *jetstream.ConsumerConfig)
	changed map[string]string
	refused bool
	// tunable says that serve starts nevertheless.
	tunable bool
}

func consumerDrifts() map[string]consumerDrift {
	type cfg = jetstream.ConsumerConfig
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return map[string]consumerDrift{
		"AckWait":       {change: func(c *cfg) { c.AckWait = time.Second }, changed: map[string]string{"ack_wait": "1s → 30s"}},
		"MaxDeliver":    {change: func(c *cfg) { c.MaxDeliver = 5 }, changed: map[string]string{"max_deliver": "5 → unlimited"}},
		"BackOff":       {change: func(c *cfg) { c.BackOff = []time.Duration{30 * time.Second, time.Minute} }, changed: map[string]string{"backoff": "1m0s, 30s → none"}},
		"FilterSubject": {change: func(c *cfg) { c.FilterSubject = "kex.update.0.>" }, changed: map[string]string{"filter_subjects": "kex.update.0.> → none"}},
		"FilterSubjects": {
			change:  func(c *cfg) { c.FilterSubjects = []string{"kex.vorgang.>", "kex.update.0.>"} },
			changed: map[string]string{"filter_subjects": "kex.update.0.>, kex.vorgang.> → none"},
		},
		"MaxAckPending": {change: func(c *cfg) { c.MaxAckPending = 1000 }, changed: map[string]string{"max_ack_pending": "1000 → 50000"}, tunable: true},
		"PinnedTTL":     {change: func(c *cfg) { c.PinnedTTL = time.Minute }, changed: map[string]string{"priority_timeout": "1m0s → 10s"}, tunable: true},
		"PriorityPolicy": {
			change:  func(c *cfg) { c.PriorityPolicy, c.PinnedTTL = jetstream.PriorityPolicyOverflow, 0 },
			changed: map[string]string{"priority_policy": "overflow → pinned_client", "priority_timeout": "none → 10s"},
		},
		"PriorityGroups":     {change: func(c *cfg) { c.PriorityGroups = []string{"g"} }, changed: map[string]string{"priority_groups": "g → relay"}},
		"HeadersOnly":        {change: func(c *cfg) { c.HeadersOnly = true }, changed: map[string]string{"headers_only": "yes → no"}},
		"MaxRequestBatch":    {change: func(c *cfg) { c.MaxRequestBatch = 7 }, changed: map[string]string{"max_batch": "7 → 0"}},
		"MaxRequestExpires":  {change: func(c *cfg) { c.MaxRequestExpires = time.Second }, changed: map[string]string{"max_expires": "1s → none"}},
		"MaxRequestMaxBytes": {change: func(c *cfg) { c.MaxRequestMaxBytes = 1024 }, changed: map[string]string{"max_bytes": "1024 → 0"}},
		"InactiveThreshold":  {change: func(c *cfg) { c.InactiveThreshold = time.Hour }, changed: map[string]string{"inactive_threshold": "1h0m0s → none"}},
		"Replicas":           {change: func(c *cfg) { c.Replicas = 1 }, changed: map[string]string{"num_replicas": "1 → 0"}},
		"MemoryStorage":      {change: func(c *cfg) { c.MemoryStorage = true }, changed: map[string]string{"mem_storage": "yes → no"}, refused: true},
		"ReplayPolicy": {
			change:  func(c *cfg) { c.ReplayPolicy = jetstream.ReplayOriginalPolicy },
			changed: map[string]string{"replay_policy": "original → instant"}, refused: true,
		},
		// What follows a WorkQueue stream does not even accept; on a stream that is refused itself it shows.
		"AckPolicy":     {change: func(c *cfg) { c.AckPolicy = jetstream.AckAllPolicy }, changed: map[string]string{"ack_policy": "AckAll → AckExplicit"}, refused: true},
		"DeliverPolicy": {change: func(c *cfg) { c.DeliverPolicy = jetstream.DeliverNewPolicy }, changed: map[string]string{"deliver_policy": "new → all"}, refused: true},
		"OptStartSeq": {
			change:  func(c *cfg) { c.DeliverPolicy, c.OptStartSeq = jetstream.DeliverByStartSequencePolicy, 7 },
			changed: map[string]string{"deliver_policy": "by_start_sequence → all", "opt_start_seq": "7 → 0"}, refused: true,
		},
		"OptStartTime": {
			change:  func(c *cfg) { c.DeliverPolicy, c.OptStartTime = jetstream.DeliverByStartTimePolicy, &start },
			changed: map[string]string{"deliver_policy": "by_start_time → all", "opt_start_time": "2026-01-02T03:04:05Z → none"}, refused: true,
		},
	}
}

func TestEverySettingOfAConsumerIsComparedOrLeftToTheOperator(t *testing.T) {
	covered := []string{
		"Name", "Durable", "Description", "Metadata", "SampleFrequency", "MaxWaiting", "PauseUntil",
		"DeliverSubject", "DeliverGroup", "FlowControl", "IdleHeartbeat", "RateLimit", // Only push consumers have them.
	}
	covered = slices.AppendSeq(covered, maps.Keys(consumerDrifts()))
	for field := range reflect.TypeFor[jetstream.ConsumerConfig]().Fields() {
		if !slices.Contains(covered, field.Name) {
			t.Errorf("nobody has decided about %s", field.Name)
		}
	}
}

func TestADifferingConsumerIsMendedOrRefused(t *testing.T) {
	js := connect(t)
	setUp(t, js, topology.Options{})
	for name, drift := range consumerDrifts() {
		t.Run(name, func(t *testing.T) {
			onWorkQueue := !slices.Contains([]string{"AckPolicy", "DeliverPolicy", "OptStartSeq", "OptStartTime"}, name)
			changed := maps.Clone(drift.changed)
			if !onWorkQueue {
				recreate(t, js, topology.StreamUpdates, func(c *jetstream.StreamConfig) { c.Retention = jetstream.LimitsPolicy })
				changed["retention"] = "limits → workqueue"
			} else if err := js.DeleteConsumer(t.Context(), topology.StreamUpdates, topology.Consumer(0)); err != nil {
				t.Fatal(err)
			}
			consumer := relayConsumer()
			drift.change(&consumer)
			if _, err := js.CreateConsumer(t.Context(), topology.StreamUpdates, consumer); err != nil {
				t.Fatalf("creating the differing consumer: %v", err)
			}
			if drift.tunable {
				if _, err := topology.Verify(t.Context(), js); err != nil {
					t.Errorf("Verify = %v, want it to put up with %s", err, name)
				}
				if diff := cmp.Diff(changed, changesIn(setUp(t, js, topology.Options{}))); diff != "" {
					t.Errorf("Setup reports other changes:\n%s", diff)
				}
			} else {
				checkDrift(t, js, changed, drift.refused)
			}
			if drift.refused {
				if err := js.DeleteStream(t.Context(), topology.StreamUpdates); err != nil {
					t.Fatal(err)
				}
			}
			setUp(t, js, topology.Options{})
			if _, err := topology.Verify(t.Context(), js); err != nil {
				t.Errorf("Verify after mending: %v", err)
			}
		})
	}
}
