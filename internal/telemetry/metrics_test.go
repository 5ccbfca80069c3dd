package telemetry_test

import (
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"kexrelay/internal/fault"
	"kexrelay/internal/telemetry"
	"kexrelay/internal/update"
)

var build = telemetry.BuildInfo{Version: "1.2.3", Revision: "abc", GoVersion: "go1.26"}

// scrape asks the handler as a Prometheus server does and gives the relay's own series by name and labels.
func scrape(t *testing.T, m *telemetry.Metrics) map[string]float64 {
	t.Helper()
	series := map[string]float64{}
	for name, family := range families(t, m) {
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, l := range metric.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			key := name + "{" + strings.Join(labels, ",") + "}"
			switch {
			case metric.GetCounter() != nil:
				series[key] = metric.GetCounter().GetValue()
			case metric.GetGauge() != nil:
				series[key] = metric.GetGauge().GetValue()
			case metric.GetHistogram() != nil:
				series[key+" count"] = float64(metric.GetHistogram().GetSampleCount())
				series[key+" sum"] = metric.GetHistogram().GetSampleSum()
			default:
				t.Errorf("%s is a %s", name, family.GetType())
			}
		}
	}
	return series
}

func families(t *testing.T, m *telemetry.Metrics) map[string]*dto.MetricFamily {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	if w.Code != http.StatusOK {
		t.Fatalf("scrape answered %d: %s", w.Code, w.Body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	all, err := parser.TextToMetricFamilies(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(all, func(name string, _ *dto.MetricFamily) bool { return !strings.HasPrefix(name, "kexrelay_") })
	return all
}

// changed is the series that differ from before, with the difference.
func changed(before, after map[string]float64) map[string]float64 {
	diff := map[string]float64{}
	for name, v := range after {
		if old, ok := before[name]; !ok || v != old {
			diff[name] = v - old
		}
	}
	return diff
}

func TestEverySeriesIsThereFromTheStart(t *testing.T) {
	m := telemetry.NewMetrics(build)
	got := map[string]int{}
	for name, v := range scrape(t, m) {
		family, _, _ := strings.Cut(name, "{")
		got[family]++
		if v != 0 && family != "kexrelay_build_info" {
			t.Errorf("%s begins at %v, want 0", name, v)
		}
	}
	kinds, deadLetters, holds := 3, len(fault.DeadLetterReasons()), len(fault.HoldReasons())
	want := map[string]int{
		"kexrelay_build_info":                   1,
		"kexrelay_updates_total":                kinds * (4 + deadLetters), // What a relay can tell: delivered, discarded, erased, double_booked.
		"kexrelay_attempts_total":               2 * len(telemetry.Classes()),
		"kexrelay_attempt_duration_seconds":     2 * 2, // Count and sum.
		"kexrelay_unknown_outcomes_total":       2,
		"kexrelay_possible_duplicates_total":    kinds,
		"kexrelay_update_duration_seconds":      kinds * 2 * 2,
		"kexrelay_settle_duration_seconds":      kinds * 2,
		"kexrelay_hold":                         holds,
		"kexrelay_hold_since_timestamp_seconds": holds,
		"kexrelay_kind_paused":                  2,
		"kexrelay_token_fetches_total":          len(telemetry.TokenOutcomes()),
		"kexrelay_token_fetch_duration_seconds": 2,
		"kexrelay_publish_retries_total":        len(telemetry.Records()),
		"kexrelay_nats_errors_total":            len(telemetry.NATSErrors()),

		"kexrelay_credential_expiry_timestamp_seconds": len(telemetry.Credentials()),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
	if v := scrape(t, m)["kexrelay_build_info{goversion=go1.26,revision=abc,version=1.2.3}"]; v != 1 {
		t.Errorf("build_info = %v, want 1", v)
	}
}

func TestWhatHappenedIsCountedWhereItBelongs(t *testing.T) {
	at := time.Unix(1700000000, 5e8)
	for name, tc := range map[string]struct {
		do   func(*telemetry.Metrics)
		want map[string]float64
	}{
		"an attempt": {
			func(m *telemetry.Metrics) { m.Attempt(update.Document, telemetry.ClassDelivered, 250*time.Millisecond) },
			map[string]float64{
				"kexrelay_attempts_total{class=2xx,kind=dokument}":       1,
				"kexrelay_attempt_duration_seconds{kind=dokument} count": 1,
				"kexrelay_attempt_duration_seconds{kind=dokument} sum":   0.25,
			},
		},
		"credentials that expire": {
			func(m *telemetry.Metrics) { m.CredentialExpiry(telemetry.CredentialNATSCert, at) },
			map[string]float64{"kexrelay_credential_expiry_timestamp_seconds{credential=nats_cert}": 1700000000},
		},
		"an unknown outcome": {
			func(m *telemetry.Metrics) { m.UnknownOutcome(update.Comments) },
			map[string]float64{"kexrelay_unknown_outcomes_total{kind=kommentare}": 1},
		},
		"how long a delivery took": {
			func(m *telemetry.Metrics) {
				m.Took(update.Comments, update.Delivered, 3*time.Second, 250*time.Millisecond)
			},
			map[string]float64{
				"kexrelay_update_duration_seconds{kind=kommentare,outcome=delivered} count": 1,
				"kexrelay_update_duration_seconds{kind=kommentare,outcome=delivered} sum":   3,
				"kexrelay_settle_duration_seconds{kind=kommentare} count":                   1,
				"kexrelay_settle_duration_seconds{kind=kommentare} sum":                     0.25,
			},
		},
		"clocks that differ make no negative duration": {
			func(m *telemetry.Metrics) {
				m.Took(update.Comments, update.Delivered, -time.Second, -time.Second)
			},
			map[string]float64{
				"kexrelay_update_duration_seconds{kind=kommentare,outcome=delivered} count": 1,
				"kexrelay_settle_duration_seconds{kind=kommentare} count":                   1,
			},
		},
		"a possible duplicate": {
			func(m *telemetry.Metrics) { m.PossibleDuplicate(update.Document) },
			map[string]float64{"kexrelay_possible_duplicates_total{kind=dokument}": 1},
		},
		"a delivery has no reason": {
			func(m *telemetry.Metrics) { m.Settled(update.Comments, update.Delivered, fault.BadRequest) },
			map[string]float64{"kexrelay_updates_total{kind=kommentare,outcome=delivered,reason=none}": 1},
		},
		"a dead letter": {
			func(m *telemetry.Metrics) { m.Settled(update.Invalid, update.DeadLettered, fault.Invalid) },
			map[string]float64{"kexrelay_updates_total{kind=invalid,outcome=deadlettered,reason=invalid}": 1},
		},
		"a double booking": {
			func(m *telemetry.Metrics) { m.Settled(update.Document, update.DoubleBooked, "") },
			map[string]float64{"kexrelay_updates_total{kind=dokument,outcome=double_booked,reason=none}": 1},
		},
		"a hold": {
			func(m *telemetry.Metrics) { m.Hold(fault.Outage, true, at) },
			map[string]float64{
				"kexrelay_hold{reason=outage}":                         1,
				"kexrelay_hold_since_timestamp_seconds{reason=outage}": 1700000000.5,
			},
		},
		"a hold that is over": {
			func(m *telemetry.Metrics) {
				m.Hold(fault.Storage, true, at)
				m.Hold(fault.Storage, false, at)
			},
			map[string]float64{},
		},
		"a token fetch": {
			func(m *telemetry.Metrics) { m.TokenFetch(telemetry.TokenUnauthorized, 2*time.Second) },
			map[string]float64{
				"kexrelay_token_fetches_total{outcome=unauthorized}": 1,
				"kexrelay_token_fetch_duration_seconds{} count":      1,
				"kexrelay_token_fetch_duration_seconds{} sum":        2,
			},
		},
		"a publish again": {
			func(m *telemetry.Metrics) { m.PublishRetry(telemetry.RecordDeadLetter) },
			map[string]float64{"kexrelay_publish_retries_total{record=deadletter}": 1},
		},
		"a slow consumer": {
			func(m *telemetry.Metrics) { m.NATSError(telemetry.NATSSlowConsumer) },
			map[string]float64{"kexrelay_nats_errors_total{error=slow_consumer}": 1},
		},
		"a lost connection": {
			func(m *telemetry.Metrics) { m.NATSError(telemetry.NATSDisconnected) },
			map[string]float64{"kexrelay_nats_errors_total{error=disconnected}": 1},
		},
		"a server that was left": {
			func(m *telemetry.Metrics) { m.NATSError(telemetry.NATSSilent) },
			map[string]float64{"kexrelay_nats_errors_total{error=silent}": 1},
		},
		"a refused subject": {
			func(m *telemetry.Metrics) { m.NATSError(telemetry.NATSPermission) },
			map[string]float64{"kexrelay_nats_errors_total{error=permission}": 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := telemetry.NewMetrics(build)
			before := scrape(t, m)
			tc.do(m)
			if diff := cmp.Diff(tc.want, changed(before, scrape(t, m))); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
		})
	}
}

// A publisher chooses the kind in its subject: whatever comes, the number of series has a bound, and the text
// does not appear.
func TestForeignLabelsMakeNoSeriesOfTheirOwn(t *testing.T) {
	m := telemetry.NewMetrics(build)
	touch := func(text string) {
		m.Attempt(update.Kind(text), telemetry.Class(text), 0)
		m.UnknownOutcome(update.Kind(text))
		m.Took(update.Kind(text), update.Outcome(text), 0, 0)
		m.PossibleDuplicate(update.Kind(text))
		m.Settled(update.Kind(text), update.Outcome(text), fault.Reason(text))
		m.Settled(update.Kind(text), update.DeadLettered, fault.Reason(text))
		m.Hold(fault.Reason(text), true, time.Now())
		m.TokenFetch(telemetry.TokenOutcome(text), 0)
		m.PublishRetry(telemetry.Record(text))
		m.NATSError(telemetry.NATSError(text))
	}
	touch("c4nary")
	once := scrape(t, m)
	for i := range 100 {
		touch("c4nary" + strconv.Itoa(i))
	}
	touch("")
	touch("\xff\xfe")
	after := scrape(t, m)
	if len(after) != len(once) {
		t.Errorf("%d series, want %d as after the first foreign label", len(after), len(once))
	}
	for name := range after {
		if strings.Contains(name, "c4nary") {
			t.Errorf("%s holds a foreign text", name)
		}
	}
	if got := after["kexrelay_updates_total{kind=invalid,outcome=deadlettered,reason=other}"]; got != 103 {
		t.Errorf("dead letters under invalid and other = %v, want 103", got)
	}
	if got := after["kexrelay_attempts_total{class=other,kind=invalid}"]; got != 103 {
		t.Errorf("attempts under invalid and other = %v, want 103", got)
	}
}

func TestGaugesAreReadAtEachScrape(t *testing.T) {
	m := telemetry.NewMetrics(build)
	value := 1.0
	for g := range telemetry.Gauges() {
		if err := m.RegisterGauge(g, func() float64 { return value }); err != nil {
			t.Fatal(err)
		}
	}
	for _, value = range []float64{3, 4, 5} {
		got := scrape(t, m)
		for _, name := range []string{
			"inflight_requests", "held_updates", "held_bytes", "lanes", "nats_connected", "leased_partitions", "stranded_partitions", "ready_updates", "ready",
			"token_usable", "token_expiry_timestamp_seconds", "token_failed_timestamp_seconds",
		} {
			if v, ok := got["kexrelay_"+name+"{}"]; !ok || v != value {
				t.Errorf("%s = %v, %v, want %v", name, v, ok, value)
			}
		}
	}
	if err := m.RegisterGauge("secrets", nil); err == nil {
		t.Error("a gauge nobody knows was registered")
	}
	if _, ok := errors.AsType[prometheus.AlreadyRegisteredError](m.RegisterGauge(telemetry.GaugeLanes, nil)); !ok {
		t.Error("a gauge was registered twice")
	}
}

func TestMetricNamesPassTheLinterAndHaveThePrefix(t *testing.T) {
	m := telemetry.NewMetrics(build)
	for g := range telemetry.Gauges() {
		if err := m.RegisterGauge(g, func() float64 { return 0 }); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.RegisterSources(sources(true)); err != nil {
		t.Fatal(err)
	}
	own := slices.Collect(maps.Keys(families(t, m)))
	problems, err := testutil.GatherAndLint(telemetry.Gatherer(m), own...)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	all, err := telemetry.Gatherer(m).Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, family := range all {
		prefix, _, _ := strings.Cut(family.GetName(), "_")
		seen[prefix] = true
		if !slices.Contains([]string{"kexrelay", "go", "process"}, prefix) {
			t.Errorf("%s has a foreign prefix", family.GetName())
		}
	}
	if !seen["go"] {
		t.Error("the Go runtime's metrics are missing")
	}
}

func TestDurationsHaveClassicAndNativeBuckets(t *testing.T) {
	m := telemetry.NewMetrics(build)
	m.Attempt(update.Document, telemetry.ClassServerError, 700*time.Millisecond)
	all, err := telemetry.Gatherer(m).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range all {
		if family.GetName() != "kexrelay_attempt_duration_seconds" {
			continue
		}
		h := family.GetMetric()[0].GetHistogram()
		if len(h.GetBucket()) != 13 || h.GetBucket()[5].GetCumulativeCount() != 0 || h.GetBucket()[6].GetCumulativeCount() != 1 {
			t.Errorf("classic buckets = %v, want the first count at 1s", h.GetBucket())
		}
		if h.Schema == nil || len(h.GetPositiveSpan()) != 1 {
			t.Errorf("native buckets = %v, want one", h.GetPositiveSpan())
		}
		return
	}
	t.Error("attempt_duration_seconds is missing")
}

func TestAttemptsAreClassedByTheirError(t *testing.T) {
	failed := func(kind fault.Kind, reason fault.Reason, status int) error {
		return &fault.Error{Kind: kind, Reason: reason, Status: status}
	}
	for want, errs := range map[telemetry.Class][]error{
		telemetry.ClassDelivered:    {nil},
		telemetry.ClassRedirected:   {failed(fault.Permanent, fault.Redirected, 302)},
		telemetry.ClassRefused:      {failed(fault.Permanent, fault.BadRequest, 400), failed(fault.Permanent, fault.Gone, 410), failed(fault.Transient, fault.Outage, 408), failed(fault.Permanent, fault.Rejected, 499)},
		telemetry.ClassUnauthorized: {failed(fault.Systemic, fault.Unauthorized, 401), failed(fault.Systemic, fault.Unauthorized, 400)},
		telemetry.ClassThrottled:    {failed(fault.Throttled, fault.Throttling, 429), failed(fault.Throttled, fault.Throttling, 503)},
		telemetry.ClassServerError:  {failed(fault.Transient, fault.Outage, 500), failed(fault.Transient, fault.UnknownOutcome, 504)},
		telemetry.ClassNoAnswer:     {failed(fault.Transient, fault.Outage, 0), errors.New("unclassified"), failed(fault.Transient, fault.UnknownOutcome, 0)},
		telemetry.ClassInterrupted:  {failed(fault.Interrupted, "", 0)},
		telemetry.ClassAborted:      {failed(fault.Permanent, fault.ObjectMissing, 0), failed(fault.Permanent, fault.Invalid, 0)},
		"other":                     {failed(fault.Transient, fault.Outage, 700), failed(fault.Transient, fault.Outage, 101)},
	} {
		for _, err := range errs {
			if got := telemetry.ClassOf(err); got != want {
				t.Errorf("ClassOf(%v) = %s, want %s", err, got, want)
			}
		}
	}
}

// Two calls per attempt and three per settlement are on the way of every update.
func TestCountingAllocatesNothing(t *testing.T) {
	m := telemetry.NewMetrics(build)
	if allocations := testing.AllocsPerRun(1000, func() {
		m.Attempt(update.Comments, telemetry.ClassOf(nil), time.Millisecond)
		m.Settled(update.Comments, update.Delivered, "")
		m.Took(update.Comments, update.Delivered, time.Second, time.Millisecond)
	}); allocations > 0 {
		t.Errorf("%v allocations per update, want none", allocations)
	}
}
