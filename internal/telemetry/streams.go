package telemetry

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kexrelay/internal/fault"
)

// Fleet is what one process says for all of them about what lies in NATS: the one that holds partition 0. If each said
// it, a sum over the replicas would count everything as often as there are replicas.
type Fleet struct {
	// Partitions is how many there are, Replicas how many processes take part.
	Partitions, Replicas int
	// Waiting are the updates that are not settled, Oldest is when the oldest of them was stored, zero without any.
	Waiting uint64
	Oldest  time.Time
	Streams []Stream
	// DeadLetters are those of each reason, nil while they are not known.
	DeadLetters []DeadLetters
}

// Stream is how full a stream or bucket is. Its name is one of the topology's.
type Stream struct {
	Name            string
	Messages, Bytes uint64
	// MaxBytes is not positive where there is no limit.
	MaxBytes int64
}

// DeadLetters are those of one reason; Oldest is zero if there are none.
type DeadLetters struct {
	Reason fault.Reason
	Count  uint64
	Oldest time.Time
}

// Partition is what the process that has its lease says about a partition.
type Partition struct {
	Number  int
	Waiting uint64
	Pinned  bool
}

// FetchEvent is what happened while updates were fetched. It is a closed set.
type FetchEvent string

// The events of fetching.
const (
	FetchDelivered   FetchEvent = "delivered"   // An update was taken out of the stream.
	FetchRedelivered FetchEvent = "redelivered" // One that was held already came again.
	FetchReacked     FetchEvent = "reacked"     // One that was acked already came again.
	FetchPinLost     FetchEvent = "pin_lost"    // Another client was pinned.
	FetchCatchUp     FetchEvent = "catch_up"    // Updates were read from the stream: delivered elsewhere before, or lost on their way.
	FetchDropped     FetchEvent = "dropped"     // A body was not kept in memory, to make room.
	FetchReread      FetchEvent = "reread"      // Such a body was read again.
)

// FetchEvents lists every event of fetching.
func FetchEvents() []FetchEvent {
	return []FetchEvent{
		FetchDelivered, FetchRedelivered, FetchReacked, FetchPinLost, FetchCatchUp, FetchDropped, FetchReread,
	}
}

// Sources are what is asked at each scrape for series that come and go, or that are counted elsewhere. All are
// required, must be quick, and safe for any goroutine.
type Sources struct {
	// Fleet is false while another process speaks for all, or nothing is known: then there are no such series here.
	Fleet func() (Fleet, bool)
	// Partitions are those this process has the right to send for.
	Partitions func() []Partition
	// Fetched counts since the start.
	Fetched func() map[FetchEvent]uint64
}

// RegisterSources shows what the sources say. It is called once.
func (m *Metrics) RegisterSources(s Sources) error { return m.registry.Register(newSourced(s)) }

// sourced collects from Sources.
type sourced struct {
	sources Sources
	all     []*prometheus.Desc

	waiting, oldest, partitions, replicas *prometheus.Desc
	messages, bytes, maxBytes             *prometheus.Desc
	deadLetters, oldestDeadLetter         *prometheus.Desc
	partitionWaiting, partitionPinned     *prometheus.Desc
	fetched                               *prometheus.Desc
}

func newSourced(s Sources) *sourced {
	c := &sourced{sources: s}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		d := prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
		c.all = append(c.all, d)
		return d
	}
	const fromOne = " From the holder of partition 0 alone."
	c.waiting = desc("waiting_updates", "Updates in the stream that are not settled."+fromOne)
	c.oldest = desc("oldest_waiting_timestamp_seconds", "When the oldest of them was stored, 0 if there is none."+fromOne)
	c.partitions = desc("partitions", "Partitions that the updates are spread over."+fromOne)
	c.replicas = desc("replicas", "Relays that take part."+fromOne)
	c.messages = desc("stream_messages", "Messages in a stream or bucket."+fromOne, "stream")
	c.bytes = desc("stream_bytes", "Size of a stream or bucket."+fromOne, "stream")
	c.maxBytes = desc("stream_max_bytes", "Most that a stream or bucket takes; absent without a limit."+fromOne, "stream")
	c.deadLetters = desc("dead_letters", "Dead letters that nobody has dealt with, by reason."+fromOne, "reason")
	c.oldestDeadLetter = desc("oldest_dead_letter_timestamp_seconds",
		"When the oldest of them was stored, 0 if there is none."+fromOne, "reason")
	c.partitionWaiting = desc("partition_waiting_updates",
		"Updates of a partition that are not settled. From the partition's holder alone.", "partition")
	c.partitionPinned = desc("partition_pinned",
		"Whether NATS gives a partition's updates to one relay alone (1) or not (0). From the partition's holder alone.", "partition")
	c.fetched = desc("fetch_events_total", "What happened while updates were fetched.", "event")
	return c
}

// Describe names every series there may be.
func (c *sourced) Describe(to chan<- *prometheus.Desc) {
	for _, d := range c.all {
		to <- d
	}
}

// Collect asks the sources.
func (c *sourced) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	counts := c.sources.Fetched()
	for _, event := range FetchEvents() {
		to <- prometheus.MustNewConstMetric(c.fetched, prometheus.CounterValue, float64(counts[event]), string(event))
	}
	for _, p := range c.sources.Partitions() {
		number := strconv.Itoa(p.Number)
		gauge(c.partitionWaiting, float64(p.Waiting), number)
		gauge(c.partitionPinned, oneIf(p.Pinned), number)
	}
	fleet, known := c.sources.Fleet()
	if !known {
		return
	}
	gauge(c.waiting, float64(fleet.Waiting))
	gauge(c.oldest, seconds(fleet.Oldest))
	gauge(c.partitions, float64(fleet.Partitions))
	gauge(c.replicas, float64(fleet.Replicas))
	for _, s := range fleet.Streams {
		gauge(c.messages, float64(s.Messages), s.Name)
		gauge(c.bytes, float64(s.Bytes), s.Name)
		if s.MaxBytes > 0 {
			gauge(c.maxBytes, float64(s.MaxBytes), s.Name)
		}
	}
	for _, d := range fleet.DeadLetters {
		reason := label(d.Reason, fault.DeadLetterReasons(), other)
		gauge(c.deadLetters, float64(d.Count), reason)
		gauge(c.oldestDeadLetter, seconds(d.Oldest), reason)
	}
}

// seconds is a time as Prometheus has it, 0 for none.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / float64(time.Second)
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
