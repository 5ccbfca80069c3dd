package journal

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

func TestTheSetKnowsExactlyWhatWasAdded(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	in := map[key]bool{}
	var set settledSet
	for range 5 {
		var part []uint64
		for range 2000 {
			// Few sequences and few times: the same ones come in many pairs.
			k := key{seq: uint64(random.IntN(300)), at: 1795356306123456789 + int64(random.IntN(300))}
			part, in[k] = append(part, k.hash()), true
		}
		set.add(part)
	}
	set.add(nil)
	for seq := range uint64(300) {
		for at := range int64(300) {
			k := key{seq: seq, at: 1795356306123456789 + at}
			if got := set.has(k); got != in[k] {
				t.Fatalf("has(%v) = %v, want %v", k, got, in[k])
			}
		}
	}
	if none := (&settledSet{}); none.has(key{}) {
		t.Error("the empty set has something")
	}
}

// scanAll reads the whole of KEX_RESULTS.
func scanAll(tb testing.TB, js jetstream.JetStream, in resultsRange, bound uint64) settledSet {
	tb.Helper()
	end, err := readResultsEnd(tb.Context(), js)
	if err != nil {
		tb.Fatal(err)
	}
	hashes, err := newResultsReader(js).settled(tb.Context(), in, end, bound)
	if err != nil {
		tb.Fatal(err)
	}
	var set settledSet
	set.add(hashes)
	return set
}

func (s *settledSet) size() int {
	n := 0
	for _, part := range s.parts {
		n += len(part)
	}
	return n
}

func TestOnlySettlementsSettle(t *testing.T) {
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	settle(t, j, delivered(anUpdate(1)))
	settle(t, j, deadLettered(anUpdate(2)))
	settle(t, j, delivered(anUpdate(100))) // Above the bound: of another life of the stream.
	at := storedAt.UnixNano()
	for n, msg := range []nats.Msg{
		{Subject: "kex.result.replayed.123456.kommentare", Header: nats.Header{"Nats-Msg-Id": {"replayed-3-1"}}},
		{Subject: "kex.result.double_booked.123456.kommentare", Header: nats.Header{"Nats-Msg-Id": {fmt.Sprintf("result-4-%d", at)}}},
		{Subject: "kex.result.delivered.123456.kommentare", Header: nats.Header{"Kex-Update-Seq": {"5"}}},
		{Subject: "kex.result.delivered.123456.kommentare", Header: nats.Header{"Nats-Msg-Id": {"6"}}},
		{Subject: "kex.result.delivered.123456.kommentare", Header: nats.Header{"Nats-Msg-Id": {"result-7"}}},
		{Subject: "kex.result.delivered.123456.kommentare", Header: nats.Header{"Nats-Msg-Id": {"result-x-1"}}},
		{Subject: "kex.result.delivered.123456.kommentare", Header: nats.Header{"Nats-Msg-Id": {"result-8-x"}}},
		{Subject: "kex.result.delivered.123456.kommentare"},
	} {
		msg.Data = []byte("{}")
		if _, err := js.PublishMsg(t.Context(), &msg); err != nil {
			t.Fatalf("message %d: %v", n, err)
		}
	}
	set := scanAll(t, js, resultsRange{}, 99)
	for seq := range uint64(110) {
		if got, want := set.has(key{seq: seq, at: at}), seq == 1 || seq == 2; got != want {
			t.Errorf("update %d settled: %v, want %v", seq, got, want)
		}
	}
	if set.size() != 2 {
		t.Errorf("%d in the set, want 2", set.size())
	}
}

