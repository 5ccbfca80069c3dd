package journal

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded"
	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

func sealed(cfg *jetstream.StreamConfig) { cfg.Sealed = true }

func decoded(tb testing.TB, msg jetstream.Msg) Event {
	tb.Helper()
	event, err := decodeEvent(msg.Data(), 1)
	if err != nil {
		tb.Fatal(err)
	}
	return event
}

// wantStorage checks that an error holds the relay, and what it says.
func wantStorage(t *testing.T, err error, texts ...string) {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Kind != fault.Systemic || f.Reason != fault.Storage {
		t.Fatalf("got %v, want a systemic storage fault", err)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error does not say %q: %v", text, err)
		}
	}
}

func TestAFullStreamIsAStorageFaultUntilThereIsRoom(t *testing.T) {
	js := setUp(t, topology.Options{})
	j := New(js, Config{Source: source, Patience: time.Minute}) // A full stream must not be waited for.
	t.Cleanup(j.Close)
	settle(t, j, deadLettered(anUpdate(1)))
	updateStream(t, js, topology.StreamDeadLetters, func(cfg *jetstream.StreamConfig) { cfg.MaxMsgs = 1 })

	begin := time.Now()
	err := j.Settle(t.Context(), deadLettered(anUpdate(2)))
	wantStorage(t, err, "update 2", "kex.deadletter.gone.123456.kommentare", "maximum messages exceeded", "make room")
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("told after %s, want at once", took)
	}
	if n := len(messages(t, js, topology.StreamResults)); n != 1 {
		t.Errorf("%d results, want none for a dead letter that was refused", n)
	}
	updateStream(t, js, topology.StreamDeadLetters, func(cfg *jetstream.StreamConfig) { cfg.MaxMsgs = 2 })
	settle(t, j, deadLettered(anUpdate(2)))
	if n := len(messages(t, js, topology.StreamResults)); n != 2 {
		t.Errorf("%d results, want 2", n)
	}
}

func TestAMissingStreamIsAStorageFaultThatNamesSetup(t *testing.T) {
	js := connect(t, embeddedtest.Run(t).URL())
	wantStorage(t, impatient(t, js).Settle(t.Context(), delivered(anUpdate(1))), "update 1", "kexrelay setup")
}

func TestWithoutNATSASettlementIsRepeatedLater(t *testing.T) {
	server := startRestartable(t)
	js := connect(t, server.URL())
	if _, err := topology.Setup(t.Context(), js, topology.Options{}); err != nil {
		t.Fatal(err)
	}
	settle(t, newJournal(t, js), deadLettered(anUpdate(1)))
	j := impatient(t, js)
	server.stop(t)
	s := deadLettered(anUpdate(2))
	wantStorage(t, j.Settle(t.Context(), s), "update 2")

	server.start(t)
	ctx := within(t, time.Minute)
	for {
		err := j.Settle(ctx, s)
		if err == nil {
			break
		}
		wantStorage(t, err)
	}
	if n := len(messages(t, js, topology.StreamDeadLetters)); n != 2 {
		t.Errorf("%d dead letters, want 2", n)
	}
	if n := len(messages(t, js, topology.StreamResults)); n != 2 {
		t.Errorf("%d results, want 2", n)
	}
}

func TestAShortAbsenceOfNATSIsNotTold(t *testing.T) {
	server := startRestartable(t)
	js := connect(t, server.URL())
	if _, err := topology.Setup(t.Context(), js, topology.Options{}); err != nil {
		t.Fatal(err)
	}
	j := New(js, Config{Source: source, Patience: time.Minute})
	t.Cleanup(j.Close)
	server.stop(t)
	done := make(chan error, 1)
	go func() { done <- j.Settle(t.Context(), delivered(anUpdate(1))) }()
	server.start(t)
	if err := <-done; err != nil {
		t.Errorf("Settle: %v", err)
	}
	only(t, js, topology.StreamResults)
}

func TestRepeatedPublishesAreTold(t *testing.T) {
	t.Parallel()
	js := connect(t, embeddedtest.Run(t).URL())
	var told []Record
	j := New(js, Config{Source: source, Patience: 1500 * time.Millisecond, OnRetry: func(r Record) { told = append(told, r) }})
	t.Cleanup(j.Close)
	for want, settlement := range map[Record]*update.Settlement{
		RecordResult: delivered(anUpdate(1)), RecordDeadLetter: deadLettered(anUpdate(2)),
	} {
		told = nil
		wantStorage(t, j.Settle(t.Context(), settlement), "kexrelay setup")
		if kinds := slices.Compact(slices.Clone(told)); len(told) < 2 || len(kinds) != 1 || kinds[0] != want {
			t.Errorf("told of %q, want repeats of a %s", told, want)
		}
	}
	told = nil
	if _, err := topology.Setup(t.Context(), js, topology.Options{}); err != nil {
		t.Fatal(err)
	}
	settle(t, j, deadLettered(anUpdate(2)))
	if len(told) != 0 {
		t.Errorf("told of %q although nothing was repeated", told)
	}
}

func TestAClosedConnectionIsToldAtOnce(t *testing.T) {
	js := connect(t, embeddedtest.Run(t).URL())
	j := New(js, Config{Source: source, Patience: time.Minute})
	js.Conn().Close()
	begin := time.Now()
	wantStorage(t, j.Settle(t.Context(), delivered(anUpdate(1))), "closed")
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("told after %s", took)
	}
}

