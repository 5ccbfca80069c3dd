package topology

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
)

// askPause is the time between two askings of the same question.
const askPause = 500 * time.Millisecond

// Ask puts a question to the leader of a stream or of a consumer. One that has just died does not answer, and its
// successor answers only what it is asked itself. So a question without an answer is put again each half second,
// also when the answer is that there is no leader, while the earlier ones still wait: the first answer counts, and a
// server that is merely slow is not given up. Everything asked this way must be harmless when done twice.
//
// It returns the first answer or refusal, or ctx's error: give ctx a deadline.
//
//nolint:ireturn // Whatever the question is about; jetstream's handles are interfaces.
func Ask[T any](ctx context.Context, question func(ctx context.Context) (T, error)) (T, error) {
	return AskEach(ctx, askPause, question)
}

// AskEach is Ask with the time between two askings, for a question that so few put that its leader will not notice.
//
//nolint:ireturn // As Ask.
func AskEach[T any](ctx context.Context, every time.Duration, question func(ctx context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer)
	for {
		go func() {
			value, err := question(ctx)
			select {
			case answers <- answer{value, err}:
			case <-ctx.Done():
			}
		}()
		again := time.NewTimer(every)
		for waiting := true; waiting; {
			select {
			case a := <-answers:
				if ctx.Err() == nil && (leaderless(a.err) || errors.Is(a.err, nats.ErrNoResponders)) {
					continue // Somebody may lead it when it is asked again.
				}
				again.Stop()
				return a.value, a.err
			case <-again.C:
				waiting = false
			case <-ctx.Done():
				again.Stop()
				var none T
				return none, ctx.Err()
			}
		}
	}
}
