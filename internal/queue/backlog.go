package queue

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// Backlog is what waits in the stream of updates.
type Backlog struct {
	Messages uint64
	Bytes    uint64
	// MaxBytes is the stream's limit, -1 for none.
	MaxBytes int64
	// FirstSeq and OldestAt are the oldest update's, 0 and zero if there is none. LastSeq is the youngest's ever.
	FirstSeq, LastSeq uint64
	OldestAt          time.Time
	// Undelivered is how many of the messages no consumer will deliver, or has delivered and waits for: it thinks it
	// is done with them, or they lie in a partition without a consumer. 0 means none that can be told from updates
	// that came or went while it was counted.
	Undelivered uint64
	// Partitions are the relay's consumers by number.
	Partitions []Partition
}

// How often the stream is compared with its consumers while there seem to be too few updates in these, and how long to
// wait between: a cluster removes what was acked a moment later.
const (
	compareTries = 4
	comparePause = 300 * time.Millisecond
)

// Partition is the state of one of the relay's consumers.
type Partition struct {
	Number int
	// Pending is how many updates were not delivered yet, AckPending how many were and are not settled.
	Pending    uint64
	AckPending int
	// Redelivered is how many of those were delivered more than once.
	Redelivered int
	// Waiting is how many requests for updates wait; 0 for long means that no relay fetches.
	Waiting int
	// PinnedClient is the server's mark of the relay that fetches and PinnedAt since when; empty if none does.
	PinnedClient string
	PinnedAt     time.Time
	// LastDelivered and AckFloor are stream sequences: up to AckFloor everything is settled.
	LastDelivered, AckFloor uint64
	// Paused reports that somebody paused the consumer itself, e.g. with the nats CLI.
	Paused bool
}

// Backlog asks for the stream and its consumers. It needs the rights to STREAM.INFO and CONSUMER.LIST of
// KEX_UPDATES. ErrConsumerGone says that there is no such stream.
func (c *Conn) Backlog(ctx context.Context) (Backlog, error) {
	backlog, err := c.count(ctx)
	for tries := 1; err == nil && backlog.Undelivered > 0 && tries < compareTries; tries++ {
		select {
		case <-time.After(comparePause):
		case <-ctx.Done():
			return backlog, nil
		}
		var again Backlog
		if again, err = c.count(ctx); err == nil {
			again.Undelivered = min(again.Undelivered, backlog.Undelivered)
			backlog = again
		}
	}
	return backlog, err
}

// count asks for the consumers before and after the stream: what came or went meanwhile is in one of the two.
func (c *Conn) count(ctx context.Context) (Backlog, error) {
	before, err := c.partitions(ctx)
	var stream jetstream.StreamInfo
	if err == nil {
		err = c.call(ctx, "STREAM.INFO."+topology.StreamUpdates, nil, &stream)
	}
	if isAPI(err, jetstream.JSErrCodeStreamNotFound) {
		return Backlog{}, fmt.Errorf("%w: there is no stream %s; run kexrelay setup: %w", ErrConsumerGone, topology.StreamUpdates, err)
	}
	if err != nil {
		return Backlog{}, err
	}
	backlog := Backlog{
		Messages: stream.State.Msgs, Bytes: stream.State.Bytes, MaxBytes: stream.Config.MaxBytes, LastSeq: stream.State.LastSeq,
	}
	if stream.State.Msgs > 0 {
		backlog.FirstSeq, backlog.OldestAt = stream.State.FirstSeq, stream.State.FirstTime
	}
	if backlog.Partitions, err = c.partitions(ctx); err != nil {
		return Backlog{}, err
	}
	if known := max(known(before), known(backlog.Partitions)); known < backlog.Messages {
		backlog.Undelivered = backlog.Messages - known
	}
	return backlog, nil
}

// known is how many updates the consumers know to be unsettled.
func known(partitions []Partition) uint64 {
	n := uint64(0)
	for _, p := range partitions {
		n += p.Pending + uint64(max(p.AckPending, 0))
	}
	return n
}

// partitions asks page by page for the consumers and takes the relay's.
func (c *Conn) partitions(ctx context.Context) ([]Partition, error) {
	var partitions []Partition
	for offset := 0; ; {
		var page struct {
			Total     int                       `json:"total"`
			Consumers []*jetstream.ConsumerInfo `json:"consumers"`
		}
		request := struct {
			Offset int `json:"offset"`
		}{offset}
		if err := c.call(ctx, "CONSUMER.LIST."+topology.StreamUpdates, request, &page); err != nil {
			return nil, err
		}
		for _, info := range page.Consumers {
			if number, ok := partitionOf(info.Name); ok {
				partitions = append(partitions, newPartition(number, info))
			}
		}
		offset += len(page.Consumers)
		if offset >= page.Total || len(page.Consumers) == 0 {
			break
		}
	}
	slices.SortFunc(partitions, func(a, b Partition) int { return a.Number - b.Number })
	return partitions, nil
}

// partitionOf is the inverse of topology.Consumer.
func partitionOf(name string) (int, bool) {
	_, digits, _ := strings.Cut(name, "-")
	number, err := strconv.Atoi(digits)
	return number, err == nil && topology.Consumer(number) == name
}

func newPartition(number int, info *jetstream.ConsumerInfo) Partition {
	p := Partition{
		Number:        number,
		Pending:       info.NumPending,
		AckPending:    info.NumAckPending,
		Redelivered:   info.NumRedelivered,
		Waiting:       info.NumWaiting,
		LastDelivered: info.Delivered.Stream,
		AckFloor:      info.AckFloor.Stream,
		Paused:        info.Paused,
	}
	for _, group := range info.PriorityGroups {
		if group.Group == topology.PriorityGroup && group.PinnedClientID != "" {
			p.PinnedClient, p.PinnedAt = group.PinnedClientID, group.PinnedTS
		}
	}
	return p
}