func TestOurOwnStopIsNoStorageFault(t *testing.T) {
	js, _ := unanswered(t)
	j := New(js, Config{Source: source, PublishTimeout: time.Minute})
	t.Cleanup(j.Close)
	cause := errors.New("the end of the shutdown timeout")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(cause) })
	err := j.Settle(ctx, delivered(anUpdate(1)))
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Kind != fault.Interrupted || !errors.Is(err, cause) {
		t.Errorf("got %v, want an interruption by %v", err, cause)
	}
}

// unanswered is a NATS where somebody listens to the results, but does not answer: neither a PubAck nor "no
// responders" comes. It counts the publishes.
func unanswered(t *testing.T) (jetstream.JetStream, *atomic.Int64) {
	t.Helper()
	js := connect(t, embeddedtest.Run(t).URL())
	count := new(atomic.Int64)
	answer(t, js, func(*nats.Msg) []byte {
		count.Add(1)
		return nil
	})
	return js, count
}

// answer answers publishes of results in the place of a stream.
func answer(t *testing.T, js jetstream.JetStream, with func(*nats.Msg) []byte) {
	t.Helper()
	sub, err := js.Conn().Subscribe(topology.SubjectResults, func(m *nats.Msg) {
		if reply := with(m); reply != nil {
			_ = m.Respond(reply)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := js.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestAPublishWithoutAnAnswerEndsAndLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	js, count := unanswered(t)
	j := New(js, Config{Source: source, PublishTimeout: 50 * time.Millisecond, Patience: 1500 * time.Millisecond})
	t.Cleanup(j.Close)
	wantStorage(t, j.Settle(t.Context(), delivered(anUpdate(1))), "no answer", "rights")
	if n := count.Load(); n < 2 {
		t.Errorf("published %d times, want a repeat", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	_ = j.Settle(ctx, delivered(anUpdate(2)))
	remembered := func() int {
		j.publisher.begun.mu.Lock()
		defer j.publisher.begun.mu.Unlock()
		return len(j.publisher.begun.waiting)
	}
	for deadline := within(t, time.Minute); remembered() > 0; pause(deadline, 10*time.Millisecond) {
		if deadline.Err() != nil {
			t.Fatalf("%d publishes are remembered for ever", remembered())
		}
	}
}

func TestAClosedJournalLeavesNothingOnTheConnection(t *testing.T) {
	js := setUp(t, topology.Options{})
	before := js.Conn().NumSubscriptions()
	j := New(js, Config{Source: source})
	settle(t, j, delivered(anUpdate(1)))
	if js.Conn().NumSubscriptions() == before {
		t.Fatal("a publish needs no subscription: this test proves nothing")
	}
	j.Close()
	j.Close()
	if after := js.Conn().NumSubscriptions(); after != before {
		t.Errorf("%d subscriptions, %d before", after, before)
	}
	New(js, Config{Source: source}).Close() // One that was never used.
}

func TestRefusalsOfTheServer(t *testing.T) {
	refuse := func(code, errCode int, description string) []byte {
		text, err := json.Marshal(map[string]any{"error": map[string]any{
			"code": code, "err_code": errCode, "description": description,
		}, "stream": topology.StreamResults, "seq": 0})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	tests := map[string]struct {
		answer []byte
		passes bool // May pass by itself.
	}{
		"the ID is in process":     {refuse(409, 10158, "duplicate message id is in process"), true},
		"no quorum":                {refuse(503, 10008, "JetStream system temporarily unavailable"), true},
		"full":                     {refuse(503, 10077, "maximum bytes exceeded"), false},
		"no disk":                  {refuse(500, 10047, "insufficient storage resources available"), false},
		"sealed":                   {refuse(400, 10109, "invalid operation on sealed stream"), false},
		"answer of something else": {[]byte("pong"), true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			js := connect(t, embeddedtest.Run(t).URL())
			var asked atomic.Int64
			answer(t, js, func(*nats.Msg) []byte {
				if asked.Add(1) < 3 {
					return test.answer
				}
				return []byte(`{"stream":"KEX_RESULTS","seq":1}`)
			})
			j := New(js, Config{Source: source, Patience: time.Minute})
			t.Cleanup(j.Close)
			err := j.Settle(t.Context(), delivered(anUpdate(1)))
			if test.passes {
				if err != nil || asked.Load() != 3 {
					t.Errorf("asked %d times, %v; want success at the third", asked.Load(), err)
				}
				return
			}
			wantStorage(t, err, "make room")
			if asked.Load() != 1 {
				t.Errorf("asked %d times, want once", asked.Load())
			}
		})
	}
}

func TestAResultThatIsTooLargeLosesItsDetailOnly(t *testing.T) {
	server, err := embedded.Start(embedded.Options{StoreDir: t.TempDir(), MaxPayload: 2048})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Shutdown() })
	js := connect(t, server.URL())
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: topology.StreamResults, Subjects: []string{topology.SubjectResults}})
	if err != nil {
		t.Fatal(err)
	}
	s := delivered(anUpdate(1))
	s.Detail = strings.Repeat("<", 1000) // Six bytes each in JSON.
	settle(t, newJournal(t, js), s)
	if event := decoded(t, only(t, js, topology.StreamResults)); event.Data.Detail != "" || event.Data.RequestID == "" {
		t.Errorf("detail %.20q, requestId %q", event.Data.Detail, event.Data.RequestID)
	}
}
