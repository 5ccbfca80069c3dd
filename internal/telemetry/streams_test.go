package telemetry_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kexrelay/internal/fault"
	"kexrelay/internal/telemetry"
)

func fleet() telemetry.Fleet {
	return telemetry.Fleet{
		Partitions: 2, Replicas: 3, Waiting: 7, Oldest: time.Unix(1700000000, 5e8),
		Streams: []telemetry.Stream{
			{Name: "KEX_UPDATES", Messages: 7, Bytes: 700, MaxBytes: 1000},
			{Name: "KEX_RESULTS", Messages: 9, Bytes: 900, MaxBytes: -1},
		},
		DeadLetters: []telemetry.DeadLetters{
			{Reason: fault.Gone, Count: 2, Oldest: time.Unix(1600000000, 0)}, {Reason: fault.Invalid}, {Reason: "c4nary", Count: 1},
		},
	}
}

func sources(known bool) telemetry.Sources {
	return telemetry.Sources{
		Fleet: func() (telemetry.Fleet, bool) { return fleet(), known },
		Partitions: func() []telemetry.Partition {
			return []telemetry.Partition{{Number: 0, Waiting: 4, Pinned: true}, {Number: 11}}
		},
		Fetched: func() map[telemetry.FetchEvent]uint64 {
			counts := make(map[telemetry.FetchEvent]uint64)
			counts[telemetry.FetchPinLost], counts["c4nary"] = 3, 1
			return counts
		},
	}
}

func TestWhatLiesInNATSIsToldByOneForAll(t *testing.T) {
	own := map[string]float64{
		"kexrelay_partition_waiting_updates{partition=0}":  4,
		"kexrelay_partition_pinned{partition=0}":           1,
		"kexrelay_partition_waiting_updates{partition=11}": 0,
		"kexrelay_partition_pinned{partition=11}":          0,
		"kexrelay_fetch_events_total{event=pin_lost}":      3,
		"kexrelay_fetch_events_total{event=delivered}":     0,
		"kexrelay_fetch_events_total{event=redelivered}":   0,
		"kexrelay_fetch_events_total{event=reacked}":       0,
		"kexrelay_fetch_events_total{event=catch_up}":      0,
		"kexrelay_fetch_events_total{event=dropped}":       0,
		"kexrelay_fetch_events_total{event=reread}":        0,
	}
	all := map[string]float64{
		"kexrelay_waiting_updates{}":                                    7,
		"kexrelay_oldest_waiting_timestamp_seconds{}":                   1700000000.5,
		"kexrelay_partitions{}":                                         2,
		"kexrelay_replicas{}":                                           3,
		"kexrelay_stream_messages{stream=KEX_UPDATES}":                  7,
		"kexrelay_stream_bytes{stream=KEX_UPDATES}":                     700,
		"kexrelay_stream_max_bytes{stream=KEX_UPDATES}":                 1000,
		"kexrelay_stream_messages{stream=KEX_RESULTS}":                  9,
		"kexrelay_stream_bytes{stream=KEX_RESULTS}":                     900,
		"kexrelay_dead_letters{reason=gone}":                            2,
		"kexrelay_oldest_dead_letter_timestamp_seconds{reason=gone}":    1600000000,
		"kexrelay_dead_letters{reason=invalid}":                         0,
		"kexrelay_oldest_dead_letter_timestamp_seconds{reason=invalid}": 0,
		"kexrelay_dead_letters{reason=other}":                           1,
		"kexrelay_oldest_dead_letter_timestamp_seconds{reason=other}":   0,
	}
	maps.Copy(all, own)
	for _, tc := range []struct {
		speaks bool
		want   map[string]float64
	}{{true, all}, {false, own}} {
		m := telemetry.NewMetrics(build)
		before := scrape(t, m)
		if err := m.RegisterSources(sources(tc.speaks)); err != nil {
			t.Fatal(err)
		}
		after := scrape(t, m)
		maps.DeleteFunc(after, func(name string, _ float64) bool {
			_, there := before[name]
			return there
		})
		if diff := cmp.Diff(tc.want, after); diff != "" {
			t.Errorf("speaks for all %v (-want +got):\n%s", tc.speaks, diff)
		}
	}
}

func TestSourcesAreRegisteredOnce(t *testing.T) {
	m := telemetry.NewMetrics(build)
	if err := m.RegisterSources(sources(true)); err != nil {
		t.Fatal(err)
	}
	if err := m.RegisterSources(sources(true)); err == nil {
		t.Error("registered twice")
	}
	if names := slices.Collect(maps.Keys(families(t, m))); !slices.Contains(names, "kexrelay_waiting_updates") {
		t.Errorf("%v lacks the sources", names)
	}
}
