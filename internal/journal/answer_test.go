package journal

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// ear notes what became of requests last.
type ear struct {
	mu    sync.Mutex
	heard map[string]error
}

func (e *ear) hear(request string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.heard == nil {
		e.heard = map[string]error{}
	}
	e.heard[request] = err
}

// last is what was heard, by its name.
func (e *ear) last() map[string]error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.heard)
}

// Whoever holds the connection learns from every write whether JetStream answers through it.
func TestWhatBecomesOfWritesIsTold(t *testing.T) {
	t.Parallel()
	js := connect(t, leaseServer(t))
	var e ear
	leases := NewLeases(js, "a", discard())
	leases.OnAnswer(e.hear)
	lease, err := leases.Campaign(within(t, 20*time.Second), 0)
	if err != nil {
		t.Fatal(err)
	}
	tenure, err := TakeOver(within(t, 20*time.Second), js, lease, TenureConfig{Logger: discard(), OnAnswer: e.hear})
	if err != nil {
		t.Fatal(err)
	}
	crash(tenure)
	mustRelease(t, lease)

	publisher := NewPublisher(js, PublisherConfig{Patience: time.Millisecond, OnAnswer: e.hear})
	defer publisher.Close()
	for _, subject := range []string{"kex.result.delivered.1.kommentare", "nobody.takes.this"} {
		m := nats.NewMsg(subject)
		m.Header.Set(jetstream.MsgIDHeader, subject)
		if _, err := publisher.Publish(within(t, 20*time.Second), m); (err == nil) != (subject[0] == 'k') {
			t.Errorf("publishing to %s: %v", subject, err)
		}
	}
	got := e.last()
	want := []string{
		"publishing to kex.result", "publishing to nobody.takes", "reading " + topology.BucketControl,
		"writing to " + topology.BucketControl, "writing to " + topology.BucketLedger,
	}
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
		t.Errorf("heard of %q, want %q", names, want)
	}
	for _, request := range []string{"publishing to kex.result", "writing to " + topology.BucketControl, "writing to " + topology.BucketLedger} {
		if got[request] != nil {
			t.Errorf("%s: %v", request, got[request])
		}
	}
	if err := got["publishing to nobody.takes"]; !errors.Is(err, jetstream.ErrNoStreamResponse) && !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("a publish that nobody takes: %v", err)
	}
}
