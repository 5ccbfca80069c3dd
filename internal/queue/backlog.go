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
	// Partitions are the relay's consumers by number.
	Partitions []Partition
}

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
	var stream jetstream.StreamInfo
	if err := c.call(ctx, "STREAM.INFO."+topology.StreamUpdates, nil, &stream); err != nil {
		if isAPI(err, jetstream.JSErrCodeStreamNotFound) {
			return Backlog{}, fmt.Errorf("%w: there is no stream %s; run kexrelay setup: %w", ErrConsumerGone, topology.StreamUpdates, err)
		}
		return Backlog{}, err
	}
	backlog := Backlog{
		Messages: stream.State.Msgs, Bytes: stream.State.Bytes, MaxBytes: stream.Config.MaxBytes, LastSeq: stream.State.LastSeq,
	}
	if stream.State.Msgs > 0 {
		backlog.FirstSeq, backlog.OldestAt = stream.State.FirstSeq, stream.State.FirstTime
	}
	var err error
	backlog.Partitions, err = c.partitions(ctx)
	return backlog, err
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
