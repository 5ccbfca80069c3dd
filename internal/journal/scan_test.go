package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
)

// fill publishes n messages m-1, m-2, … into a new stream S and gives a handle of it.
func fill(t *testing.T, js jetstream.JetStream, n int) jetstream.Stream {
	t.Helper()
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, js, 1, n)
	return stream
}

func publish(t *testing.T, js jetstream.JetStream, first, last int) {
	t.Helper()
	for i := first; i <= last; i++ {
		if _, err := js.PublishAsync("s.x", fmt.Appendf(nil, "m-%d", i), jetstream.WithStallWait(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-within(t, 2*time.Minute).Done():
		t.Fatal("no answer to the publishes")
	}
}

// read reads a scan; at is called with the count after each message.
func read(t *testing.T, js jetstream.JetStream, scan Scan, at func(n int) (more bool)) []string {
	t.Helper()
	var all []string
	for msg, err := range scan.Messages(within(t, 2*time.Minute), js) {
		if err != nil {
			t.Fatalf("after %d messages: %v", len(all), err)
		}
		all = append(all, string(msg.Data()))
		if !at(len(all)) {
			break
		}
	}
	return all
}

func wantCount(t *testing.T, all []string, first, last int) {
	t.Helper()
	for i, text := range all {
		if text != fmt.Sprintf("m-%d", first+i) {
			t.Fatalf("message %d is %s, want m-%d", i, text, first+i)
		}
	}
	if len(all) != last-first+1 {
		t.Errorf("%d messages, want %d", len(all), last-first+1)
	}
}

func deleteConsumers(t *testing.T, stream jetstream.Stream) {
	t.Helper()
	names := stream.ConsumerNames(t.Context())
	for name := range names.Name() {
		if err := stream.DeleteConsumer(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := names.Err(); err != nil {
		t.Fatal(err)
	}
}

func TestAScanOutlivesItsConsumer(t *testing.T) {
	t.Parallel()
	for _, follow := range []bool{false, true} {
		t.Run(fmt.Sprintf("follow %v", follow), func(t *testing.T) {
			js := setUp(t, topology.Options{})
			stream := fill(t, js, 100)
			// A batch of 1: nothing of the rest is here already when the consumer goes.
			all := read(t, js, Scan{Stream: "S", Batch: 1, Follow: follow}, func(n int) bool {
				if n == 10 || n == 50 {
					deleteConsumers(t, stream)
				}
				return n < 100
			})
			wantCount(t, all, 1, 100)
		})
	}
}

func TestAScanEndsWhereThePastEnds(t *testing.T) {
	tests := map[string]struct {
		scan        Scan
		first, last int
	}{
		"all":               {Scan{}, 1, 20},
		"from":              {Scan{FromSeq: 5}, 5, 20},
		"to":                {Scan{ToSeq: 7}, 1, 7},
		"one":               {Scan{FromSeq: 20, ToSeq: 20}, 20, 20},
		"behind the end":    {Scan{FromSeq: 21}, 1, 0},
		"from the future":   {Scan{FromTime: time.Now().Add(time.Hour)}, 1, 0},
		"other subject":     {Scan{Filters: []string{"s.y"}}, 1, 0},
		"several subjects":  {Scan{Filters: []string{"s.y", "s.x"}}, 1, 20},
		"to before a gap":   {Scan{FromSeq: 3, ToSeq: 3}, 3, 3},
		"small batches":     {Scan{Batch: 1}, 1, 20},
		"from before times": {Scan{FromTime: time.Now().Add(-time.Hour)}, 1, 20},
	}
	js := setUp(t, topology.Options{})
	fill(t, js, 20)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.scan.Stream = "S"
			begin := time.Now()
			wantCount(t, read(t, js, test.scan, func(int) bool { return true }), test.first, test.last)
			if took := time.Since(begin); took > scanIdle && test.scan.Batch == 0 {
				t.Errorf("it took %s: the end was not known", took)
			}
		})
	}
}

func TestAScanDoesNotWaitForWhatWasDeleted(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	stream := fill(t, js, 20)
	// A batch of 1: the eleventh is asked for only after it is gone, and the tenth said that more are pending.
	all := read(t, js, Scan{Stream: "S", Batch: 1}, func(n int) bool {
		for seq := uint64(11); n == 10 && seq <= 20; seq++ {
			if err := stream.DeleteMsg(t.Context(), seq); err != nil {
				t.Fatal(err)
			}
		}
		return true
	})
	wantCount(t, all, 1, 10)
}

// numbered is a message with its place among those of its consumer.
type numbered struct {
	jetstream.Msg
	meta jetstream.MsgMetadata
}

func (n numbered) Metadata() (*jetstream.MsgMetadata, error) { return &n.meta, nil }

func TestAMessageThatDidNotArriveIsNoticed(t *testing.T) {
	given := 0
	r := &reading{take: func(jetstream.Msg, *jetstream.MsgMetadata) bool { given++; return true }}
	message := func(consumer, stream uint64) numbered {
		return numbered{meta: jetstream.MsgMetadata{Sequence: jetstream.SequencePair{Consumer: consumer, Stream: stream}, NumPending: 5}}
	}
	if more, err := r.give(message(1, 10), 1); !more || err != nil {
		t.Errorf("the first: %v, %v", more, err)
	}
	if _, err := r.give(message(3, 14), 2); !errors.Is(err, errLost) {
		t.Errorf("the third instead of the second: %v", err)
	}
	if given != 1 || r.last != 10 {
		t.Errorf("%d given up to %d; want to go on behind the first", given, r.last)
	}
}

func TestAScanMissesAndRepeatsNothingThroughReconnects(t *testing.T) {
	js := setUp(t, topology.Options{})
	const n = 3000
	fill(t, js, n)
	all := read(t, js, Scan{Stream: "S"}, func(n int) bool {
		if n%300 == 0 {
			if err := js.Conn().ForceReconnect(); err != nil {
				t.Fatal(err)
			}
		}
		return true
	})
	wantCount(t, all, 1, n)
}

func TestWhatComesDuringAScanOfThePastIsNotPartOfIt(t *testing.T) {
	js := setUp(t, topology.Options{})
	fill(t, js, 20)
	all := read(t, js, Scan{Stream: "S", ToSeq: 20, Batch: 5}, func(n int) bool {
		publish(t, js, 20+n, 20+n)
		return true
	})
	wantCount(t, all, 1, 20)
}

func TestAScanEndsWithItsStream(t *testing.T) {
	js := setUp(t, topology.Options{})
	fill(t, js, 3)
	var last error
	for _, err := range (Scan{Stream: "S", Follow: true}).Messages(within(t, 2*time.Minute), js) {
		if last = err; err == nil {
			if err := js.DeleteStream(t.Context(), "S"); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
				t.Fatal(err)
			}
		}
	}
	if last == nil || within(t, time.Second).Err() != nil {
		t.Errorf("it ends with %v", last)
	}
}

