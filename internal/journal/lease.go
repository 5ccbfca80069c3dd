package journal

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

const leasePrefix = topology.LeasePrefix

// ErrLeaseLost says that the right to send a partition's updates is not ours any more.
var ErrLeaseLost = errors.New("the lease of the partition is lost")

// leaseTiming is how leases pass from one to another. Nothing in it is compared with another machine's clock.
type leaseTiming struct {
	// renew is the time between two renewals, valid how long after the sending of one the lease is held, stale how
	// long a record must stay unchanged under a candidate's eyes. stale must be longer than valid: a candidate sees a
	// renewal after it was sent, so its wait ends when the holder has stopped by itself.
	renew, valid, stale time.Duration
	// poll is the time between two looks of a candidate, call how long one call may take.
	poll, call time.Duration
}

func defaultLeaseTiming() leaseTiming {
	return leaseTiming{
		renew: time.Second, valid: 4 * time.Second, stale: 5 * time.Second,
		poll: 250 * time.Millisecond, call: 900 * time.Millisecond,
	}
}

// leaseStore is KEX_CONTROL: its keys with compare-and-set.
type leaseStore interface {
	get(ctx context.Context, key string, into any) (written, error)
	create(ctx context.Context, key string, value any) (uint64, error)
	update(ctx context.Context, key string, value any, revision uint64) (uint64, error)
}

// leaseRecord is the value of lease.<partition>.
type leaseRecord struct {
	Replica string `json:"replica"`
	// Process is made anew by each process: two of the same name are not the same holder.
	Process string `json:"process"`
	// Epoch grows by at least one with each change of holder and never comes again.
	Epoch uint64 `json:"epoch"`
	// Beat numbers the renewals, so that a holder whose answer was lost knows which of them was stored.
	Beat     uint64 `json:"beat"`
	Released bool   `json:"released,omitempty"`
}

// Leases is the right to send, partition by partition: one process at a time holds it. Use NewLeases; its methods are
// safe for concurrent use.
type Leases struct {
	js      jetstream.JetStream
	store   leaseStore
	ledger  lazy[jetstream.Stream]
	replica string
	process string
	logger  *slog.Logger
	timing  leaseTiming
	clock   func() time.Duration

	mu   sync.Mutex
	held map[int]*Lease // The last lease of each partition, lost ones too.
}

// NewLeases makes a Leases without a call. The replica's name is for people; what tells two processes apart is made
// here.
func NewLeases(js jetstream.JetStream, replica string, logger *slog.Logger) *Leases {
	timing := defaultLeaseTiming()
	return &Leases{
		js: js, store: askedControl{&control{js: js}, timing.poll}, replica: replica, process: randomID(), logger: logger,
		timing: timing, clock: bootClock(), held: map[int]*Lease{},
	}
}

// askedControl puts a question again while the one before has no answer. When the bucket's leader has died, its successor
// answers only what it is asked itself: a candidate that waited for one answer at a time stood still for up to a second
// longer than the election took.
type askedControl struct {
	*control

	every time.Duration
}

func (c askedControl) get(ctx context.Context, key string, into any) (written, error) {
	type answer struct {
		written

		value json.RawMessage // Not into: a late answer must not write to what is being read.
	}
	a, err := topology.AskEach(ctx, c.every, func(ctx context.Context) (a answer, err error) {
		a.written, err = c.control.get(ctx, key, &a.value)
		return a, err
	})
	if err == nil {
		err = json.Unmarshal(a.value, into)
	} else if ctx.Err() != nil {
		err = Explain("reading "+key+" in "+topology.BucketControl, c.js, err)
	}
	return a.written, err
}

// OnAnswer makes f hear what became of each call to the bucket of leases. Call it before anything else.
func (l *Leases) OnAnswer(f OnAnswer) { l.store = toldStore{l.store, f} }

