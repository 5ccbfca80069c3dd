package integration

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"kexrelay/internal/journal"
	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// taken is what became of each try to take an update back, by its sequence.
type taken struct {
	mu   sync.Mutex
	errs map[uint64]error
}

// cancelEach takes back every other update, several at a time, as operators would.
func (s *system) cancelEach(seqs []uint64) *taken {
	publisher := journal.NewPublisher(s.js, journal.PublisherConfig{})
	s.t.Cleanup(publisher.Close)
	auditor := journal.NewAuditor(s.js, publisher, journal.Actor{OSUser: "test"})
	out := &taken{errs: map[uint64]error{}}
	var operators sync.WaitGroup
	places := make(chan struct{}, 4)
	for i, seq := range seqs {
		if i%2 == 0 {
			continue
		}
		operators.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			_, err := journal.Cancel(s.t.Context(), s.js, journal.Cancellation{
				Seq: seq, Reason: "a test", Source: "urn:kexrelay:test", Name: "test", Auditor: auditor,
			})
			out.mu.Lock()
			defer out.mu.Unlock()
			out.errs[seq] = err
		})
	}
	operators.Wait()
	return out
}

// Updates are taken back while a relay sends, while it is stopped and another one goes on: each is booked or discarded,
// never both, each result is there once, and whoever was told that an update is taken back was told the truth.
func TestAnUpdateIsTakenBackOrSentNeverBoth(t *testing.T) {
	t.Parallel()
	const updates, vorgaenge = 240, 40
	s := newSystem(t, simulator.Script{
		Latency: simulator.Fixed(20 * time.Millisecond),
		Faults:  []simulator.Fault{{Rate: 0.2, Answer: simulator.Answer{Status: 503}}},
	})
	settings := []string{"KEXRELAY_CONCURRENCY=4", "KEXRELAY_RETRY_INITIAL=200ms", "KEXRELAY_RETRY_MAX_INTERVAL=1s"}
	s.serve(settings...)
	var seqs []uint64
	order := map[string][]string{}
	for i := range updates {
		vorgang := strconv.Itoa(100000 + i%vorgaenge)
		body := fmt.Sprintf(`["update %d"]`, i)
		ack := s.publish(update.SubjectPrefix+vorgang+".kommentare", body, map[string]string{"Nats-Msg-Id": "crm-" + strconv.Itoa(i)})
		seqs = append(seqs, ack.Sequence)
		order[vorgang] = append(order[vorgang], body)
	}
	first := s.relay
	handedOver := make(chan struct{})
	go func() {
		defer close(handedOver)
		eventually(t, 30*time.Second, "some were taken back", func() bool { return s.count(topology.StreamAudit) > 20 })
		s.serve(settings...)
		first.terminate(t, 30*time.Second)
	}()
	back := s.cancelEach(seqs)
	<-handedOver
	s.drained(2 * time.Minute)

	booked := map[string]int{}
	for vorgang, bodies := range order {
		at := 0
		for _, b := range s.api.Bookings(vorgang) {
			booked[string(b.Body)]++
			for at < len(bodies) && bodies[at] != string(b.Body) {
				at++
			}
			if at == len(bodies) {
				t.Errorf("Vorgang %s: %s is out of order", vorgang, b.Body)
			}
		}
	}
	ended := map[uint64][]update.Outcome{}
	for _, e := range s.results() {
		ended[e.Data.UpdateSeq] = append(ended[e.Data.UpdateSeq], e.Data.Outcome)
	}
	discarded := 0
	for i, seq := range seqs {
		n := booked[fmt.Sprintf(`["update %d"]`, i)]
		if len(ended[seq]) != 1 {
			t.Fatalf("update %d has the results %v", seq, ended[seq])
		}
		want := 1
		if ended[seq][0] == update.Discarded {
			discarded++
			want = 0
		}
		if n != want {
			t.Errorf("update %d is %s and booked %d times", seq, ended[seq][0], n)
		}
		if err, asked := back.errs[seq]; asked && err == nil && want != 0 {
			t.Errorf("update %d was said to be taken back and is %s", seq, ended[seq][0])
		} else if !asked && want != 1 {
			t.Errorf("update %d is discarded and nobody asked for it", seq)
		} else if err != nil && want == 0 && !errors.Is(err, journal.ErrCancelUnknown) {
			t.Errorf("update %d was said not to be taken back and is discarded: %v", seq, err)
		}
	}
	t.Logf("%d taken back, %d booked", discarded, len(booked))
	if discarded == 0 || discarded == updates/2 {
		t.Errorf("%d taken back of %d tries: the test proves nothing", discarded, updates/2)
	}
}
