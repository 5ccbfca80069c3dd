package topology

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

func TestWhatFindsNoLeaderIsRepeatedForAWhile(t *testing.T) {
	noLeader := &jetstream.APIError{ErrorCode: codeUnavailable}
	other := &jetstream.APIError{ErrorCode: codeStorageExceeded}
	lost := errors.New("lost") // Stands for an answer that never comes.
	tests := map[string]struct {
		answers []error // The last one goes on for ever.
		want    error
		tries   int // 0 for any number.
		after   time.Duration
	}{
		"an answer":                 {[]error{nil}, nil, 1, 0},
		"a refusal":                 {[]error{other}, other, 1, 0},
		"a leader after two tries":  {[]error{noLeader, noLeader, nil}, nil, 3, 2 * electionPoll},
		"a refusal after an answer": {[]error{lost, other}, other, 2, answerTime + electionPoll},
		"an answer after a loss":    {[]error{lost, nil}, nil, 2, answerTime + electionPoll},
		"never a leader":            {[]error{noLeader}, noLeader, 0, electionTime},
		"never an answer":           {[]error{lost}, context.DeadlineExceeded, 3, electionTime},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start, tries := time.Now(), 0
				err := patiently(t.Context(), func(ctx context.Context) error {
					answer := test.answers[min(tries, len(test.answers)-1)]
					tries++
					if errors.Is(answer, lost) {
						<-ctx.Done()
						return ctx.Err()
					}
					return answer
				})
				if !errors.Is(err, test.want) || err != nil && test.want == nil {
					t.Errorf("error is %v, want %v", err, test.want)
				}
				if test.tries != 0 && tries != test.tries || time.Since(start) != test.after {
					t.Errorf("%d tries in %s, want %d in %s", tries, time.Since(start), test.tries, test.after)
				}
			})
		})
	}
}

func TestNothingIsRepeatedForACallerThatHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		tries := 0
		err := patiently(ctx, func(ctx context.Context) error {
			tries++
			<-ctx.Done()
			return ctx.Err()
		})
		if !errors.Is(err, context.DeadlineExceeded) || tries != 1 {
			t.Errorf("%d tries end with %v, want one and the caller's deadline", tries, err)
		}
	})
}
