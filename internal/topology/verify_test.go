package topology_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

func TestVerifyTellsWhatWaitsAndForHowLong(t *testing.T) {
	js := connect(t)
	setUp(t, js, topology.Options{})
	look := func() (updates topology.Room, consumer topology.Consuming) {
		t.Helper()
		found, err := topology.Verify(t.Context(), js)
		if err != nil || len(found.Consumers) != 1 {
			t.Fatalf("%+v, %v", found, err)
		}
		for _, room := range found.Rooms {
			if room.Name == topology.StreamUpdates {
				updates = room
			}
		}
		return updates, found.Consumers[0]
	}
	if updates, consumer := look(); updates.Messages != 0 || !updates.OldestAt.IsZero() || consumer != (topology.Consuming{}) {
		t.Errorf("empty: %+v %+v", updates, consumer)
	}
	before := time.Now().Add(-time.Second)
	for range 3 {
		if _, err := js.Publish(t.Context(), "kex.vorgang.1.kommentare", []byte(`["a"]`)); err != nil {
			t.Fatal(err)
		}
	}
	updates, consumer := look()
	for until := time.Now().Add(time.Minute); consumer.Unsettled < 3 && time.Now().Before(until); { // It hears of a message after the publisher.
		updates, consumer = look()
	}
	if updates.Messages != 3 || updates.LastSeq != 3 || updates.OldestAt.Before(before) || consumer != (topology.Consuming{Unsettled: 3}) {
		t.Errorf("three wait: %+v %+v", updates, consumer)
	}

	relay, err := js.Consumer(t.Context(), topology.StreamUpdates, topology.Consumer(0))
	if err != nil {
		t.Fatal(err)
	}
	messages, err := relay.Messages(jetstream.PullPriorityGroup(topology.PriorityGroup), jetstream.PullMaxMessages(1))
	if err != nil {
		t.Fatal(err)
	}
	defer messages.Stop()
	msg, err := messages.Next()
	if err != nil {
		t.Fatal(err)
	}
	if _, consumer := look(); consumer != (topology.Consuming{Unsettled: 3, Pinned: true}) {
		t.Errorf("one is being worked on: %+v", consumer)
	}
	if err := msg.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	if updates, consumer := look(); updates.Messages != 2 || consumer.Unsettled != 2 {
		t.Errorf("one is settled: %+v %+v", updates, consumer)
	}
}
