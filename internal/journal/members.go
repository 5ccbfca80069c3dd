package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	replicaPrefix = "replica."
	// slotRests is how long a slot must have been without a word from its replica before a new one takes it. It is
	// measured by the server's clock alone. Whoever loses its slot wrongly takes another one with its next beat.
	slotRests = time.Minute
)

// Replica is a running relay, as it describes itself.
type Replica struct {
	// Process is made anew by each process; leases name it.
	Process string `json:"process"`
	// Name is the installation's, the same for all replicas; Host and PID are what tells them apart for people.
	Name      string    `json:"name"`
	Host      string    `json:"host"`
	PID       int       `json:"pid"`
	Version   string    `json:"version"`
	StartedAt time.Time `json:"startedAt"`
}

// replicaRecord is the value of replica.<slot>. Slots are used again, so that however many processes come and go, only
// as many keys are there as there ever were processes at a time (or within a minute, if they die without a word).
type replicaRecord struct {
	Replica
	// Beat grows each second.
	Beat uint64 `json:"beat"`
	// Gone says that the process was stopped and takes part no more.
	Gone bool `json:"gone,omitempty"`
}

func replicaKey(slot int) string { return replicaPrefix + strconv.Itoa(slot) }

// registration keeps this process's own record; one goroutine uses it.
type registration struct {
	leases *Leases
	record replicaRecord
	slot   int
	// revision is the record's, 0 while there is none.
	revision uint64
	// trouble is why no beat got through lately, for whoever asks.
	trouble atomic.Pointer[Trouble]
}

// keep beats until ctx ends.
func (r *registration) keep(ctx context.Context) {
	told := ""
	for ctx.Err() == nil {
		wait := r.leases.timing.renew
		err := r.beat(ctx)
		if ctx.Err() == nil {
			r.noted(err)
		}
		if err != nil && ctx.Err() == nil {
			wait = r.leases.timing.poll
			if err.Error() != told {
				told = err.Error()
				r.leases.logger.Warn("this replica cannot be registered; until it is it takes no partition", slog.Any("error", err))
			}
		} else {
			told = ""
		}
		pause(ctx, wait)
	}
}

// beat says that this process lives.
func (r *registration) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.leases.timing.call)
	defer cancel()
	if r.revision == 0 {
		return r.register(ctx)
	}
	r.record.Beat++
	err := r.write(ctx, r.slot, r.revision)
	if errors.Is(err, errChanged) {
		r.revision = 0 // By an answer that was lost, or by somebody who took the slot: register finds out.
		return r.register(ctx)
	}
	return err
}

// write writes the record into a slot that is still at revision, 0 for one that is not there.
func (r *registration) write(ctx context.Context, slot int, revision uint64) (err error) {
	if revision == 0 {
		revision, err = r.leases.store.create(ctx, replicaKey(slot), r.record)
	} else {
		revision, err = r.leases.store.update(ctx, replicaKey(slot), r.record, revision)
	}
	if err == nil {
		r.slot, r.revision = slot, revision
	}
	return err
}

// register takes the first slot that nobody uses.
func (r *registration) register(ctx context.Context) error {
	var now time.Time
	for slot := 0; ; slot++ {
		var there replicaRecord
		w, err := r.leases.store.get(ctx, replicaKey(slot), &there)
		free := errors.Is(err, errNoKey)
		switch {
		case free:
		case err != nil && w.revision == 0:
			return err
		case err != nil, there.Gone, there.Process == r.record.Process: // Unreadable, left, or our own.
			free = true
		default:
			if now.IsZero() {
				if now, err = r.leases.serverTime(ctx); err != nil {
					return err
				}
			}
			free = now.Sub(w.at) > slotRests
		}
		if !free {
			continue
		}
		err = r.write(ctx, slot, w.revision)
		if !errors.Is(err, errChanged) { // Else somebody was faster: the next one.
			return err
		}
	}
}

// leave says that this process takes part no more. It is tried once: others find out by themselves too.
func (r *registration) leave(ctx context.Context) error {
	if r.revision == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.leases.timing.call)
	defer cancel()
	r.record.Gone = true
	r.record.Beat++
	return r.write(ctx, r.slot, r.revision)
}

