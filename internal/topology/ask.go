package topology

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// A cluster that has just created or moved something needs a moment to choose its leaders. Until then it
	// refuses questions or leaves them without an answer.
	electionTime = 15 * time.Second
	electionPoll = 100 * time.Millisecond
	answerTime   = 5 * time.Second
)

// patiently repeats what finds no leader, for as long as an election may take. Everything done through it may
// be done twice.
func patiently(ctx context.Context, do func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, electionTime)
	defer cancel()
	for {
		try, cancel := Call(ctx, answerTime)
		err := do(try)
		cancel()
		if !leaderless(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(electionPoll):
		}
	}
}

// insistently asks as Ask does, but every refusal is an answer: that nobody has JetStream, too.
//
//nolint:ireturn // jetstream's handles are interfaces.
func insistently[T any](ctx context.Context, question func(ctx context.Context) (T, error)) (T, error) {
	type answer struct {
		value   T
		refused error
	}
	a, err := Ask(ctx, func(ctx context.Context) (answer, error) {
		value, err := question(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			return answer{}, err
		}
		return answer{value, err}, nil
	})
	if err != nil {
		return a.value, err
	}
	return a.value, a.refused
}

func leaderless(err error) bool {
	if refused, ok := errors.AsType[jetstream.JetStreamError](err); ok && refused.APIError() != nil {
		return int(refused.APIError().ErrorCode) == codeUnavailable
	}
	return errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, ErrDenied)
}

// streamInfo is nil if there is no such stream. It needs only the right to STREAM.INFO.
func streamInfo(ctx context.Context, js jetstream.JetStream, name string) (*jetstream.StreamInfo, error) {
	var stream jetstream.Stream
	err := patiently(ctx, func(ctx context.Context) (err error) {
		stream, err = insistently(ctx, func(ctx context.Context) (jetstream.Stream, error) { return js.Stream(ctx, name) })
		return err
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil //nolint:nilnil // Not there is an answer, not an error.
	}
	if err != nil {
		return nil, err
	}
	return stream.CachedInfo(), nil
}

// consumerInfo is nil if there is no such consumer, or not even its stream. It needs only the right to
// CONSUMER.INFO.
func consumerInfo(ctx context.Context, js jetstream.JetStream, name string) (*jetstream.ConsumerInfo, error) {
	var consumer jetstream.Consumer
	err := patiently(ctx, func(ctx context.Context) (err error) {
		consumer, err = insistently(ctx, func(ctx context.Context) (jetstream.Consumer, error) {
			return js.Consumer(ctx, StreamUpdates, name)
		})
		return err
	})
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil //nolint:nilnil // Not there is an answer, not an error.
	}
	if err != nil {
		return nil, err
	}
	return consumer.CachedInfo(), nil
}

// consumerNames lists the consumers of the updates; it needs the right to CONSUMER.NAMES besides STREAM.INFO.
func consumerNames(ctx context.Context, js jetstream.JetStream) ([]string, error) {
	var names []string
	err := patiently(ctx, func(ctx context.Context) error {
		stream, err := js.Stream(ctx, StreamUpdates)
		if err != nil {
			return err
		}
		names = nil
		lister := stream.ConsumerNames(ctx)
		for name := range lister.Name() {
			names = append(names, name)
		}
		return lister.Err()
	})
	return names, err
}

func configOf(stream jetstream.Stream) *jetstream.StreamConfig {
	if stream == nil {
		return nil
	}
	return &stream.CachedInfo().Config
}

func consumerConfigOf(consumer jetstream.Consumer) *jetstream.ConsumerConfig {
	if consumer == nil {
		return nil
	}
	return &consumer.CachedInfo().Config
}

// explainAsking says what usually is behind a question that JetStream did not answer.
func explainAsking(err error) error {
	switch {
	case errors.Is(err, ErrDenied):
		return fmt.Errorf("%w: grant it, or take another user (--user, --creds, --context)", err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount),
		errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w: start the nats-server with JetStream (-js), or use an account or a --js-domain that has it", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return fmt.Errorf("%w: no answer, which may mean a missing right (the log of the connection names it), "+
			"a wrong --js-domain or a cluster without a leader", err)
	}
	return err
}

// Error codes of the server that nats.go has no names for.
const (
	codeAccountLimit       = 10002
	codeNoPeers            = 10005
	codeUnavailable        = 10008
	codeInsufficient       = 10023
	codeMaxConsumers       = 10026
	codeMaxStreams         = 10027
	codeMemoryExceeded     = 10028
	codeStorageExceeded    = 10047
	codeSubjectOverlap     = 10065
	codeReplicasAlone      = 10074
	codeMaxBytesRequired   = 10113
	codeStreamBytesAbove   = 10122
	codeMaxAckPendingAbove = 10121
)

// explainChange says which option or limit to change when the server refuses to create or update something. s is
// the stream concerned, if it is one.
func explainChange(err error, s spec) error {
	var refused jetstream.JetStreamError
	if !errors.As(err, &refused) || refused.APIError() == nil {
		return explainAsking(err)
	}
	size := FlagMaxBytes + " " + s.name + "=SIZE"
	smaller := "choose a smaller --" + size
	var advice string
	switch int(refused.APIError().ErrorCode) {
	case codeStorageExceeded, codeMemoryExceeded:
		advice = "the server has not that much room left to reserve; " + smaller + " or raise the server's max_file_store or max_memory_store"
	case codeAccountLimit:
		advice = "it would pass the account's limit; " + smaller + " or raise the account's max_file or max_mem"
	case codeStreamBytesAbove:
		advice = "it would pass the account's limit for one stream; " + smaller
	case codeMaxBytesRequired:
		advice = "the account wants a size for every stream; give --" + size
	case codeReplicasAlone:
		advice = "a single server keeps one copy; choose --" + FlagReplicas + " 1"
	case codeNoPeers, codeInsufficient:
		advice = "too few servers of the cluster can take it; choose fewer --" + FlagReplicas + ", or " + smaller
	case codeMaxStreams:
		advice = fmt.Sprintf("raise the account's max_streams; kexrelay needs %d", len(Names()))
	case codeMaxConsumers:
		advice = "raise the account's max_consumers, or choose fewer --" + FlagPartitions
	case codeMaxAckPendingAbove:
		advice = fmt.Sprintf("raise the account's max_ack_pending to at least %d", MaxAckPending)
	case codeSubjectOverlap:
		advice = "another stream of the account takes its subjects (nats stream find --subject '" + strings.Join(s.base.Subjects, " ") +
			"'); delete that or change its subjects"
	default:
		return err
	}
	return fmt.Errorf("%w: %s", err, advice)
}
