package journal

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// headless is a JetStream without a leader that could make a consumer; each stream has its own.
type headless struct{ jetstream.JetStream }

func (headless) CreateConsumer(ctx context.Context, _ string, _ jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A cluster that has lost a server may have a leader of the bucket of leases seconds before one that makes consumers. Those
// seconds are not lost: the others are seen, and a lease is watched, and taken.
func TestLeasesAreWatchedWithoutAConsumer(t *testing.T) {
	t.Parallel()
	url := leaseServer(t)
	a, _ := memberLeases(t, url, "a")
	b, _ := memberLeases(t, url, "b")
	b.js = headless{b.js}
	_, dieA := runMembers(t, a)
	mb, _ := runMembers(t, b)
	lease := a.mustCampaign(t)
	awaitFleet(t, mb, "both", alive(a, b))
	awaitFleet(t, mb, "the holder", func(f Fleet) bool { return f.Partitions[0].Holder == a.process })
	begin := time.Now()
	lease.die()
	dieA()
	awaitFleet(t, mb, "the stale lease", func(f Fleet) bool { return f.Partitions[0].Holder == "" })
	if took := time.Since(begin); took < b.timing.stale-2*b.timing.renew {
		t.Errorf("free after %v", took)
	}
	awaitFleet(t, mb, "the death of its holder", alive(b))
	again, err := mb.Take(t.Context(), 0)
	if err != nil || again == nil || again.Epoch() != 2 {
		t.Fatalf("got %v, %v", again, err)
	}
	mustRelease(t, again)
	awaitFleet(t, mb, "the release", func(f Fleet) bool { return f.Partitions[0].Holder == "" && !f.Partitions[0].Own })
}

// What is asked for shows the others as they were when it was asked; our own record must not claim that they are younger.
func TestWhatIsAskedForIsAsOldAsTheQuestion(t *testing.T) {
	t.Parallel()
	url := leaseServer(t)
	a, _ := memberLeases(t, url, "a")
	m := NewMembers(a, Replica{})
	if err := m.self.beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	now := time.Duration(0)
	a.clock = func() time.Duration { // Each answer takes a second.
		now += time.Second
		return now
	}
	if err := m.ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.view.beaten != time.Second {
		t.Errorf("asked at 1s, and what is seen claims to be of %v", m.view.beaten)
	}
}

// A replica that lags may give a record again that was seen to be over. In a bucket that was made anew the revisions begin
// again, and that is news.
func TestAnOlderRecordIsNoNews(t *testing.T) {
	s := newScene()
	s.replica(0, "me")
	at := time.Now()
	s.sawLease(0, sighting{revision: 20, since: s.now, at: at}, leaseRecord{Process: "y"}, false)
	s.sawLease(0, sighting{revision: 10, since: s.now + 1, at: at.Add(-time.Second)}, leaseRecord{Process: "x"}, false)
	s.wantHeld(t, 0, Held{Holder: "y"})
	s.sawLease(0, sighting{revision: 3, since: s.now + 1, at: at.Add(time.Second)}, leaseRecord{Process: "x"}, false)
	s.wantHeld(t, 0, Held{Holder: "x"})
}
