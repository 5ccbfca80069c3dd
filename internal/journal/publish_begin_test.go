package journal

import (
	"encoding/json"
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

// The server's answers are read as jetstream reads them.
func TestPubAcksAreReadAsTheClientReadsThem(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"stream":"KEX_RESULTS","seq":1}`, `{"stream":"KEX_RESULTS","seq":9999999999999999999}`, `{"stream":"KEX_RESULTS","seq":18446744073709551615}`,
		`{"stream":"KEX_RESULTS","seq":18446744073709551616}`, `{"stream":"KEX_RESULTS","seq":0}`, `{"stream":"KEX_RESULTS","seq":007}`,
		`{"stream":"KEX_RESULTS","seq":}`, `{"stream":"KEX_RESULTS","seq":-1}`, `{"stream":"KEX_RESULTS","seq":1e3}`, `{"stream":"KEX_RESULTS","seq":12`,
		`{"stream":"KEX_RESULTS","seq":12,"duplicate": true}`, `{"stream":"KEX_RESULTS", "seq":12}`, `{"stream":"KEX_RESULTS", "domain":"hub", "seq":5}`,
		`{"stream":"KEX_DEADLETTERS", "seq":3}`, `{"stream":"", "seq":3}`, `{}`, `[]`, ``, `+OK`, `{"stream":"KEX_RESULTS","seq":12}}`,
		`{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"KEX_RESULTS","seq":0}`,
	} {
		var want struct {
			Error *jetstream.APIError `json:"error"`
			*jetstream.PubAck
		}
		err := json.Unmarshal([]byte(text), &want)
		got, gotErr := decodePubAck([]byte(text))
		switch {
		case err != nil || want.Error == nil && (want.PubAck == nil || want.Stream == ""):
			if !errors.Is(gotErr, jetstream.ErrInvalidJSAck) {
				t.Errorf("%s: %+v, %v; want an invalid answer", text, got, gotErr)
			}
		case want.Error != nil:
			if !errors.Is(gotErr, want.Error) {
				t.Errorf("%s: %v, want %v", text, gotErr, want.Error)
			}
		case gotErr != nil || got != *want.PubAck:
			t.Errorf("%s: %+v, %v; want %+v", text, got, gotErr, *want.PubAck)
		}
	}
}

// The server words its usual answer as we expect it; were it otherwise, reading it would only take longer.
func TestTheUsualPubAckIsTheServers(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	for want := uint64(1); want <= 2; want++ {
		answer, err := js.Conn().Request(topology.ResultSubject(update.Delivered, "1", update.Comments), nil, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if ack, ok := usualPubAck(answer.Data); !ok || ack.Sequence != want || ack.Stream != topology.StreamResults {
			t.Errorf("%s: %+v, %t", answer.Data, ack, ok)
		}
	}
}

// Those whose time is over are told, and only those; an answer that comes later is nobody's.
func TestWhatIsPublishedIsWaitedForAsLongAsTheTimeoutSays(t *testing.T) {
	t.Parallel()
	js := connect(t, embeddedtest.Run(t).URL())
	replies := make(chan string, 3)
	if _, err := js.Conn().Subscribe("kex.>", func(m *nats.Msg) { replies <- m.Reply }); err != nil {
		t.Fatal(err)
	}
	b := newBegun(js.Conn(), 300*time.Millisecond)
	t.Cleanup(b.close)
	type told struct {
		n   int
		err error
		at  time.Time
	}
	heard := make(chan told, 4)
	var begun [3]time.Time
	for n := range begun {
		begun[n] = time.Now()
		if err := b.publish(&nats.Msg{Subject: "kex.test"}, func(_ jetstream.PubAck, err error) { heard <- told{n, err, time.Now()} }); err != nil {
			t.Fatal(err)
		}
		reply := <-replies
		if n == 1 {
			if err := js.Conn().Publish(reply, []byte(`{"stream":"S", "seq":1}`)); err != nil {
				t.Fatal(err)
			}
			if first := <-heard; first.n != 1 || first.err != nil {
				t.Fatalf("told %+v first, want 1 without an error", first)
			}
		}
		defer func() { _ = js.Conn().Publish(reply, []byte(`{"stream":"S", "seq":2}`)) }()
		pause(t.Context(), 50*time.Millisecond)
	}
	for _, n := range []int{0, 2} {
		one := <-heard
		if one.n != n || !errors.Is(one.err, jetstream.ErrAsyncPublishTimeout) || one.at.Before(begun[n].Add(b.timeout)) {
			t.Errorf("told %+v, want %d after its time, begun at %v", one, n, begun[n])
		}
	}
	if b.oldest != nil || b.newest != nil || len(b.waiting) != 0 {
		t.Errorf("%d are still waited for", len(b.waiting))
	}
}

func TestMoreThanMayWaitAreRefusedForNow(t *testing.T) {
	t.Parallel()
	js := connect(t, embeddedtest.Run(t).URL())
	if _, err := js.Conn().Subscribe("kex.>", func(*nats.Msg) {}); err != nil { // Or the server says that nobody listens.
		t.Fatal(err)
	}
	b := newBegun(js.Conn(), time.Minute)
	told := 0
	done := func(_ jetstream.PubAck, err error) {
		if told++; !errors.Is(err, jetstream.ErrJetStreamPublisherClosed) {
			t.Errorf("told %v", err)
		}
	}
	for range maxPending {
		if err := b.publish(&nats.Msg{Subject: "kex.test"}, done); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.publish(&nats.Msg{Subject: "kex.test"}, done); refusalOf(err) != RefusedForNow || err == nil {
		t.Errorf("one more: %v", err)
	}
	if b.close(); told != maxPending {
		t.Errorf("%d were told of the end, want %d", told, maxPending)
	}
}