// toldStore tells what became of each call. Reading and writing are different things: a leader that has lost its quorum
// still reads.
type toldStore struct {
	leaseStore
	onAnswer OnAnswer
}

func (s toldStore) get(ctx context.Context, key string, into any) (written, error) {
	w, err := s.leaseStore.get(ctx, key, into)
	s.onAnswer.tell("reading "+topology.BucketControl, err)
	return w, err
}

func (s toldStore) create(ctx context.Context, key string, value any) (uint64, error) {
	revision, err := s.leaseStore.create(ctx, key, value)
	s.onAnswer.tell("writing to "+topology.BucketControl, err)
	return revision, err
}

func (s toldStore) update(ctx context.Context, key string, value any, revision uint64) (uint64, error) {
	revision, err := s.leaseStore.update(ctx, key, value, revision)
	s.onAnswer.tell("writing to "+topology.BucketControl, err)
	return revision, err
}

// randomID is 16 hexadecimal digits that nobody else has.
func randomID() string {
	var id [8]byte
	_, _ = rand.Read(id[:]) // Never fails, as documented.
	return hex.EncodeToString(id[:])
}

// Process is what this process's leases name it by.
func (l *Leases) Process() string { return l.process }

func monotonicClock() func() time.Duration {
	begin := time.Now()
	return func() time.Duration { return time.Since(begin) }
}

func leaseKey(partition int) string { return leasePrefix + strconv.Itoa(partition) }

// Campaign waits until the lease of a partition is free and takes it: when nobody had it, when its holder released it,
// when its holder is this process and lost it, or when its record stayed unchanged for 5 s under our own eyes. The
// lease is renewed from then on, whatever becomes of ctx, until Release or until it is lost.
//
// Trouble with NATS is logged and waited out. The error is ctx's cause, or a connection that is closed for good.
func (l *Leases) Campaign(ctx context.Context, partition int) (*Lease, error) {
	var seen sighting
	told := ""
	for {
		lease, err := l.try(ctx, partition, &seen)
		if lease != nil {
			l.logger.Info("lease taken", slog.Int("partition", partition), slog.Uint64("epoch", lease.epoch))
			return lease, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("waiting for the lease of partition %d: %w", partition, context.Cause(ctx))
		}
		if closedForGood(err) {
			return nil, fmt.Errorf("waiting for the lease of partition %d: %w", partition, err)
		}
		if err != nil && err.Error() != told {
			told = err.Error()
			l.logger.Warn("lease cannot be looked at; it is tried again", slog.Int("partition", partition), slog.Any("error", err))
		}
		pause(ctx, l.timing.poll)
	}
}

// pause waits, but not longer than ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// sighting is since when a candidate has seen a record unchanged.
type sighting struct {
	revision uint64
	since    time.Duration
	// at is when the server stored the record, zero where nobody needs it.
	at time.Time
}

// olderThan reports whether a record was seen out of order, as by a replica that lags. A revision alone does not tell: in
// a bucket that was made anew they begin again.
func (s sighting) olderThan(other sighting) bool {
	return s.revision < other.revision && s.at.Before(other.at)
}

// try looks once, and takes the lease if it is free. Neither lease nor error means that it is not, or that somebody
// was faster.
func (l *Leases) try(ctx context.Context, partition int, seen *sighting) (*Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*l.timing.call)
	defer cancel()
	var there leaseRecord
	looking, done := context.WithTimeout(ctx, l.timing.call)
	w, err := l.store.get(looking, leaseKey(partition), &there)
	done()
	readable := err == nil
	switch {
	case errors.Is(err, errNoKey):
	case err != nil && w.revision == 0:
		return nil, err
	case readable && there.Released:
	case readable && there.Process == l.process:
		if !l.ended(partition) {
			return nil, nil //nolint:nilnil // As documented.
		}
	case w.revision != seen.revision:
		// Measured after the answer, and so after the sending of the renewal it shows.
		*seen = sighting{revision: w.revision, since: l.clock()}
		return nil, nil //nolint:nilnil // As documented.
	case l.clock()-seen.since < l.timing.stale:
		return nil, nil //nolint:nilnil // As documented.
	}
	recorded, err := l.recordedEpoch(ctx, partition)
	if err != nil {
		return nil, err
	}
	mine := leaseRecord{Replica: l.replica, Process: l.process, Epoch: max(there.Epoch, recorded) + 1, Beat: 1}
	sent := l.clock()
	revision, err := l.write(ctx, partition, mine, w.revision)
	if errors.Is(err, errChanged) {
		return nil, nil //nolint:nilnil // As documented.
	}
	if err != nil {
		return nil, err // If it was stored nevertheless, the next look finds our own record.
	}
	return l.begin(ctx, partition, mine, revision, sent), nil
}

