//go:build integration

package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/journal"
	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// The worst case: the oldest waiting update is older than all the results, so that a start reads every one of them,
// and all of them are of sequences that might still be waiting.
func TestAStartWithAMillionResultsIsReadyInTenSecondsAndStaysSmall(t *testing.T) {
	const (
		kept       = 1_000_000
		waiting    = 300
		settled    = 100 // Of those that wait: their results are there, their acks are not.
		readyLimit = 10 * time.Second
		growth     = 32 << 20
	)
	s := newSystem(t, simulator.Script{})
	stream, err := s.js.Stream(t.Context(), topology.StreamUpdates)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(kept+1)); err != nil {
		t.Fatal(err)
	}
	publish := func() (acks []*jetstream.PubAck) {
		for i := range waiting {
			acks = append(acks, s.publish(fmt.Sprintf("kex.vorgang.%d.kommentare", 1+i), `["Testkommentar"]`, nil))
		}
		return acks
	}

	publish()
	empty := s.start(t, waiting)
	s.relay.terminate(t, 40*time.Second)

	acks := publish()
	if acks[0].Sequence <= kept {
		t.Fatalf("the first update that waits is %d, want one above %d", acks[0].Sequence, kept)
	}
	began := time.Now()
	fill := newResultFill(t, s)
	for i := range settled {
		msg, err := stream.GetMsg(t.Context(), acks[3*i].Sequence)
		if err != nil {
			t.Fatal(err)
		}
		fill.add(1+3*i, msg.Sequence, msg.Time)
	}
	for seq := range uint64(kept) {
		fill.add(int(seq%100_000), seq+1, began.Add(-time.Hour).Add(time.Duration(seq)))
	}
	fill.wait()
	t.Logf("%d results written in %.1f s", s.count(topology.StreamResults), time.Since(began).Seconds())

	full := s.start(t, 2*waiting-settled)
	t.Logf("no results:  %v", empty)
	t.Logf("all results: %v", full)
	if full.ready > readyLimit {
		t.Errorf("ready after %v, want less than %v on two cores of one's own", full.ready, readyLimit)
	}
	if full.peak-empty.peak > growth {
		t.Errorf("peak resident memory grew by %d bytes, want less than %d", full.peak-empty.peak, growth)
	}

	// The relay keeps an index of them: any one is found at once, and so is that there is none.
	eventually(t, 2*time.Minute, "nearly all results are in the index", func() bool {
		out, errs, code := runProgram(t, s.natsEnv(), nil, programs.kexrelay, "trace", "nosuch", "--json")
		var story struct {
			Looked struct {
				Results     int `json:"results"`
				ResultsRead int `json:"resultsRead"`
			} `json:"looked"`
		}
		if err := json.Unmarshal([]byte(out), &story); err != nil || code != 1 || story.Looked.Results < kept {
			t.Fatalf("trace of something unknown: exit code %d, %v\n%s%s", code, err, out, errs)
		}
		return story.Looked.ResultsRead < kept/20
	})
	for _, id := range []string{"KEX_UPDATES-4711", "KEX_UPDATES-999999"} {
		if m := s.measure("trace", id, "--json"); m.lines != 1 || m.cpu > 2*time.Second || m.peak > commandMemory {
			t.Errorf("trace %s: %v, want one line, and at most 2 s of CPU and %d bytes", id, m, commandMemory)
		}
	}
}

// started is what a start showed.
type started struct {
	ready time.Duration // From the process's start until the partition was taken over.
	peak  int64         // Bytes of resident memory, until all that waited was settled.
	// CPU seconds of the relay and of the server until then: on a machine with others these say more.
	own, server float64
}

func (r started) String() string {
	return fmt.Sprintf("ready after %.2f s, own CPU %.2f s, server CPU %.2f s, peak resident memory %.1f MB",
		r.ready.Seconds(), r.own, r.server, float64(r.peak)/1e6)
}

