package telemetry

import (
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// namespace begins every metric of the relay's own.
const namespace = "kexrelay"

// Bounds of the native histograms: about 10 % resolution, and memory for no more buckets than that.
const (
	nativeBucketFactor = 1.1
	nativeMaxBuckets   = 160
	nativeMinReset     = time.Hour
)

// maxScrapes bounds the scrapes that are answered at once.
const maxScrapes = 4

// BuildInfo is what build_info says.
type BuildInfo struct {
	Version   string
	Revision  string
	GoVersion string
}

// Metrics counts what the relay does, on a registry of its own. Its methods may be called from any goroutine. A
// value outside a label's set is counted under invalid (kinds) or other: the number of series is fixed.
type Metrics struct {
	registry *prometheus.Registry

	updates         *prometheus.CounterVec
	attempts        *prometheus.CounterVec
	attemptDuration *prometheus.HistogramVec
	unknownOutcomes *prometheus.CounterVec
	duplicates      *prometheus.CounterVec
	updateDuration  *prometheus.HistogramVec
	settleDuration  *prometheus.HistogramVec
	hold            *prometheus.GaugeVec
	holdSince       *prometheus.GaugeVec
	kindPaused      *prometheus.GaugeVec
	tokenFetches    *prometheus.CounterVec
	tokenDuration   prometheus.Histogram
	publishRetries  *prometheus.CounterVec
	natsErrors      *prometheus.CounterVec
	credentials     *prometheus.GaugeVec

	usual usualSeries
}

// usualSeries are the series that every update counts in, by the values of their labels: to look for them each time costs
// more than the counting.
type usualSeries struct {
	attempts        map[attemptLabels]prometheus.Counter
	attemptDuration map[update.Kind]prometheus.Observer
	updates         map[updateLabels]prometheus.Counter
	updateDuration  map[updateLabels]prometheus.Observer // Without a reason.
	settleDuration  map[update.Kind]prometheus.Observer
}

type attemptLabels struct {
	kind  update.Kind
	class Class
}

type updateLabels struct {
	kind    update.Kind
	outcome update.Outcome
	reason  fault.Reason
}

// NewMetrics makes all metrics with every series at 0, so that a rate over the first event is right.
func NewMetrics(build BuildInfo) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		updates: counter("updates_total", "Updates by how they ended, and notices about them afterwards.",
			"kind", "outcome", "reason"),
		attempts: counter("attempts_total", "Requests to the API by the class of their answer.", "kind", "class"),
		attemptDuration: prometheus.NewHistogramVec(
			histogram("attempt_duration_seconds", "How long requests to the API took."), []string{"kind"}),
		updateDuration: prometheus.NewHistogramVec(
			longHistogram("update_duration_seconds", "How long updates took from being stored until their result was."),
			[]string{"kind", "outcome"}),
		settleDuration: prometheus.NewHistogramVec(
			histogram("settle_duration_seconds", "How long it took to write down how an update ended."), []string{"kind"}),
		duplicates: counter("possible_duplicates_total",
			"Settled updates that may have been booked more than once, as their results say.", "kind"),
		unknownOutcomes: counter("unknown_outcomes_total",
			"Requests to the API of which nobody can say whether they were booked.", "kind"),
		hold: gauge("hold", "Whether sending is held for the reason (1) or not (0).", "reason"),
		holdSince: gauge("hold_since_timestamp_seconds",
			"Since when sending is held for the reason, 0 while it is not.", "reason"),
		kindPaused:    gauge("kind_paused", "Whether an operator paused this kind of updates alone (1) or not (0).", "kind"),
		tokenFetches:  counter("token_fetches_total", "Fetches of an access token by outcome.", "outcome"),
		tokenDuration: prometheus.NewHistogram(histogram("token_fetch_duration_seconds", "How long fetching an access token took.")),
		publishRetries: counter("publish_retries_total",
			"Publishes to NATS that had to be tried again, by what was to be written.", "record"),
		natsErrors: counter("nats_errors_total", "Errors the NATS client reported beside any call.", "error"),
	}
	m.credentials = gauge("credential_expiry_timestamp_seconds",
		"When a certificate or credentials expire, 0 for what is not used or never does.", "credential")
	info := gauge("build_info", "The build that runs; always 1.", "version", "revision", "goversion")
	info.WithLabelValues(build.Version, build.Revision, build.GoVersion).Set(1)
	m.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), info,
		m.updates, m.attempts, m.attemptDuration, m.unknownOutcomes, m.duplicates, m.updateDuration, m.settleDuration, m.hold, m.holdSince, m.kindPaused,
		m.tokenFetches, m.tokenDuration, m.publishRetries, m.natsErrors, m.credentials,
	)
	m.begin()
	return m
}

