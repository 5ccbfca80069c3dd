package journal

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// writeResults writes results of updates from..to (both included), as a relay would, without waiting for each.
func writeResults(tb testing.TB, js jetstream.JetStream, from, to int) {
	tb.Helper()
	j := newJournal(tb, js)
	for n := from; n <= to; n++ {
		u := anUpdate(uint64(n))
		u.TraceID, u.Vorgangsnummer = fmt.Sprintf("trace-%d", n), strconv.Itoa(n%5000)
		event := j.settlementEvent(delivered(u), 0)
		msg, err := event.message()
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := js.PublishMsgAsync(msg, jetstream.WithStallWait(time.Minute)); err != nil {
			tb.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-tb.Context().Done():
		tb.Fatal("the results were not stored")
	}
}

// maintainTo maintains the index until so many blocks are there.
func maintainTo(tb testing.TB, x *Index, blocks int) {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	var work sync.WaitGroup
	work.Go(func() { x.Maintain(ctx, slog.New(slog.DiscardHandler)) })
	defer work.Wait()
	defer cancel()
	for {
		numbers, err := x.numbers(tb.Context())
		if err != nil {
			tb.Fatal(err)
		}
		if len(numbers) >= blocks {
			return
		}
		pause(tb.Context(), 10*time.Millisecond)
	}
}

func mustFind(tb testing.TB, x *Index, ids ...string) Found {
	tb.Helper()
	found, err := x.Find(tb.Context(), ids, nil)
	if err != nil {
		tb.Fatalf("Find %v: %v", ids, err)
	}
	return found
}

func seqsOf(found Found) []uint64 {
	var seqs []uint64
	for _, e := range found.Events {
		seqs = append(seqs, e.Seq)
	}
	return seqs
}

func TestAResultIsFoundByItsTraceAndUpdateIDWithAndWithoutAnIndex(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	x := NewIndex(js)
	const n = 2*indexSpan + 100
	writeResults(t, js, 1, n)
	look := func(wantRead uint64) {
		t.Helper()
		for _, seq := range []int{1, indexSpan - 1, indexSpan, indexSpan + 1, 2*indexSpan - 1, 2 * indexSpan, n} {
			for _, id := range []string{fmt.Sprintf("trace-%d", seq), fmt.Sprintf("crm-%d", seq)} {
				found := mustFind(t, x, id)
				if !slices.Equal(seqsOf(found), []uint64{uint64(seq)}) {
					t.Errorf("%s: found %v", id, seqsOf(found))
				}
				if found.Read != wantRead || found.Results != n {
					t.Errorf("%s: read %d of %d results one by one, want %d", id, found.Read, found.Results, wantRead)
				}
			}
		}
		if found := mustFind(t, x, "trace-0", "nobody"); len(found.Events) != 0 || found.Since.IsZero() {
			t.Errorf("unknown: %+v", found)
		}
	}
	look(n)
	maintainTo(t, x, 2)
	look(n - 2*indexSpan + 1)
}

func TestAnIndexGoesOnWhereTheLastOneEnded(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	x := NewIndex(js)
	writeResults(t, js, 1, indexSpan+10)
	maintainTo(t, x, 1)
	first, err := x.block(t.Context(), 0)
	if err != nil || first == nil {
		t.Fatalf("block 0: %v, %v", first, err)
	}
	writeResults(t, js, indexSpan+11, 2*indexSpan+10)
	maintainTo(t, NewIndex(js), 2)
	info, err := mustControl(t, js).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.State.LastSeq != 2 {
		t.Errorf("%d blocks were written, want 2", info.State.LastSeq)
	}
	if found := mustFind(t, x, fmt.Sprintf("trace-%d", indexSpan+5)); len(found.Events) != 1 {
		t.Errorf("found %v", found.Events)
	}
}

func mustControl(t *testing.T, js jetstream.JetStream) jetstream.Stream {
	t.Helper()
	stream, err := js.Stream(t.Context(), controlStream)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// Results of another stream of the same name lie at the same sequences.
func TestAnIndexOfAnotherStreamIsNotBelievedAndIsReplaced(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	x := NewIndex(js)
	writeResults(t, js, 1, indexSpan+10)
	maintainTo(t, x, 1)
	if err := js.DeleteStream(t.Context(), topology.StreamResults); err != nil {
		t.Fatal(err)
	}
	if _, err := topology.Setup(t.Context(), js, topology.Options{}); err != nil {
		t.Fatal(err)
	}
	writeResults(t, js, 100_001, 100_000+indexSpan+10)
	x = NewIndex(js)
	if found := mustFind(t, x, "trace-100005"); !slices.Equal(seqsOf(found), []uint64{5}) {
		t.Errorf("found %v with the old stream's index", seqsOf(found))
	}
	old, err := x.block(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	state, err := x.state(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.prepare(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	if now, err := x.block(t.Context(), 0); err != nil || now != nil {
		t.Errorf("the old block is still there: %v, %v", now, err)
	}
	if ok, err := x.good(t.Context(), old, state); err != nil || ok {
		t.Errorf("the old block is believed: %v", err)
	}
}

// A stream restored from an older backup has the same creation and other results at the sequences behind the backup.
func TestAnIndexOfResultsThatWereRestoredDifferentlyIsNotBelieved(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	x := NewIndex(js)
	writeResults(t, js, 1, indexSpan+10)
	maintainTo(t, x, 1)
	block, err := x.block(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	state, err := x.state(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := x.good(t.Context(), block, state); err != nil || !ok {
		t.Fatalf("the block as it was written is not believed: %v", err)
	}
	block.lastAt++
	if _, err := js.Publish(t.Context(), controlSubject(block.key()), block.encode()); err != nil {
		t.Fatal(err)
	}
	if found := mustFind(t, x, "trace-5"); found.Read != indexSpan+10 || len(found.Events) != 1 {
		t.Errorf("read %d, found %d", found.Read, len(found.Events))
	}
}

func TestBlocksOfExpiredResultsAreRemoved(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	x := NewIndex(js)
	writeResults(t, js, 1, 2*indexSpan+10)
	maintainTo(t, x, 2)
	results, err := js.Stream(t.Context(), topology.StreamResults)
	if err != nil {
		t.Fatal(err)
	}
	if err := results.Purge(t.Context(), jetstream.WithPurgeSequence(indexSpan)); err != nil {
		t.Fatal(err)
	}
	writeResults(t, js, 2*indexSpan+11, 3*indexSpan+10)
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { x.Maintain(ctx, slog.New(slog.DiscardHandler)) })
	defer work.Wait()
	defer cancel()
	for {
		numbers, err := x.numbers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if slices.Equal(numbers, []uint64{1, 2}) {
			return
		}
		pause(t.Context(), 10*time.Millisecond)
	}
}

// What others publish to our subjects, or write into the bucket, must not be taken for results or blocks.
func TestMessagesOfOthersAreNotFound(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	x := NewIndex(js)
	for _, msg := range []*nats.Msg{
		{Subject: "kex.result.delivered.1.dokument", Header: nats.Header{update.HeaderTraceID: {"theirs"}}, Data: []byte("no event")},
		{Subject: controlSubject(indexPrefix + "0"), Data: []byte("no block")},
		{Subject: controlSubject(indexPrefix + "99999999999999999999"), Data: make([]byte, indexSize)},
	} {
		if _, err := js.PublishMsg(t.Context(), msg); err != nil {
			t.Fatal(err)
		}
	}
	writeResults(t, js, 1, 3)
	if found := mustFind(t, x, "trace-2"); !slices.Equal(seqsOf(found), []uint64{3}) {
		t.Errorf("found %v", seqsOf(found))
	}
}

func TestARequestsTraceIDStandsForItsUpdates(t *testing.T) {
	t.Parallel()
	for id, want := range map[string][]string{
		"sys1":      {"sys1"},
		"sys1-2":    {"sys1-2", "sys1"},
		"sys1-r1":   {"sys1-r1", "sys1"},
		"sys1-r1-2": {"sys1-r1-2", "sys1-r1", "sys1"},
		"sys1-02":   {"sys1-02"},
		"sys1-":     {"sys1-"},
		"-2":        {"-2"},
		"a-b-3":     {"a-b-3", "a-b"},
	} {
		if got := RequestIDs(id); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", id, got, want)
		}
	}
}

// How long it takes to find a trace among a million results: b.N looks after the index was written.
func BenchmarkFindAmongAMillionResults(b *testing.B) {
	js := setUp(b, topology.Options{})
	const n = 1_000_000
	begin := time.Now()
	writeResults(b, js, 1, n)
	b.Logf("%d results written in %s", n, time.Since(begin).Round(time.Second))
	x := NewIndex(js)
	begin = time.Now()
	mustFind(b, x, "trace-500000")
	b.Logf("found without an index in %s", time.Since(begin).Round(time.Millisecond))
	begin = time.Now()
	maintainTo(b, x, n/indexSpan)
	b.Logf("index written in %s", time.Since(begin).Round(time.Second))
	for b.Loop() {
		if found := mustFind(b, x, "trace-500000"); len(found.Events) != 1 {
			b.Fatalf("found %d", len(found.Events))
		}
		if found := mustFind(b, x, "unknown"); len(found.Events) != 0 {
			b.Fatalf("found %d", len(found.Events))
		}
	}
}