// start starts the relay and waits until all that waits is settled and the API has booked so many updates in all.
func (s *system) start(t *testing.T, booked int) started {
	t.Helper()
	began, server := time.Now(), cpuSeconds(t, s.nats.cmd.Process.Pid)
	s.serve("KEXRELAY_LOG_LEVEL=info")
	var r started
	eventually(t, time.Minute, "the partition is taken over", func() bool {
		return strings.Contains(s.relay.output.String(), "partition taken over")
	})
	r.ready = time.Since(began)
	r.own, r.server = cpuSeconds(t, s.relay.cmd.Process.Pid), cpuSeconds(t, s.nats.cmd.Process.Pid)-server
	s.drained(time.Minute)
	if n := s.api.Counts().Booked; n != booked {
		t.Errorf("%d updates were booked, want %d: one that has a result must not be booked again", n, booked)
	}
	r.peak = peakBytes(t, s.relay.cmd.Process.Pid)
	return r
}

// resultFill writes results as the relay does: its own last one, with another identity.
type resultFill struct {
	t        *testing.T
	js       jetstream.JetStream
	config   jetstream.StreamConfig // To be set back.
	template *jetstream.RawStreamMsg
	seq, at  []byte // What stands for the identity in the template's body.
}

func newResultFill(t *testing.T, s *system) *resultFill {
	t.Helper()
	stream, err := s.js.Stream(t.Context(), topology.StreamResults)
	if err != nil {
		t.Fatal(err)
	}
	// As if they came over a month: a server that must tell repeats of a million just now has other troubles.
	cfg := stream.CachedInfo().Config
	f := &resultFill{t: t, config: cfg}
	cfg.Duplicates = 100 * time.Millisecond
	if _, err := s.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if f.template, err = stream.GetLastMsgForSubject(t.Context(), topology.ResultSubject(update.Delivered, "*", "*")); err != nil {
		t.Fatal(err)
	}
	var event journal.Event
	if err := json.Unmarshal(f.template.Data, &event); err != nil {
		t.Fatal(err)
	}
	f.seq = strconv.AppendUint(nil, event.Data.UpdateSeq, 10)
	f.at = strconv.AppendInt(nil, event.Data.ReceivedAt.UnixNano(), 10)
	if id := "result-" + string(f.seq) + "-" + string(f.at); event.ID != id {
		t.Fatalf("the result's ID is %q, want %q", event.ID, id)
	}
	if f.js, err = jetstream.New(s.nc, jetstream.WithPublishAsyncMaxPending(4000)); err != nil {
		t.Fatal(err)
	}
	return f
}

// add writes the result of a Vorgang's update, without waiting.
func (f *resultFill) add(vorgang int, seq uint64, at time.Time) {
	number, nanos := strconv.FormatUint(seq, 10), strconv.FormatInt(at.UnixNano(), 10)
	m := nats.NewMsg(topology.ResultSubject(update.Delivered, strconv.Itoa(vorgang), update.Comments))
	maps.Copy(m.Header, f.template.Header)
	m.Header[jetstream.MsgIDHeader] = []string{"result-" + number + "-" + nanos}
	m.Header[topology.HeaderUpdateID] = []string{topology.StreamUpdates + "-" + number}
	m.Header[topology.HeaderUpdateSeq] = []string{number}
	m.Header[topology.HeaderUpdateAt] = []string{at.UTC().Format(time.RFC3339Nano)}
	m.Data = bytes.ReplaceAll(bytes.ReplaceAll(f.template.Data, f.seq, []byte(number)), f.at, []byte(nanos))
	if _, err := f.js.PublishMsgAsync(m, jetstream.WithStallWait(time.Minute)); err != nil {
		f.t.Fatal(err)
	}
}

// wait waits until all of them are acknowledged.
func (f *resultFill) wait() {
	f.t.Helper()
	select {
	case <-f.js.PublishAsyncComplete():
	case <-time.After(time.Minute):
		f.t.Fatal("the last results were not acknowledged within a minute")
	}
	if _, err := f.js.UpdateStream(f.t.Context(), f.config); err != nil {
		f.t.Fatal(err)
	}
}
