package topology

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrSetupNeeded says that the topology is not there or not as it must be: `kexrelay setup` helps, or says what
// stands in its way.
var ErrSetupNeeded = errors.New("run kexrelay setup")

// Found is the topology as it is.
type Found struct {
	// Partitions is the number of partitions and so of consumers, at least 1.
	Partitions int
	// Replicas and Storage are those of the updates.
	Replicas int
	Storage  Storage
	// Server is the connected server's version.
	Server string
	// Rooms says how full what is there is, in setup's order.
	Rooms []Room
	// Consumers are the partitions' by number, those that are not there left zero.
	Consumers []Consuming
}

// Room is how full a stream or bucket is.
type Room struct {
	// Name is the stream's or the bucket's, as setup --max-bytes takes it.
	Name     string
	Messages uint64
	Bytes    uint64
	// MaxBytes is -1 for no limit. Refuses says that at the limit nothing more is taken, else the oldest goes.
	MaxBytes int64
	Refuses  bool
	// OldestAt is when the oldest message was stored, zero if there is none. LastSeq is the last message's ever.
	OldestAt time.Time
	LastSeq  uint64
}

// Consuming is how far a partition's consumer is.
type Consuming struct {
	// Unsettled are the updates that were not acked yet, delivered or not.
	Unsettled uint64
	// Pinned says that the server gives them to one relay alone, as it must while one fetches.
	Pinned bool
}

func roomOf(name string, info *jetstream.StreamInfo) Room {
	room := Room{
		Name: name, Messages: info.State.Msgs, Bytes: info.State.Bytes,
		MaxBytes: info.Config.MaxBytes, Refuses: info.Config.Discard == jetstream.DiscardNew,
		LastSeq: info.State.LastSeq,
	}
	if info.State.Msgs > 0 {
		room.OldestAt = info.State.FirstTime
	}
	return room
}

func consuming(info *jetstream.ConsumerInfo) Consuming {
	c := Consuming{Unsettled: info.NumPending + uint64(max(info.NumAckPending, 0))}
	for _, group := range info.PriorityGroups {
		c.Pinned = c.Pinned || group.Group == PriorityGroup && group.PinnedClientID != ""
	}
	return c
}

// Verify looks whether everything is there and has the settings that updates depend on. It changes nothing and
// needs the rights to STREAM.INFO and CONSUMER.INFO only. The error names everything that is missing or differs
// and wraps ErrSetupNeeded, or ErrServerTooOld; any other means that NATS could not be asked.
func Verify(ctx context.Context, js jetstream.JetStream) (Found, error) {
	version, err := requireVersion(js)
	found := Found{Server: version}
	if err != nil {
		return found, err
	}
	var wrong []error
	for _, s := range specs() {
		info, err := streamInfo(ctx, js, s.base.Name)
		switch {
		case err != nil:
			return found, fmt.Errorf("asking for %s: %w", s.label(), explainAsking(err))
		case info == nil:
			wrong = append(wrong, fmt.Errorf("%s is missing", s.label()))
			continue
		}
		found.Rooms = append(found.Rooms, roomOf(s.name, info))
		if err := requireLevel(streamLevel(info.Config)); err != nil {
			return found, err
		}
		if s.name == StreamUpdates {
			found.Partitions = partitionsIn(info.Config)
			found.Replicas = info.Config.Replicas
			found.Storage = storageOf(info.Config.Storage)
		}
		wanted := s.wanted(Options{}, max(found.Partitions, 1), &info.Config)
		wrong = append(wrong, differences(s.label(), compare(streamFields(), &info.Config, &wanted))...)
	}
	found.Consumers = make([]Consuming, found.Partitions)
	for partition := range found.Partitions {
		differs, err := verifyConsumer(ctx, js, partition, found.Partitions, &found.Consumers[partition])
		if err != nil {
			return found, err
		}
		wrong = append(wrong, differs...)
	}
	if len(wrong) > 0 {
		return found, fmt.Errorf("%w: %w", errors.Join(wrong...), ErrSetupNeeded)
	}
	return found, nil
}

func verifyConsumer(ctx context.Context, js jetstream.JetStream, partition, partitions int, found *Consuming) ([]error, error) {
	label := "consumer " + Consumer(partition)
	info, err := consumerInfo(ctx, js, Consumer(partition))
	switch {
	case errors.Is(err, jetstream.ErrNotPullConsumer):
		return []error{fmt.Errorf("%s is a push consumer", label)}, nil
	case err != nil:
		return nil, fmt.Errorf("asking for %s: %w", label, explainAsking(err))
	case info == nil:
		return []error{fmt.Errorf("%s is missing", label)}, nil
	}
	*found = consuming(info)
	wanted := wantedConsumer(partition, partitions, &info.Config)
	return differences(label, compare(consumerFields(), &info.Config, &wanted)), nil
}

// differences leaves out what serve can live with, so that a hand-tuned or newer topology keeps no relay from
// starting.
func differences(label string, changes []Change) []error {
	var errs []error
	for _, c := range changes {
		if !c.tunable {
			errs = append(errs, fmt.Errorf("%s has %s %s and must have %s", label, c.Field, c.Old, c.New))
		}
	}
	return errs
}

func storageOf(s jetstream.StorageType) Storage {
	if s == jetstream.MemoryStorage {
		return Memory
	}
	return File
}
