package topology

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Settings of the topology that other packages rely on.
const (
	// DuplicateWindow is how long the server drops a repeated Nats-Msg-Id of an update or a result.
	DuplicateWindow = 2 * time.Hour
	// AckWait is when the server delivers an unacknowledged update again; everything held gets its heartbeat well
	// before.
	AckWait = 30 * time.Second
	// MaxAckPending is how many updates a partition can hold. It is large, so that one Vorgang's backlog does not
	// keep others waiting; memory is bounded by the bytes held, not by this.
	MaxAckPending = 50_000
	// PinnedTTL is how long the server keeps feeding a replica that pulls no more. Only pulls renew it, so a pull
	// has to expire well within it.
	PinnedTTL = 10 * time.Second
	// MaxPartitions bounds --partitions: each costs a consumer, and on a WorkQueue stream a filtered one is slow.
	MaxPartitions = 64
)

// Flags of setup, as error texts name them.
const (
	FlagPartitions = "partitions"
	FlagReplicas   = "replicas"
	FlagStorage    = "storage"
	FlagMaxBytes   = "max-bytes"
	FlagResultAge  = "result-age"
)

// Storage says where NATS keeps the streams.
type Storage string

// The storages. Memory is for trying things out: a stopped server has forgotten everything.
const (
	File   Storage = "file"
	Memory Storage = "memory"
)

// Unlimited as a size sets no limit.
const Unlimited int64 = -1

// Sizes and ages of a new topology. JetStream reserves the sizes at once, so they are small enough for a machine
// with 4 GiB of free disk (a server offers three quarters of it): some thousand scans in each.
const (
	defaultUpdatesBytes     = 1 << 30
	defaultDeadLettersBytes = 512 << 20
	defaultDocumentsBytes   = 1 << 30
	defaultResultAge        = 30 * 24 * time.Hour
	auditAge                = 365 * 24 * time.Hour
	clusterReplicas         = 3 // One server may fail.
	maxReplicas             = 5
)

// Options is what an operator can choose. A zero field keeps what an existing topology has and takes the default
// for a new one, so that a second `setup` without flags never takes replicas or room away.
type Options struct {
	// Partitions is how many consumers share the updates, 1 to MaxPartitions; 1 for a new topology.
	Partitions int
	// Replicas is on how many servers everything is kept, 1 to 5. What is new gets 3 in a cluster, else 1.
	Replicas int
	// Storage is File for a new topology. It cannot be changed later.
	Storage Storage
	// MaxBytes are sizes in bytes (or Unlimited) by the stream's or bucket's name. New topologies get 1 GiB for
	// KEX_UPDATES, 512 MiB for KEX_DEADLETTERS, 1 GiB for KEX_DOCUMENTS and Unlimited for the others.
	MaxBytes map[string]int64
	// ResultAge is how long results are kept, at least DuplicateWindow; 30 days for a new topology.
	ResultAge time.Duration
	// DryRun reports what would be done and changes nothing. Limits of the account or the server show only when
	// something is really created.
	DryRun bool
}

// Validate reports every unusable option at once, each by its flag.
func (o Options) Validate() error {
	var errs []error
	refuse := func(flag, format string, args ...any) {
		errs = append(errs, fmt.Errorf("--%s: %s", flag, fmt.Sprintf(format, args...)))
	}
	if o.Partitions < 0 || o.Partitions > MaxPartitions {
		refuse(FlagPartitions, "%d is not between 1 and %d", o.Partitions, MaxPartitions)
	}
	if o.Replicas < 0 || o.Replicas > maxReplicas {
		refuse(FlagReplicas, "%d is not between 1 and %d", o.Replicas, maxReplicas)
	}
	switch o.Storage {
	case "", File, Memory:
	default:
		refuse(FlagStorage, "%q is neither %s nor %s", o.Storage, File, Memory)
	}
	if o.ResultAge != 0 && o.ResultAge < DuplicateWindow {
		refuse(FlagResultAge, "%s is less than the duplicate window of %s", o.ResultAge, DuplicateWindow)
	}
	for _, name := range slices.Sorted(maps.Keys(o.MaxBytes)) {
		size := o.MaxBytes[name]
		if !slices.Contains(Names(), name) {
			refuse(FlagMaxBytes, "there is no stream or bucket %q, only %s", name, strings.Join(Names(), ", "))
		} else if size != Unlimited && size <= 0 {
			refuse(FlagMaxBytes, "%s: %d is neither a size nor %d for unlimited", name, size, Unlimited)
		}
	}
	return errors.Join(errs...)
}

// Names lists the streams and buckets of the topology, in the order setup creates them.
func Names() []string {
	specs := specs()
	names := make([]string, len(specs))
	for i, s := range specs {
		names[i] = s.name
	}
	return names
}