func (l *Leases) write(ctx context.Context, partition int, record leaseRecord, revision uint64) (uint64, error) {
	if revision == 0 {
		return l.store.create(ctx, leaseKey(partition), record)
	}
	return l.store.update(ctx, leaseKey(partition), record, revision)
}

// ended reports whether this process's last lease of a partition is over.
func (l *Leases) ended(partition int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := l.held[partition]
	return last == nil || !last.Held()
}

// recordedEpoch is the highest epoch that has records in the ledger. A lease's record that was deleted, or restored
// from a backup, must not make an epoch come again: the ledger's order depends on it.
func (l *Leases) recordedEpoch(ctx context.Context, partition int) (uint64, error) {
	stream, err := l.ledger.open(func() (jetstream.Stream, error) {
		return topology.Ask(ctx, func(ctx context.Context) (jetstream.Stream, error) { return l.js.Stream(ctx, ledgerStream) })
	})
	if err != nil {
		return 0, Explain("opening the ledger", l.js, err)
	}
	filter := ledgerSubject(partition, ">")
	info, err := topology.Ask(ctx, func(ctx context.Context) (*jetstream.StreamInfo, error) {
		return stream.Info(ctx, jetstream.WithSubjectFilter(filter))
	})
	if err != nil {
		return 0, Explain("reading the epochs in the ledger", l.js, err)
	}
	var highest uint64
	for subject := range info.State.Subjects {
		if writer, ok := parseLedgerSubject(subject); ok {
			highest = max(highest, writer.epoch)
		}
	}
	return highest, nil
}

// Holder is who holds a partition, as the record says.
type Holder struct {
	Partition int
	// Replica is the holder's name, Process its identity: see [Replica].
	Replica, Process string
	// Epoch counts the changes of holder.
	Epoch uint64
	// Released says that the last holder gave it back and nobody has taken it since.
	Released bool
	// WrittenAt is when NATS stored the last renewal, by its own clock: since when nothing more was heard, nobody can
	// tell from it alone.
	WrittenAt time.Time
}

// Holders lists who holds what, by partition; partitions nobody ever held are not in it.
func (l *Leases) Holders(ctx context.Context) ([]Holder, error) {
	var holders []Holder
	prefix := controlSubject(leasePrefix)
	scan := Scan{Stream: controlStream, Filters: []string{prefix + "*"}}
	for msg, err := range scan.Messages(ctx, l.js) {
		if err != nil {
			return nil, err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return nil, err
		}
		partition, err := strconv.Atoi(strings.TrimPrefix(msg.Subject(), prefix))
		var record leaseRecord
		if err != nil || json.Unmarshal(msg.Data(), &record) != nil {
			continue // Deleted, or written by somebody else: nobody holds it that way.
		}
		holders = append(holders, Holder{
			Partition: partition, Replica: record.Replica, Process: record.Process, Epoch: record.Epoch, Released: record.Released, WrittenAt: meta.Timestamp,
		})
	}
	slices.SortFunc(holders, func(a, b Holder) int { return cmp.Compare(a.Partition, b.Partition) })
	return holders, nil
}