// serverTime is the clock of the server that leads the bucket.
func (l *Leases) serverTime(ctx context.Context) (time.Time, error) {
	stream, err := l.js.Stream(ctx, controlStream)
	if err != nil {
		return time.Time{}, Explain("asking for the bucket of leases", l.js, err)
	}
	return stream.CachedInfo().TimeStamp, nil
}

// RegisteredReplica is a replica as its record says.
type RegisteredReplica struct {
	Replica
	// SilentFor is how long ago the record was written, by the server's clock. A replica that lives writes it each
	// second; the others take it for dead after 5 s.
	SilentFor time.Duration
}

// Replicas lists the replicas that have not said goodbye, those that died within the last minute among them, by slot.
func (l *Leases) Replicas(ctx context.Context) ([]RegisteredReplica, error) {
	var replicas []RegisteredReplica
	var written []time.Time
	scan := Scan{Stream: controlStream, Filters: []string{controlSubject(replicaPrefix) + "*"}}
	for msg, err := range scan.Messages(ctx, l.js) {
		if err != nil {
			return nil, err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return nil, err
		}
		var record replicaRecord
		if json.Unmarshal(msg.Data(), &record) != nil || record.Gone || record.Process == "" {
			continue
		}
		replicas, written = append(replicas, RegisteredReplica{Replica: record.Replica}), append(written, meta.Timestamp)
	}
	if len(replicas) == 0 {
		return nil, nil
	}
	now, err := l.serverTime(ctx)
	if err != nil {
		return nil, err
	}
	kept := replicas[:0]
	for i, replica := range replicas {
		if replica.SilentFor = max(0, now.Sub(written[i])); replica.SilentFor <= slotRests {
			kept = append(kept, replica)
		}
	}
	return kept, nil
}

// Members is the replicas that live and the partitions they hold, as this process sees them, and this process among
// them. Use NewMembers; its methods are safe for concurrent use.
//
// Everybody reads the same records in the same order, so that everybody decides alike: see [Members.Look].
type Members struct {
	leases *Leases
	self   registration
	view   view
	// beating ends the beats, beaten is closed when there are none any more.
	beating context.Context //nolint:containedctx // Of the beats, which Leave ends before Run ends.
	stop    context.CancelFunc
	beaten  chan struct{}
	changed chan struct{}
	// heard is when the reader of the records gave the last one.
	heard atomic.Int64
	// takesPart says that this process wants to be one of them.
	takesPart atomic.Bool
	left      atomic.Bool
}

// NewMembers makes a Members without a call. Of self, Process and Name are set here.
func NewMembers(leases *Leases, self Replica) *Members {
	self.Process, self.Name, self.StartedAt = leases.process, leases.replica, utc(self.StartedAt)
	m := &Members{
		leases: leases, self: registration{leases: leases, record: replicaRecord{Replica: self}},
		view:   newView(leases.process, leases.timing),
		beaten: make(chan struct{}), changed: make(chan struct{}, 1),
	}
	m.beating, m.stop = context.WithCancel(context.Background())
	return m
}

// Watch follows the others until ctx ends. Call it once, as soon as there is a connection, however long it takes until
// this process can take part: a lease must have been seen unchanged for 5 s before it is taken, and what is seen before
// Run counts.
func (m *Members) Watch(ctx context.Context) {
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() { m.askWhileDeaf(ctx) })
	m.follow(ctx)
}

// Run registers this process until ctx ends. Call it once, beside Watch. It does not say goodbye: see Leave.
func (m *Members) Run(ctx context.Context) {
	m.takesPart.Store(true)
	go func() {
		defer close(m.beaten)
		m.self.keep(m.beating)
	}()
	defer m.stop()
	<-ctx.Done()
}

// Leave says that this process takes no partition any more, so that the others count without it. Call it, once, at a
// stop and before the leases are released. The error says that the others will find out only after 5 s.
func (m *Members) Leave(ctx context.Context) error {
	m.left.Store(true)
	m.stop()
	<-m.beaten
	if err := m.self.leave(ctx); err != nil {
		return fmt.Errorf("leaving the other replicas: %w", err)
	}
	return nil
}

// Changed gets a value when somebody's record has changed since the last one was taken. Time alone changes things too:
// look a few times a second in any case.
func (m *Members) Changed() <-chan struct{} { return m.changed }

