package journal

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

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
		if _, err := js.Publish(t.Context(), "s.x", fmt.Appendf(nil, "m-%d", i)); err != nil {
			t.Fatal(err)
		}
	}
}

// read reads a scan; at is called with the count after each message.
func read(t *testing.T, js jetstream.JetStream, scan Scan, at func(n int) (more bool)) []string {
	t.Helper()
	var all []string
	for msg, err := range scan.Messages(within(t, 30*time.Second), js) {
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
	js := setUp(t, topology.Options{})
	stream := fill(t, js, 20)
	all := read(t, js, Scan{Stream: "S", Batch: 1}, func(n int) bool {
		if n == 10 {
			for seq := uint64(13); seq <= 20; seq++ {
				if err := stream.DeleteMsg(t.Context(), seq); err != nil {
					t.Fatal(err)
				}
			}
		}
		return true
	})
	if len(all) < 10 || len(all) > 13 { // One or two more were on their way.
		t.Errorf("%d messages, want 10 to 13", len(all))
	}
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
	for _, err := range (Scan{Stream: "S", Follow: true}).Messages(within(t, 30*time.Second), js) {
		if last = err; err == nil {
			if err := js.DeleteStream(t.Context(), "S"); err != nil && err != jetstream.ErrStreamNotFound { //nolint:errorlint // Exactly this.
				t.Fatal(err)
			}
		}
	}
	if last == nil || within(t, time.Second).Err() != nil {
		t.Errorf("it ends with %v", last)
	}
}
