package topology

import (
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// spec is a stream of the topology, or the stream beneath a bucket.
type spec struct {
	what string // "stream", "key-value bucket", "object bucket".
	name string // As operators know it: the stream's or the bucket's.
	// base has every setting that is the same in each installation.
	base jetstream.StreamConfig
	// maxBytes is the size of a new one, Unlimited for none.
	maxBytes int64
	// ageIsOption marks the results, whose age operators choose.
	ageIsOption bool
}

func (s spec) label() string { return s.what + " " + s.name }

// specs lists the topology in the order it is created: what the relay writes to before what it reads from, so
// that nothing arrives before there is a place for its result.
//
// AllowDirect is off everywhere: a direct get is answered by followers too, and one that lags behind would make an
// update look settled, a result look missing or an object look lost. All of these decide about a POST.
// AllowRollup and AllowMsgTTL stay off where updates and their records lie: with them a publisher's header could
// purge the stream or let a message vanish.
func specs() []spec {
	return []spec{
		{what: "stream", name: StreamResults, maxBytes: Unlimited, ageIsOption: true, base: streamConfig(StreamResults,
			"kexrelay: one event per update that was settled", SubjectResults)},
		{what: "stream", name: StreamDeadLetters, maxBytes: defaultDeadLettersBytes, base: streamConfig(StreamDeadLetters,
			"kexrelay: updates that could not be booked", SubjectDeadLetters)},
		{what: "stream", name: StreamAudit, maxBytes: Unlimited, base: auditConfig()},
		{what: "object bucket", name: BucketDocuments, maxBytes: defaultDocumentsBytes, base: objectConfig(BucketDocuments,
			"kexrelay: large documents and bodies of oversized dead letters")},
		{what: "key-value bucket", name: BucketLedger, maxBytes: Unlimited, base: keyValueConfig(BucketLedger,
			"kexrelay: what is being sent, one record per Vorgang")},
		{what: "key-value bucket", name: BucketControl, maxBytes: Unlimited, base: keyValueConfig(BucketControl,
			"kexrelay: leases, holds, replay claims")},
		{what: "stream", name: StreamUpdates, maxBytes: defaultUpdatesBytes, base: updatesConfig()},
	}
}

// streamConfig is a stream that refuses what it has no room for, instead of dropping what nobody has read.
func streamConfig(name, description string, subjects ...string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              name,
		Description:       description,
		Subjects:          subjects,
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardNew,
		MaxConsumers:      -1,
		MaxMsgs:           -1,
		MaxMsgsPerSubject: -1,
		MaxMsgSize:        -1,
		Duplicates:        DuplicateWindow,
	}
}

func updatesConfig() jetstream.StreamConfig {
	cfg := streamConfig(StreamUpdates, "kexrelay: updates waiting to be booked", publishedAll)
	cfg.Retention = jetstream.WorkQueuePolicy
	return cfg
}

// auditConfig lets nobody take an entry out again.
func auditConfig() jetstream.StreamConfig {
	cfg := streamConfig(StreamAudit, "kexrelay: what operators did", SubjectAudit)
	cfg.MaxAge = auditAge
	cfg.DenyDelete, cfg.DenyPurge = true, true
	return cfg
}

// bucketDuplicates is the duplicate window nats.go gives the streams of its buckets.
const bucketDuplicates = 2 * time.Minute

// keyValueConfig is what nats.go creates for a bucket with a history of 1, except AllowDirect.
func keyValueConfig(bucket, description string) jetstream.StreamConfig {
	cfg := streamConfig(keyValueStream(bucket), description, "$KV."+bucket+".>")
	cfg.MaxMsgsPerSubject = 1
	cfg.AllowRollup, cfg.DenyDelete = true, true
	cfg.Duplicates = bucketDuplicates
	return cfg
}

// objectConfig is what nats.go creates for an object bucket, except AllowDirect.
func objectConfig(bucket, description string) jetstream.StreamConfig {
	cfg := streamConfig(objectStream(bucket), description, "$O."+bucket+".C.>", "$O."+bucket+".M.>")
	cfg.AllowRollup = true
	cfg.Duplicates = bucketDuplicates
	return cfg
}

func keyValueStream(bucket string) string { return "KV_" + bucket }
func objectStream(bucket string) string   { return "OBJ_" + bucket }