// begin makes every series that may come.
func (m *Metrics) begin() {
	m.usual = usualSeries{
		attempts:        make(map[attemptLabels]prometheus.Counter),
		attemptDuration: make(map[update.Kind]prometheus.Observer),
		updates:         make(map[updateLabels]prometheus.Counter),
		updateDuration:  make(map[updateLabels]prometheus.Observer),
		settleDuration:  make(map[update.Kind]prometheus.Observer),
	}
	for _, kind := range kinds() {
		for _, outcome := range []update.Outcome{update.Delivered, update.Discarded, update.Erased, update.DoubleBooked} {
			m.usual.updates[updateLabels{kind: kind, outcome: outcome}] = m.updates.WithLabelValues(string(kind), string(outcome), noReason)
		}
		for _, reason := range fault.DeadLetterReasons() {
			m.updates.WithLabelValues(string(kind), string(update.DeadLettered), string(reason))
		}
		for _, outcome := range []update.Outcome{update.DeadLettered, update.Delivered} {
			m.usual.updateDuration[updateLabels{kind: kind, outcome: outcome}] = m.updateDuration.WithLabelValues(string(kind), string(outcome))
		}
		m.usual.settleDuration[kind] = m.settleDuration.WithLabelValues(string(kind))
		m.duplicates.WithLabelValues(string(kind))
	}
	for _, kind := range update.Kinds() { // An invalid one is never sent.
		for _, class := range Classes() {
			m.usual.attempts[attemptLabels{kind, class}] = m.attempts.WithLabelValues(string(kind), string(class))
		}
		m.usual.attemptDuration[kind] = m.attemptDuration.WithLabelValues(string(kind))
		m.unknownOutcomes.WithLabelValues(string(kind))
		m.kindPaused.WithLabelValues(string(kind))
	}
	for _, reason := range fault.HoldReasons() {
		m.hold.WithLabelValues(string(reason))
		m.holdSince.WithLabelValues(string(reason))
	}
	for _, outcome := range TokenOutcomes() {
		m.tokenFetches.WithLabelValues(string(outcome))
	}
	for _, record := range Records() {
		m.publishRetries.WithLabelValues(string(record))
	}
	for _, e := range NATSErrors() {
		m.natsErrors.WithLabelValues(string(e))
	}
	for _, c := range Credentials() {
		m.credentials.WithLabelValues(string(c))
	}
}

// Attempt counts one request to the API and how long it took. ClassOf gives the class of its error.
func (m *Metrics) Attempt(kind update.Kind, class Class, took time.Duration) {
	attempts, duration := m.usual.attempts[attemptLabels{kind, class}], m.usual.attemptDuration[kind]
	if attempts == nil {
		attempts = m.attempts.WithLabelValues(kindLabel(kind), label(class, Classes(), other))
	}
	if duration == nil {
		duration = m.attemptDuration.WithLabelValues(kindLabel(kind))
	}
	attempts.Inc()
	duration.Observe(took.Seconds())
}

// UnknownOutcome counts one request that may or may not have been booked, beside its Attempt.
func (m *Metrics) UnknownOutcome(kind update.Kind) {
	m.unknownOutcomes.WithLabelValues(kindLabel(kind)).Inc()
}

