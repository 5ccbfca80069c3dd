package journal

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// begin gives what done was told, and fails the test if it is told nothing or something twice.
func begin(t *testing.T, j *Journal, s *update.Settlement) error {
	t.Helper()
	told := make(chan error, 2)
	if !j.Begin(s, func(err error) { told <- err }) {
		t.Fatal("nothing was begun")
	}
	select {
	case err := <-told:
		if len(told) != 0 {
			t.Error("told twice")
		}
		return err
	case <-time.After(time.Minute):
		t.Fatal("nothing was told")
		return nil
	}
}

// A result that was begun is told when it is stored, and is the one that Settle writes.
func TestWhatIsBegunIsWhatSettleWrites(t *testing.T) {
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	s := delivered(anUpdate(7))
	if err := begin(t, j, s); err != nil {
		t.Fatal(err)
	}
	stored, err := j.results.At(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if want := j.settlementEvent(s, 0); stored.ID != want.ID || !sameRequest(stored, want) {
		t.Errorf("stored %+v, want %+v", stored, want)
	}
	if err := j.Settle(t.Context(), s); err != nil {
		t.Fatalf("settling again what was begun: %v", err)
	}
}

// A second booking of an update is never taken for settled: Settle has to look into it.
func TestABegunDuplicateIsLeftToSettle(t *testing.T) {
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	if err := j.Settle(t.Context(), deadLettered(anUpdate(7))); err != nil {
		t.Fatal(err)
	}
	if err := begin(t, j, delivered(anUpdate(7))); !errors.Is(err, errNotTold) {
		t.Errorf("error %v, want %v", err, errNotTold)
	}
}

// What is not simply delivered needs more than one message.
func TestOnlyDeliveriesAreBegun(t *testing.T) {
	j := newJournal(t, connect(t, embeddedtest.Run(t).URL()))
	if j.Begin(deadLettered(anUpdate(7)), func(error) { t.Error("told") }) {
		t.Error("a dead letter was begun")
	}
}

// Without a stream, without an answer and without a connection, an error is told once.
func TestWhatIsBegunInTroubleIsToldOnce(t *testing.T) {
	t.Parallel()
	server := embeddedtest.Run(t)
	js := connect(t, server.URL())
	j := impatient(t, js)
	if err := begin(t, j, delivered(anUpdate(1))); !errors.Is(err, jetstream.ErrNoStreamResponse) {
		t.Errorf("without a stream: %v", err)
	}
	silent, err := js.Conn().Subscribe("kex.result.>", func(*nats.Msg) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := begin(t, j, delivered(anUpdate(2))); !errors.Is(err, jetstream.ErrAsyncPublishTimeout) {
		t.Errorf("without an answer: %v", err)
	}
	_ = silent.Unsubscribe()
	js.Conn().Close()
	if j.Begin(delivered(anUpdate(3)), func(error) { t.Error("told although nothing was begun") }) {
		t.Error("begun on a closed connection")
	}
	if n := len(j.publisher.begun.waiting); n != 0 {
		t.Errorf("%d are still waited for", n)
	}
}

// A connection that is lost while results are on their way leaves none without an answer.
func TestALostConnectionTellsEverythingBegun(t *testing.T) {
	server := startRestartable(t)
	js := connect(t, server.URL())
	if _, err := topology.Setup(t.Context(), js, topology.Options{}); err != nil {
		t.Fatal(err)
	}
	j := newJournal(t, js)
	if err := begin(t, j, delivered(anUpdate(1))); err != nil {
		t.Fatal(err)
	}
	const n = 50
	told, begun := make(chan error, 2*n), 0
	stopped := make(chan error, 1)
	go func() { stopped <- server.Shutdown() }()
	for i := range n {
		if j.Begin(delivered(anUpdate(uint64(100+i))), func(err error) { told <- err }) {
			begun++
		}
	}
	for range begun {
		select {
		case err := <-told:
			if err == nil {
				continue // It was stored just before.
			}
		case <-time.After(time.Minute):
			t.Fatal("some are told nothing")
		}
	}
	if err := <-stopped; err != nil || len(told) != 0 {
		t.Errorf("stopping the server: %v; %d told twice", err, len(told))
	}
}
