package journal

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// settleResults lets a Journal settle the updates from..to, as a relay does.
func settleResults(t *testing.T, j *Journal, from, to int) {
	t.Helper()
	const ahead = 500
	results, open := make(chan error, ahead), 0
	wait := func() {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
		open--
	}
	for n := from; n <= to; n++ {
		if open == ahead {
			wait()
		}
		u := anUpdate(uint64(n))
		u.TraceID, u.Vorgangsnummer = fmt.Sprintf("trace-%d", n), strconv.Itoa(n%5000)
		if !j.Begin(delivered(u), func(err error) { results <- err }) {
			t.Fatalf("result %d was not begun", n)
		}
		open++
	}
	for open > 0 {
		wait()
	}
}

// What a Journal has written is indexed without being read, and the blocks are those that reading gives.
func TestAJournalsOwnResultsAreIndexedAsIfTheyWereRead(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	own, read := j.Index(), NewIndex(js)
	own.own.begin()
	const n = 3*indexSpan + 10
	settleResults(t, j, 1, n)
	state, err := own.state(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for number := range uint64(3) {
		if !own.own.complete(number) {
			t.Errorf("block %d is not complete", number)
		}
		block, err := own.ownBlock(t.Context(), number, state)
		if err != nil || block == nil {
			t.Fatalf("block %d: %v, %v", number, block, err)
		}
		if err := read.read(t.Context(), number, number, state); err != nil {
			t.Fatal(err)
		}
		want, err := read.block(t.Context(), number)
		if err != nil || want == nil {
			t.Fatalf("block %d as it was read: %v, %v", number, want, err)
		}
		if !slices.Equal(block.encode(), want.encode()) {
			t.Errorf("block %d is another one than reading gives", number)
		}
	}
	if own.own.complete(3) {
		t.Error("a block is complete of which most is not there")
	}
}

// Whoever maintains the index while a Journal writes gets every block, whatever others write in between.
func TestAnIndexHasResultsOfAJournalAndOfOthers(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	x := j.Index()
	x.own.begin()
	settleResults(t, j, 1, indexSpan)
	writeResults(t, js, indexSpan+1, indexSpan+5) // Of another process.
	settleResults(t, j, indexSpan+6, 3*indexSpan+10)
	for number, want := range []bool{true, false, true, false} {
		if got := x.own.complete(uint64(number)); got != want {
			t.Errorf("block %d is complete: %t, want %t", number, got, want)
		}
	}
	state, err := x.state(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next := uint64(0)
	if err := x.cover(t.Context(), &next, state); err != nil {
		t.Fatal(err)
	}
	if next != 3 {
		t.Errorf("the next block is %d, want 3", next)
	}
	for _, seq := range []int{1, indexSpan - 1, indexSpan, indexSpan + 3, indexSpan + 6, 2*indexSpan - 1, 2 * indexSpan, 3*indexSpan + 1} {
		for _, id := range []string{fmt.Sprintf("trace-%d", seq), fmt.Sprintf("crm-%d", seq)} {
			found := mustFind(t, x, id)
			if !slices.Equal(seqsOf(found), []uint64{uint64(seq)}) {
				t.Errorf("%s: found %v", id, seqsOf(found))
			}
			if found.Read != 11 {
				t.Errorf("%s: read %d results one by one, want 11", id, found.Read)
			}
		}
	}
}

// A server that was killed may have forgotten acknowledged results: then others lie at their sequences.
func TestABlockWhoseLastResultIsAnotherOneIsRead(t *testing.T) {
	t.Parallel()
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	x := j.Index()
	x.own.begin()
	writeResults(t, js, 1, indexSpan+1)
	for seq := uint64(1); seq < indexSpan; seq++ {
		x.own.stored(&nats.Msg{Header: nats.Header{topology.HeaderUpdateID: {"forgotten"}}},
			jetstream.PubAck{Stream: topology.StreamResults, Sequence: seq})
	}
	if !x.own.complete(0) {
		t.Fatal("the block is not complete")
	}
	state, err := x.state(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next := uint64(0)
	if err := x.cover(t.Context(), &next, state); err != nil {
		t.Fatal(err)
	}
	if found := mustFind(t, x, "trace-5"); found.Read != 2 || !slices.Equal(seqsOf(found), []uint64{5}) {
		t.Errorf("read %d, found %v", found.Read, seqsOf(found))
	}
}

func TestOnlyResultsThatWereStoredAreGathered(t *testing.T) {
	t.Parallel()
	header := nats.Header{topology.HeaderUpdateID: {"crm-1"}, update.HeaderTraceID: {"trace-1"}}
	for name, ack := range map[string]jetstream.PubAck{
		"a duplicate":   {Stream: topology.StreamResults, Sequence: 1, Duplicate: true},
		"a dead letter": {Stream: topology.StreamDeadLetters, Sequence: 1},
	} {
		var own ownResults
		own.begin()
		if own.stored(&nats.Msg{Header: header}, ack); len(own.gathered) != 0 {
			t.Errorf("%s was gathered", name)
		}
	}
	var own ownResults
	ack := jetstream.PubAck{Stream: topology.StreamResults, Sequence: 1}
	if own.stored(&nats.Msg{Header: header}, ack); len(own.gathered) != 0 {
		t.Error("gathered although nobody wants it")
	}
	own.begin()
	for number := range uint64(3 * maxOwn) { // Nobody takes them.
		ack.Sequence = number * indexSpan
		if own.stored(&nats.Msg{Header: header}, ack); len(own.gathered) > maxOwn {
			t.Fatalf("%d blocks are kept", len(own.gathered))
		}
	}
	if own.forget(); len(own.gathered) != 0 {
		t.Errorf("%d blocks are left", len(own.gathered))
	}
	if own.end(); own.gathered != nil {
		t.Error("it gathers on")
	}
}

func TestIDsHaveTheHashesOfEarlierBlocks(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]uint32{"": 0, "a": 0x296230c0, "trace-1": 0x7fe85f91, "KEX_UPDATES-4711": 0x291ab20c} {
		if got := idHash(id); got != want {
			t.Errorf("%q: %#x, want %#x", id, got, want)
		}
	}
}