// Settled counts one settlement, or a notice about an update that was settled before. The reason counts for dead
// letters alone.
func (m *Metrics) Settled(kind update.Kind, outcome update.Outcome, reason fault.Reason) {
	updates := m.usual.updates[updateLabels{kind, outcome, reason}]
	if updates == nil {
		updates = m.updates.WithLabelValues(kindLabel(kind), label(outcome, update.Outcomes(), other), settledReason(outcome, reason))
	}
	updates.Inc()
}

// Took notes how long a settled update took, and how much of that was writing down how it ended.
func (m *Metrics) Took(kind update.Kind, outcome update.Outcome, all, settling time.Duration) {
	updating, settlingTook := m.usual.updateDuration[updateLabels{kind: kind, outcome: outcome}], m.usual.settleDuration[kind]
	if updating == nil {
		updating = m.updateDuration.WithLabelValues(kindLabel(kind), label(outcome, update.Outcomes(), other))
	}
	if settlingTook == nil {
		settlingTook = m.settleDuration.WithLabelValues(kindLabel(kind))
	}
	updating.Observe(max(0, all.Seconds()))
	settlingTook.Observe(max(0, settling.Seconds()))
}

// PossibleDuplicate counts one settled update that may have been booked more than once.
func (m *Metrics) PossibleDuplicate(kind update.Kind) {
	m.duplicates.WithLabelValues(kindLabel(kind)).Inc()
}

// Hold shows whether sending is held for the reason, and since when; since counts only while it is.
func (m *Metrics) Hold(reason fault.Reason, on bool, since time.Time) {
	name := label(reason, fault.HoldReasons(), other)
	if !on {
		since = time.Time{}
	}
	m.hold.WithLabelValues(name).Set(oneIf(on))
	m.holdSince.WithLabelValues(name).Set(seconds(since))
}

// KindPaused shows whether an operator paused a kind of updates alone.
func (m *Metrics) KindPaused(kind update.Kind, paused bool) {
	m.kindPaused.WithLabelValues(kindLabel(kind)).Set(oneIf(paused))
}

// TokenFetch counts one fetch of an access token and how long it took.
func (m *Metrics) TokenFetch(outcome TokenOutcome, took time.Duration) {
	m.tokenFetches.WithLabelValues(label(outcome, TokenOutcomes(), other)).Inc()
	m.tokenDuration.Observe(took.Seconds())
}

// PublishRetry counts one publish to NATS that has to be tried again.
func (m *Metrics) PublishRetry(record Record) {
	m.publishRetries.WithLabelValues(label(record, Records(), other)).Inc()
}

// NATSError counts one error the NATS client reported.
func (m *Metrics) NATSError(e NATSError) {
	m.natsErrors.WithLabelValues(label(e, NATSErrors(), other)).Inc()
}

// CredentialExpiry shows when a certificate or credentials expire; the zero time is never.
func (m *Metrics) CredentialExpiry(c Credential, at time.Time) {
	seconds := 0.0
	if !at.IsZero() {
		seconds = float64(at.Unix())
	}
	m.credentials.WithLabelValues(label(c, Credentials(), other)).Set(seconds)
}

// Handler answers scrapes. What goes wrong in one is logged.
func (m *Metrics) Handler(logger *slog.Logger) http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog:            scrapeLog{logger},
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
	})
}

// scrapeLog takes promhttp's errors.
type scrapeLog struct{ logger *slog.Logger }

// Println logs one error of a scrape.
func (l scrapeLog) Println(v ...any) {
	l.logger.Error("scraping metrics failed", slog.String("error", fmt.Sprint(v...)))
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

func gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

// histogram has classic buckets up to the longest sensible request timeout, and native ones for servers that
// take them.
func histogram(name, help string) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Namespace:                       namespace,
		Name:                            name,
		Help:                            help,
		Buckets:                         []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 30, 60},
		NativeHistogramBucketFactor:     nativeBucketFactor,
		NativeHistogramMaxBucketNumber:  nativeMaxBuckets,
		NativeHistogramMinResetDuration: nativeMinReset,
	}
}

// longHistogram is a histogram of what may take hours: waiting for the end of an outage, say.
func longHistogram(name, help string) prometheus.HistogramOpts {
	h := histogram(name, help)
	h.Buckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600}
	return h
}
