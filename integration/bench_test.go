package integration

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// What may be said to the benchmark by the environment.
const (
	benchOnlyEnv = "KEXRELAY_BENCH_ONLY" // A regular expression for the names of the cases to run.
	benchAlsoEnv = "KEXRELAY_BENCH_ALSO" // Another build of kexrelay, with settings (NAME=value) before it, to measure beside.
	benchJSONEnv = "KEXRELAY_BENCH_JSON" // A file for the report as JSON.
)

// BenchmarkThroughput measures the whole way with real processes: the relay as it is built, nats-server and the simulated
// API. Each iteration is one round in which every contestant runs once; told are medians over the rounds:
//
//	go test ./integration -run '^$' -bench Throughput -benchtime 3x
//
// The README says what the columns mean and how to choose among the cases.
func BenchmarkThroughput(b *testing.B) {
	only, err := regexp.Compile(os.Getenv(benchOnlyEnv))
	if err != nil {
		b.Fatalf("%s: %v", benchOnlyEnv, err)
	}
	cases := slices.DeleteFunc(benchCases(1), func(k benchCase) bool { return !only.MatchString(k.Name) })
	if len(cases) == 0 {
		b.Fatalf("%s=%s: no case is called so", benchOnlyEnv, os.Getenv(benchOnlyEnv))
	}
	bench := newBench(b, cases)
	if also := strings.Fields(os.Getenv(benchAlsoEnv)); len(also) > 0 {
		other := relayAs(otherName, also[len(also)-1])
		other.settings = also[:len(also)-1]
		bench.contestants = append(bench.contestants, other)
	}
	for b.Loop() {
		bench.round()
	}
	b.ReportMetric(0, "ns/op") // Means nothing here.
	r := bench.report()
	fmt.Fprint(os.Stdout, "\n", r.table())
	if file := os.Getenv(benchJSONEnv); file != "" {
		bench.must(os.WriteFile(file, r.json(b), 0o600))
	}
}

// The contestants' names in the report.
const (
	relayName     = "kexrelay"
	otherName     = "kexrelay as told"
	plainName     = "plain consumer"
	plainBareName = "plain, default pool"
)

// benchCases are the cases of the benchmark, each small enough for rounds of about three seconds a contestant; a share
// below 1 makes them smaller still.
func benchCases(share float64) []benchCase {
	n := func(updates int) int { return max(4, int(float64(updates)*share)) }
	few, relays := []string{plainBareName}, []string{plainName, plainBareName}
	return []benchCase{
		{
			Name: "comments, 200 B, API 0 ms", InFlight: 64, warm: n(2000),
			load: benchLoad{kind: "kommentare", size: 200, updates: n(20_000), lanes: 5000},
		},
		{
			Name: "comments, 200 B, API 200 ms", InFlight: 256, Latency: 200 * time.Millisecond, warm: n(1500), ideal: 1280, without: few,
			load: benchLoad{kind: "kommentare", size: 200, updates: n(32 * 256), lanes: 5000}, // Long, as its first and last updates have few beside them.
		},
		{
			Name: "latency of comments, API 0 ms", InFlight: 64, Rate: 1000, warm: n(500), without: few,
			load: benchLoad{kind: "kommentare", size: 200, updates: n(3000), lanes: 5000},
		},
		{
			Name: "latency of comments, API 200 ms", InFlight: 64, Rate: 250, Latency: 200 * time.Millisecond, warm: n(200), without: relays,
			load: benchLoad{kind: "kommentare", size: 200, updates: n(1000), lanes: 5000},
		},
		{
			Name: "the same behind 10,000 updates of one Vorgang", InFlight: 64, Rate: 250, Latency: 200 * time.Millisecond, warm: n(200),
			without: relays, burst: n(10_000),
			load: benchLoad{kind: "kommentare", size: 200, updates: n(1000), lanes: 5000},
		},
		{
			Name: "documents, 100 kB", InFlight: 32, warm: n(200), without: few,
			load: benchLoad{kind: "dokument", size: 100_000, updates: n(2000), lanes: 1000},
		},
		{
			Name: "documents, 1 MB", InFlight: 32, warm: n(64), without: few,
			load: benchLoad{kind: "dokument", size: 1_000_000, updates: n(400), lanes: 1000},
		},
		{
			Name: "documents, 5 MB", InFlight: 32, warm: n(32), without: few,
			load: benchLoad{kind: "dokument", size: 5_000_000, updates: n(80), lanes: 1000},
		},
		{
			Name: "documents, 100 MB by reference", InFlight: 4, warm: 1, without: relays,
			load: benchLoad{kind: "dokument", size: int(100_000_000 * min(1, 10*share)), updates: n(6), lanes: 1000, object: true},
		},
	}
}

// bench is one run of the benchmark.
type bench struct {
	*benchSystem
	cases       []benchCase
	contestants []contestant
	rounds      int
	limits      map[string][]limits
	runs        map[benchKey][]benchRun
}

// benchKey names a row of the report.
type benchKey struct{ of, contestant string }

func newBench(tb testing.TB, cases []benchCase) *bench {
	tb.Helper()
	b := &bench{
		benchSystem: newLimits(tb), cases: cases, limits: map[string][]limits{}, runs: map[benchKey][]benchRun{},
		contestants: []contestant{
			relayAs(relayName, programs.kexrelay), plainAs(plainName, plainPool), plainAs(plainBareName, plainBare),
		},
	}
	// One result of the relay, for the limit of publishing those.
	b.measure(b.contestants[0], benchCase{InFlight: 4, warm: 4, load: benchLoad{kind: "kommentare", size: 200, updates: 4, lanes: 4}})
	return b
}

// round lets every contestant run once in each case, each time in another order.
func (b *bench) round() {
	b.tb.Helper()
	for _, k := range b.cases {
		began := time.Now()
		var l limits
		if k.Rate == 0 {
			l = b.limit(k)
			b.limits[k.Name] = append(b.limits[k.Name], l)
		}
		for i := range b.contestants {
			c := b.contestants[(i+b.rounds)%len(b.contestants)]
			if slices.Contains(k.without, c.name) {
				continue
			}
			r := b.measure(c, k)
			switch {
			case k.ideal > 0:
				r.OfC = r.Rate / k.ideal
			case k.Rate == 0:
				r.OfC = r.Rate / l.C
			}
			r.CPUOf = l.CPU / max(r.Own+r.NATS+r.API, 1e-9)
			key := benchKey{k.Name, c.name}
			b.runs[key] = append(b.runs[key], r)
		}
		b.tb.Logf("round %d: %s took %.1f s", b.rounds+1, k.Name, time.Since(began).Seconds())
	}
	b.rounds++
}
