package integration

import (
	"flag"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
)

// seriesFile lists every series a relay shows. The dashboard and the alerts are checked against it.
const seriesFile = "testdata/series.txt"

var updateSeries = flag.Bool("update", false, "write "+seriesFile+" anew")

// metrics scrapes one relay and gives its own series, a histogram's as its count.
func (s *system) metrics(health string) map[string]float64 {
	s.t.Helper()
	kept := s.health
	s.health = health
	defer func() { s.health = kept }()
	code, body := s.get("/metrics")
	if code != 200 {
		s.t.Fatalf("/metrics answers %d", code)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	series := map[string]float64{}
	for name, family := range families {
		if !strings.HasPrefix(name, "kexrelay_") {
			continue
		}
		for _, m := range family.GetMetric() {
			put := func(suffix string, value float64) { series[name+suffix+labelsOf(m)] = value }
			if h := m.GetHistogram(); h != nil {
				put("_bucket", float64(len(h.GetBucket())))
				put("_count", float64(h.GetSampleCount()))
				put("_sum", h.GetSampleSum())
				continue
			}
			put("", m.GetCounter().GetValue()+m.GetGauge().GetValue())
		}
	}
	return series
}

// labelsOf writes labels as they are asked for, those of the build without their values.
func labelsOf(m *dto.Metric) string {
	var all []string
	for _, l := range m.GetLabel() {
		value := l.GetValue()
		if slices.Contains([]string{"version", "revision", "goversion"}, l.GetName()) {
			value = "…"
		}
		all = append(all, l.GetName()+"="+strconv.Quote(value))
	}
	slices.Sort(all)
	return "{" + strings.Join(all, ",") + "}"
}

// waitFor waits until a series of a relay has a value.
func (s *system) waitFor(health, series string, value float64) {
	s.t.Helper()
	last := math.NaN()
	defer func() {
		if s.t.Failed() {
			s.t.Logf("%s was %v at last", series, last)
		}
	}()
	eventually(s.t, 40*time.Second, series+" is "+strconv.FormatFloat(value, 'g', -1, 64), func() bool {
		got, there := s.metrics(health)[series]
		if !there {
			got = math.NaN()
		}
		last = got
		return got == value
	})
}

// ofFleet are the series that one replica shows for all.
var ofFleet = regexp.MustCompile(`^kexrelay_(waiting_updates|oldest_waiting_|partitions\{|replicas|stream_|dead_letters|oldest_dead_letter|partition_)`)

// scenario lets a relay meet what it counts: deliveries, dead letters, retries, a possible duplicate, a lost token.
func (s *system) scenario() {
	s.t.Helper()
	const document = `{"filename":"a.pdf","base64Content":"JVBERi0xLjc="}`
	for _, vorgang := range []string{"1", "2", "3"} {
		s.publish("kex.vorgang."+vorgang+".kommentare", `["a"]`, nil)
		s.publish("kex.vorgang."+vorgang+".dokument", document, nil)
	}
	s.publish("kex.vorgang.410.kommentare", `["a"]`, nil)
	s.publish("kex.vorgang.503.dokument", document, nil)
	s.publish("kex.vorgang.504.kommentare", `["a"]`, nil)
	s.publish("kex.vorgang.5.kommentare", `no JSON`, nil)
	s.publish("kex.vorgang.6.unbekannt", `["a"]`, nil)
	s.drained(30 * time.Second)
	s.api.RevokeTokens()
	s.publish("kex.vorgang.7.kommentare", `["a"]`, nil)
	s.drained(30 * time.Second)
}

func scenarioScript() simulator.Script {
	booked := true
	return simulator.Script{Vorgaenge: []simulator.VorgangRule{
		{Match: []string{"410"}, Always: &simulator.Answer{Status: 410}},
		{Match: []string{"503"}, Sequence: []simulator.Step{{Answer: simulator.Answer{Status: 503}, Times: 2}}},
		{Match: []string{"504"}, Sequence: []simulator.Step{{Answer: simulator.Answer{Status: 504, Book: &booked}}}},
	}}
}

// After a full scenario the replica that sends shows every series there is, with what happened; one on standby shows
// nothing about streams, so that a sum over both is right.
func TestEverySeriesOfAFullScenario(t *testing.T) {
	t.Parallel()
	s := newSystem(t, scenarioScript())
	s.serve("KEXRELAY_RETRY_INITIAL=10ms")
	sender := s.health
	s.waitFor(sender, `kexrelay_leased_partitions{}`, 1)
	s.serve("KEXRELAY_RETRY_INITIAL=10ms")
	standby := s.health
	s.scenario()

	s.waitFor(sender, `kexrelay_dead_letters{reason="gone"}`, 1)
	s.waitFor(sender, `kexrelay_dead_letters{reason="invalid"}`, 2)
	s.waitFor(sender, `kexrelay_replicas{}`, 2)
	s.waitFor(sender, `kexrelay_stream_messages{stream="KEX_DEADLETTERS"}`, 3)
	s.waitFor(sender, `kexrelay_partition_pinned{partition="0"}`, 1)
	got := s.metrics(sender)
	for series, want := range map[string]float64{
		`kexrelay_updates_total{kind="kommentare",outcome="delivered",reason="none"}`:       5,
		`kexrelay_updates_total{kind="dokument",outcome="delivered",reason="none"}`:         4,
		`kexrelay_updates_total{kind="kommentare",outcome="deadlettered",reason="gone"}`:    1,
		`kexrelay_updates_total{kind="invalid",outcome="deadlettered",reason="invalid"}`:    1,
		`kexrelay_updates_total{kind="kommentare",outcome="deadlettered",reason="invalid"}`: 1,
		`kexrelay_attempts_total{class="5xx",kind="dokument"}`:                              2,
		`kexrelay_attempts_total{class="401",kind="kommentare"}`:                            1,
		`kexrelay_unknown_outcomes_total{kind="kommentare"}`:                                1,
		`kexrelay_possible_duplicates_total{kind="kommentare"}`:                             1,
		`kexrelay_update_duration_seconds_count{kind="dokument",outcome="delivered"}`:       4,
		`kexrelay_settle_duration_seconds_count{kind="kommentare"}`:                         7,
		`kexrelay_token_fetches_total{outcome="fetched"}`:                                   2,
		`kexrelay_token_usable{}`:                                                       1,
		`kexrelay_token_failed_timestamp_seconds{}`:                                     0,
		`kexrelay_fetch_events_total{event="delivered"}`:                                12,
		`kexrelay_waiting_updates{}`:                                                    0,
		`kexrelay_ready_updates{}`:                                                      0,
		`kexrelay_partitions{}`:                                                         1,
		`kexrelay_partition_pinned{partition="0"}`:                                      1,
		`kexrelay_stream_messages{stream="KEX_DEADLETTERS"}`:                            3,
		`kexrelay_ready{}`:                                                              1,
		`kexrelay_nats_connected{}`:                                                     1,
		`kexrelay_attempts_total{class="throttled",kind="dokument"}`:                    0,
		`kexrelay_updates_total{kind="dokument",outcome="double_booked",reason="none"}`: 0,
		`kexrelay_oldest_waiting_timestamp_seconds{}`:                                   0,
	} {
		if value, there := got[series]; !there || value != want {
			t.Errorf("%s = %v, there %v, want %v", series, value, there, want)
		}
	}
	now := float64(time.Now().Unix())
	if at := got[`kexrelay_oldest_dead_letter_timestamp_seconds{reason="gone"}`]; at < now-600 || at > now+1 {
		t.Errorf("the oldest dead letter is of %v, now is %v", at, now)
	}
	if at := got[`kexrelay_token_expiry_timestamp_seconds{}`]; at < now {
		t.Errorf("the token expires at %v, now is %v", at, now)
	}
	compareSeries(t, slices.Sorted(maps.Keys(got)))

	other := s.metrics(standby)
	for series := range got {
		if _, there := other[series]; there == ofFleet.MatchString(series) {
			t.Errorf("%s: on standby %v", series, there)
		}
	}
	if n := other[`kexrelay_ready_updates{}`]; n != 0 {
		t.Errorf("%v updates are ready on standby", n)
	}
}

func compareSeries(t *testing.T, got []string) {
	t.Helper()
	text := strings.Join(got, "\n") + "\n"
	if *updateSeries {
		if err := os.WriteFile(seriesFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(seriesFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("series (-want +got); go test ./integration -run EverySeries -update writes the file anew:\n%s", diff)
	}
}

// What scales replicas must not add any while sending is held: more of them would not send more.
func TestNothingIsReadyWhileSendingIsHeld(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{Latency: &simulator.Latency{Fixed: 3 * time.Second}})
	s.command("pause", "--for", "10m")
	s.serve("KEXRELAY_CONCURRENCY=1")
	s.waitFor(s.health, `kexrelay_leased_partitions{}`, 1)
	for range 60 {
		s.publish("kex.vorgang.1.kommentare", `["a"]`, nil)
	}
	s.waitFor(s.health, `kexrelay_waiting_updates{}`, 60)
	held := s.metrics(s.health)
	if n := held[`kexrelay_ready_updates{}`]; n != 0 || held[`kexrelay_hold{reason="operator"}`] != 1 {
		t.Errorf("%v updates are ready while an operator holds sending (hold %v)", n, held[`kexrelay_hold{reason="operator"}`])
	}
	s.command("resume")
	eventually(t, 30*time.Second, "what waits is ready", func() bool { return s.metrics(s.health)[`kexrelay_ready_updates{}`] > 40 })
	s.command("pause", "--kind", "kommentare")
	eventually(t, 30*time.Second, "a paused kind is not ready", func() bool { return s.metrics(s.health)[`kexrelay_ready_updates{}`] <= 1 })
	if n := s.count(topology.StreamUpdates); n < 30 {
		t.Errorf("only %d updates wait", n)
	}
}

// command runs a command of kexrelay that must succeed.
func (s *system) command(args ...string) {
	s.t.Helper()
	if out, errs, code := runProgram(s.t, s.natsEnv(), nil, programs.kexrelay, args...); code != 0 {
		s.t.Fatalf("%v: exit code %d\n%s%s", args, code, out, errs)
	}
}
