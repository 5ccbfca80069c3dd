package topology

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/fault"
)

// leaseAge is how old a lease's record must be, by the server's own clock, before its holder counts as gone: it is
// renewed every second, and taken over after 5 s.
const leaseAge = 10 * time.Second

const (
	headerKVOperation = "KV-Operation" // Marks a message that removes a key.
	controlStream     = "KV_" + BucketControl
	controlSubjects   = "$KV." + BucketControl + "."
)

// sender names a relay that may send updates now, "" if none may: nobody has a lease, or an operator paused all.
func sender(ctx context.Context, js jetstream.JetStream) (string, error) {
	var holder string
	err := patiently(ctx, func(ctx context.Context) (err error) {
		holder, err = askSender(ctx, js, leaseAge)
		return err
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return "", nil // Nobody ever had one.
	}
	return holder, err
}

func askSender(ctx context.Context, js jetstream.JetStream, gone time.Duration) (string, error) {
	stream, err := js.Stream(ctx, controlStream)
	if err != nil {
		return "", err
	}
	paused, err := keyValue(ctx, stream, HoldPrefix+string(fault.Operator))
	if err != nil || paused != nil {
		return "", err
	}
	for partition := range MaxPartitions {
		lease, err := keyValue(ctx, stream, LeasePrefix+strconv.Itoa(partition))
		if err != nil {
			return "", err
		}
		if lease == nil {
			continue
		}
		var record struct {
			Replica  string `json:"replica"`
			Released bool   `json:"released"`
		}
		// One that cannot be read counts as held, as long as it is young.
		readable := json.Unmarshal(lease.Data, &record) == nil
		if record.Released || stream.CachedInfo().TimeStamp.Sub(lease.Time) > gone {
			continue
		}
		if !readable || record.Replica == "" {
			record.Replica = "unknown"
		}
		return record.Replica, nil
	}
	return "", nil
}

// keyValue is the last value of a key as its leader knows it, nil if there is none.
func keyValue(ctx context.Context, stream jetstream.Stream, key string) (*jetstream.RawStreamMsg, error) {
	value, err := stream.GetLastMsgForSubject(ctx, controlSubjects+key)
	if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && value.Header.Get(headerKVOperation) != "" {
		return nil, nil //nolint:nilnil // Not there is an answer, not an error.
	}
	return value, err
}
