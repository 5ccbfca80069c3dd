package topology_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// asked is one asking of a question: after how long it is answered, and with what.
type asked struct {
	after time.Duration
	err   error
}

// A question is put again while its answer does not come, and the first answer counts.
func TestAQuestionIsPutAgainUntilSomebodyAnswers(t *testing.T) {
	never, refused := time.Hour, errors.New("refused")
	for name, c := range map[string]struct {
		askings []asked
		limit   time.Duration
		took    time.Duration
		want    int
		err     error
	}{
		"answered at once":                       {[]asked{{time.Millisecond, nil}}, time.Minute, time.Millisecond, 1, nil},
		"the leader died, its successor answers": {[]asked{{never, nil}, {never, nil}, {time.Millisecond, nil}}, time.Minute, 1001 * time.Millisecond, 3, nil},
		"a slow server is not given up":          {[]asked{{700 * time.Millisecond, nil}, {never, nil}}, time.Minute, 700 * time.Millisecond, 1, nil},
		"there is no leader yet":                 {[]asked{{0, nats.ErrNoResponders}, {time.Millisecond, nil}}, time.Minute, 501 * time.Millisecond, 2, nil},
		"a refusal is an answer":                 {[]asked{{time.Millisecond, refused}}, time.Minute, time.Millisecond, 0, refused},
		"nobody ever answers":                    {[]asked{{never, nil}, {never, nil}, {never, nil}}, 1200 * time.Millisecond, 1200 * time.Millisecond, 0, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), c.limit)
				defer cancel()
				var n atomic.Int64
				begin := time.Now()
				got, err := topology.Ask(ctx, func(ctx context.Context) (int, error) {
					mine := int(n.Add(1))
					select {
					case <-time.After(c.askings[mine-1].after):
					case <-ctx.Done():
						return 0, ctx.Err()
					}
					if err := c.askings[mine-1].err; err != nil {
						return 0, err
					}
					return mine, nil
				})
				if took := time.Since(begin); got != c.want || !errors.Is(err, c.err) || took != c.took {
					t.Errorf("Ask = %d, %v after %v, want %d, %v after %v", got, err, took, c.want, c.err, c.took)
				}
			})
		})
	}
}

// Whoever starts while a stream has no leader goes on as soon as it has one: a question that got lost is put again long
// before it is given up.
func TestVerifyingGoesOnAsSoonAsThereIsALeader(t *testing.T) {
	t.Parallel()
	js := connect(t)
	if _, err := topology.Setup(t.Context(), js, topology.Options{}); err != nil {
		t.Fatal(err)
	}
	lost := make(map[string]bool) // Only the subscription's goroutine uses it.
	if _, err := js.Conn().Subscribe("electing.>", func(m *nats.Msg) {
		subject := strings.TrimPrefix(m.Subject, "electing.")
		first := !lost[subject]
		lost[subject] = true
		if first && (subject == "STREAM.INFO."+topology.StreamUpdates || subject == "CONSUMER.INFO."+topology.StreamUpdates+"."+topology.Consumer(0)) {
			return
		}
		if err := js.Conn().PublishRequest("$JS.API."+subject, m.Reply, m.Data); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	electing, err := jetstream.NewWithAPIPrefix(js.Conn(), "electing")
	if err != nil {
		t.Fatal(err)
	}
	// Less than one question may wait.
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	if _, err := topology.Verify(ctx, electing); err != nil {
		t.Error(err)
	}
}