// follow reads the records as they are written. After a reconnect it begins anew at once: that the server has forgotten
// who reads, a reader by itself finds out only seconds later.
func (m *Members) follow(ctx context.Context) {
	connected := m.leases.js.Conn().StatusChanged(nats.CONNECTED)
	defer m.leases.js.Conn().RemoveStatusListener(connected)
	told := ""
	for ctx.Err() == nil {
		reading, cancel := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			select {
			case <-connected:
				cancel()
			case <-reading.Done():
			}
		}()
		err := m.read(reading)
		again := reading.Err() != nil
		cancel()
		<-ended
		switch {
		case again:
			continue
		case err != nil && err.Error() != told && m.takesPart.Load():
			told = err.Error()
			m.leases.logger.Warn("the other replicas cannot be seen; until they can no partition is taken or handed over",
				slog.Any("error", err))
		}
		pause(ctx, m.leases.timing.poll)
	}
}

// read takes in all records there are, then those that come, until ctx ends.
func (m *Members) read(ctx context.Context) error {
	leases, replicas := controlSubject(leasePrefix), controlSubject(replicaPrefix)
	scan := Scan{Stream: controlStream, Filters: []string{leases + "*", replicas + "*"}, Follow: true}
	for msg, err := range scan.Messages(ctx, m.leases.js) {
		if err != nil {
			return err
		}
		m.saw(msg, leases, replicas)
	}
	return nil
}

// saw takes one record in. One that was removed or cannot be read is an empty one.
func (m *Members) saw(msg jetstream.Msg, leases, replicas string) {
	meta, err := msg.Metadata()
	if err != nil {
		return
	}
	seen := sighting{revision: meta.Sequence.Stream, since: m.leases.clock(), at: meta.Timestamp}
	m.heard.Store(int64(seen.since))
	removed := msg.Headers().Get("KV-Operation") != ""
	if n, ok := numberAfter(msg.Subject(), leases); ok {
		var record leaseRecord
		readable := json.Unmarshal(msg.Data(), &record) == nil
		m.view.sawLease(n, seen, record, removed || readable && record.Released)
	}
	if n, ok := numberAfter(msg.Subject(), replicas); ok {
		var record replicaRecord
		if removed || json.Unmarshal(msg.Data(), &record) != nil {
			record = replicaRecord{Gone: true}
		}
		m.view.sawReplica(n, seen, record)
	}
	m.tellChanged()
}

func (m *Members) tellChanged() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// numberAfter is the number behind a prefix.
func numberAfter(subject, prefix string) (int, bool) {
	if len(subject) <= len(prefix) || subject[:len(prefix)] != prefix {
		return 0, false
	}
	n, err := strconv.Atoi(subject[len(prefix):])
	return n, err == nil && n >= 0
}

// Look gives what is seen now; false while that is nothing to decide by: this process's own beats have not come back
// lately, so that others may look silent who are not, or it has left.
func (m *Members) Look(partitions int) (Fleet, bool) {
	if m.left.Load() {
		return Fleet{}, false
	}
	return m.view.look(m.leases.clock(), partitions, m.leases.standing)
}

// Take tries once to take the lease of a partition that Look shows as free. Neither lease nor error means that it is not
// free any more. The lease is as from [Leases.Campaign].
func (m *Members) Take(ctx context.Context, partition int) (*Lease, error) {
	seen := m.view.sightingOf(partition)
	return m.leases.take(ctx, partition, &seen)
}

// TakeAgain tries once to take a lease of this process again that was lost because it was not renewed in time. It needs
// nothing that was seen, so it works as soon as NATS answers. Neither lease nor error means that somebody else has it.
func (m *Members) TakeAgain(ctx context.Context, lost *Lease) (*Lease, error) {
	return m.leases.take(ctx, lost.partition, &sighting{})
}

func (l *Leases) take(ctx context.Context, partition int, seen *sighting) (*Lease, error) {
	lease, err := l.try(ctx, partition, seen)
	if err != nil {
		return nil, fmt.Errorf("taking the lease of partition %d: %w", partition, err)
	}
	if lease != nil {
		l.logger.Info("lease taken", lease.attrs()...)
	}
	return lease, nil
}