// wanted is the configuration the stream should have: what the topology needs, what the options say, and where
// both leave it open, what is found (nil: nothing yet).
func (s spec) wanted(opts Options, partitions int, found *jetstream.StreamConfig) jetstream.StreamConfig {
	cfg := s.base
	cfg.Storage = jetstream.FileStorage
	cfg.Replicas = 1
	cfg.MaxBytes = s.maxBytes
	if s.ageIsOption {
		cfg.MaxAge = defaultResultAge
	}
	if found != nil {
		keep(&cfg, found, s.ageIsOption)
	}
	if opts.Storage != "" {
		cfg.Storage = storageType(opts.Storage)
	}
	if opts.Replicas != 0 {
		cfg.Replicas = opts.Replicas
	}
	if size, ok := opts.MaxBytes[s.name]; ok {
		cfg.MaxBytes = size
	}
	if s.ageIsOption && opts.ResultAge != 0 {
		cfg.MaxAge = opts.ResultAge
	}
	if s.name == StreamUpdates {
		cfg.SubjectTransform = transform(partitions)
	}
	return cfg
}

// keep takes over what operators may choose with other tools and what a later server may have set.
func keep(cfg, found *jetstream.StreamConfig, keepAge bool) {
	cfg.Description = found.Description
	cfg.Placement = found.Placement
	cfg.Metadata = found.Metadata
	cfg.Compression = found.Compression
	cfg.RePublish = found.RePublish
	cfg.FirstSeq = found.FirstSeq
	cfg.MirrorDirect = found.MirrorDirect
	cfg.Template = found.Template
	cfg.AllowAtomicPublish = found.AllowAtomicPublish
	cfg.AllowBatchPublish = found.AllowBatchPublish
	cfg.Storage = found.Storage
	cfg.Replicas = found.Replicas
	cfg.MaxBytes = found.MaxBytes
	cfg.Duplicates = max(cfg.Duplicates, found.Duplicates)
	if keepAge {
		cfg.MaxAge = found.MaxAge
	}
}

func storageType(s Storage) jetstream.StorageType {
	if s == Memory {
		return jetstream.MemoryStorage
	}
	return jetstream.FileStorage
}

// transform spreads the Vorgänge over the partitions by the hash of their number. It keeps both tokens in the
// stored subject, because the original one is not kept elsewhere.
func transform(partitions int) *jetstream.SubjectTransformConfig {
	return &jetstream.SubjectTransformConfig{
		Source:      publishedTransformSrc,
		Destination: fmt.Sprintf("%s{{partition(%d,1)}}.{{wildcard(1)}}.{{wildcard(2)}}", storedPrefix, partitions),
	}
}

var partitionsOfTransform = regexp.MustCompile(`\{\{partition\((\d{1,4}),1\)\}\}`)

// partitionsIn reads the number of partitions back from a stream, 0 if its transform is not one of transform's.
func partitionsIn(cfg jetstream.StreamConfig) int {
	if cfg.SubjectTransform == nil {
		return 0
	}
	match := partitionsOfTransform.FindStringSubmatch(cfg.SubjectTransform.Destination)
	if match == nil {
		return 0
	}
	n, err := strconv.Atoi(match[1])
	if err != nil || *transform(n) != *cfg.SubjectTransform {
		return 0
	}
	return n
}

// wantedConsumer is the configuration of a partition's consumer; found (nil: nothing yet) gives what operators may
// choose. An ongoing pause is left out: servers keep it, and naming it could renew one that has just been ended.
func wantedConsumer(partition, partitions int, found *jetstream.ConsumerConfig) jetstream.ConsumerConfig {
	cfg := jetstream.ConsumerConfig{
		Name:           Consumer(partition),
		Durable:        Consumer(partition),
		Description:    "kexrelay: the updates of partition " + strconv.Itoa(partition),
		DeliverPolicy:  jetstream.DeliverAllPolicy,
		AckPolicy:      jetstream.AckExplicitPolicy,
		AckWait:        AckWait,
		MaxDeliver:     -1,
		ReplayPolicy:   jetstream.ReplayInstantPolicy,
		MaxAckPending:  MaxAckPending,
		PriorityPolicy: jetstream.PriorityPolicyPinned,
		PriorityGroups: []string{PriorityGroup},
		PinnedTTL:      PinnedTTL,
		FilterSubjects: filters(partition, partitions),
	}
	if found != nil {
		cfg.Description = found.Description
		cfg.Metadata = found.Metadata
		cfg.SampleFrequency = found.SampleFrequency
		cfg.MaxWaiting = found.MaxWaiting
		cfg.DeliverGroup = found.DeliverGroup
	}
	return cfg
}

// filters says which stored subjects a partition's consumer gets. While there is only one it needs no filter, and
// has none because on a WorkQueue stream a filter costs three quarters of the delivery rate. Partition 0 also gets
// what the transform did not match: somebody has to dead-letter it.
func filters(partition, partitions int) []string {
	if partitions == 1 {
		return nil
	}
	own := storedPrefix + strconv.Itoa(partition) + ".>"
	if partition == 0 {
		return []string{own, publishedAll}
	}
	return []string{own}
}