func TestAScanOfResultsEndsWhateverIsThere(t *testing.T) {
	js := setUp(t, topology.Options{})
	if set := scanAll(t, js, resultsRange{}, 99); set.size() != 0 {
		t.Errorf("%d of no results", set.size())
	}
	j := newJournal(t, js)
	for seq := range uint64(5) {
		settle(t, j, delivered(anUpdate(seq+1)))
	}
	stream, err := js.Stream(t.Context(), topology.StreamResults)
	if err != nil {
		t.Fatal(err)
	}
	third, err := stream.GetMsg(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		in   resultsRange
		want int
	}{
		"all":             {resultsRange{}, 5},
		"from a sequence": {resultsRange{fromSeq: 4}, 2},
		"from the last":   {resultsRange{fromSeq: 5}, 1},
		"from the end":    {resultsRange{fromSeq: 6}, 0},
		"from a time":     {resultsRange{fromTime: third.Time}, 3},
		"from the future": {resultsRange{fromTime: time.Now().Add(time.Hour)}, 0},
	} {
		if set := scanAll(t, js, test.in, 99); set.size() != test.want {
			t.Errorf("%s: %d, want %d", name, set.size(), test.want)
		}
	}
	// The last ones go while they are being read, or the end was asked of.
	end, err := readResultsEnd(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	for _, seq := range []uint64{4, 5} {
		if err := stream.DeleteMsg(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	if hashes, err := newResultsReader(js).settled(within(t, time.Minute), resultsRange{}, end, 99); err != nil || len(hashes) != 3 {
		t.Errorf("%d results, %v, want 3", len(hashes), err)
	}
	if end, err := readResultsEnd(t.Context(), js); err != nil || end.last != 3 || end.next != 6 {
		t.Errorf("the end is %+v, %v, want 3 and 6", end, err)
	}
}

// A replica that lags gives an end that is none: what the leader had must have come.
func TestAScanOfResultsWaitsForTheLeadersLast(t *testing.T) {
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	settle(t, j, delivered(anUpdate(1)))
	end, err := readResultsEnd(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	end.last += 2 // As a leader says that is ahead of the one that answers the scan.
	reader := newResultsReader(js)
	asked := 0
	reader.askEnd = func(context.Context) (resultsEnd, error) {
		if asked++; asked > 1 && asked < 4 {
			settle(t, j, delivered(anUpdate(uint64(asked)))) //nolint:contextcheck // The test has its own.
		}
		return end, nil
	}
	hashes, err := reader.settled(within(t, time.Minute), resultsRange{}, end, 99)
	if err != nil || len(hashes) != 3 {
		t.Errorf("%d results, %v, want 3", len(hashes), err)
	}
}

// fillResults publishes n results of updates 1 to n, with the headers that results have.
func fillResults(tb testing.TB, js jetstream.JetStream, n int) {
	tb.Helper()
	template := (&Journal{cfg: Config{Source: source}}).settlementEvent(delivered(anUpdate(1)), 0)
	publisher, err := jetstream.New(js.Conn(), jetstream.WithPublishAsyncMaxPending(4000))
	if err != nil {
		tb.Fatal(err)
	}
	for i := range n {
		template.ID = "result-" + Identity(uint64(i+1), storedAt)
		msg, err := template.message()
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := publisher.PublishMsgAsync(msg, jetstream.WithStallWait(time.Minute)); err != nil {
			tb.Fatal(err)
		}
	}
	select {
	case <-publisher.PublishAsyncComplete():
	case <-time.After(time.Minute):
		tb.Fatal("results were not stored")
	}
	publisher.CleanupPublisher()
	if state := streamState(tb, js, topology.StreamResults); state.Msgs != uint64(n) {
		tb.Fatalf("%d results stored, want %d", state.Msgs, n)
	}
}

// heap is what is in use after a collection.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestManyResultsTakeLittleMemory(t *testing.T) {
	const n = 20_000
	js := setUp(t, topology.Options{})
	fillResults(t, js, n)
	set := scanAll(t, js, resultsRange{}, n)
	if set.size() != n || len(set.parts) != 1 || cap(set.parts[0]) != n {
		t.Errorf("%d in the set, room for %d, want %d in exactly that", set.size(), cap(set.parts[0]), n)
	}
	if !slices.IsSorted(set.parts[0]) {
		t.Error("not sorted")
	}
	for seq := range uint64(n) {
		if !set.has(key{seq: seq + 1, at: storedAt.UnixNano()}) {
			t.Fatalf("update %d is missing", seq+1)
		}
	}
}

// BenchmarkReadSettled is a start with 200,000 results since the oldest waiting update.
func BenchmarkReadSettled(b *testing.B) {
	const n = 200_000
	js := setUp(b, topology.Options{})
	fillResults(b, js, n)
	b.ReportAllocs()
	before := heap()
	var set settledSet
	for b.Loop() {
		set = scanAll(b, js, resultsRange{}, n)
	}
	b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "results/s")
	b.ReportMetric(float64(heap()-before)/n, "bytes/result")
	if set.size() != n {
		b.Errorf("%d in the set, want %d", set.size(), n)
	}
}

func BenchmarkSettledHas(b *testing.B) {
	var part []uint64
	for seq := range uint64(1_000_000) {
		part = append(part, key{seq: seq, at: int64(seq)}.hash())
	}
	var set settledSet
	set.add(part)
	seq := uint64(0)
	for b.Loop() {
		if !set.has(key{seq: seq, at: int64(seq)}) {
			b.Fatal("missing")
		}
		seq = (seq + 7919) % 1_000_000
	}
}