// Many short readers leave more consumers behind than a stream may have: the next one waits until they are forgotten.
func TestAScanWaitsForRoomForItsConsumer(t *testing.T) {
	t.Parallel()
	js := connect(t, embeddedtest.Run(t).URL())
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, MaxConsumers: 1})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, js, 1, 3)
	if _, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{InactiveThreshold: 2 * time.Second}); err != nil {
		t.Fatal(err)
	}
	wantCount(t, read(t, js, Scan{Stream: "S"}, func(int) bool { return true }), 1, 3)
}

// A cluster that is just electing leaves the request for a consumer, or refuses it; whoever leads then must be asked
// anew, and all its requests are for one and the same consumer.
func TestAScanBeginsAsSoonAsThereIsALeader(t *testing.T) {
	t.Parallel()
	js := connect(t, embeddedtest.Run(t).URL())
	stream := fill(t, js, 3)
	var asked atomic.Int64
	if _, err := js.Conn().Subscribe("electing.>", func(m *nats.Msg) {
		subject := strings.TrimPrefix(m.Subject, "electing.")
		if strings.HasPrefix(subject, "CONSUMER.CREATE.") {
			switch asked.Add(1) {
			case 1:
				return
			case 2:
				_ = m.Respond([]byte(`{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`))
				return
			case 3: // Its answer comes too late.
				m.Reply = js.Conn().NewInbox()
			}
		}
		_ = js.Conn().PublishRequest("$JS.API."+subject, m.Reply, m.Data)
	}); err != nil {
		t.Fatal(err)
	}
	electing, err := jetstream.NewWithAPIPrefix(js.Conn(), "electing")
	if err != nil {
		t.Fatal(err)
	}
	wantCount(t, read(t, electing, Scan{Stream: "S"}, func(int) bool { return true }), 1, 3)
	if info, err := stream.Info(t.Context()); err != nil || info.State.Consumers != 1 {
		t.Errorf("%d consumers, %v", info.State.Consumers, err)
	}
}

// deafServer is a JetStream of which one server has just died: consumers of the first name asked for are given to it, and
// whoever asks for them is not answered.
type deafServer struct {
	jetstream.JetStream

	mu    sync.Mutex
	first string
	asked map[string]int
}

func (d *deafServer) CreateConsumer(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	d.mu.Lock()
	if d.first == "" {
		d.first = cfg.Name
	}
	d.asked[cfg.Name]++
	deaf := cfg.Name == d.first
	d.mu.Unlock()
	if deaf {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return d.JetStream.CreateConsumer(ctx, stream, cfg)
}

// A consumer that a cluster has given to a dead server is not waited for until that server is back: another one is asked
// for. By one name it is asked for more than once, so that an answer that was lost leaves no consumer behind.
func TestAConsumerOfADeadServerIsGivenUp(t *testing.T) {
	t.Parallel()
	js := connect(t, embeddedtest.Run(t).URL())
	fill(t, js, 5)
	d := &deafServer{JetStream: js, asked: map[string]int{}}
	begin := time.Now()
	wantCount(t, read(t, d, Scan{Stream: "S"}, func(int) bool { return true }), 1, 5)
	if took := time.Since(begin); took < scanAnew || took > 2*callTimeout {
		t.Errorf("read after %v, want it soon after %v", took, scanAnew)
	}
	if n := d.asked[d.first]; n < 2 {
		t.Errorf("asked for %d times by the first name", n)
	}
	if len(d.asked) != 2 {
		t.Errorf("%d names", len(d.asked))
	}
}
