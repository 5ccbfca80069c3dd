package integration

import (
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"kexrelay/internal/topology"
)

// pace publishes the load at a steady rate and gives the times from just before an update is published until a
// subscriber has its result event, sorted.
func (s *benchSystem) pace(c contestant, k benchCase) []time.Duration {
	s.tb.Helper()
	var (
		mu    sync.Mutex
		sent  = make(map[string]time.Time, k.load.updates)
		times = make([]time.Duration, 0, k.load.updates)
	)
	done := make(chan struct{})
	sub, err := s.nc.Subscribe(c.prefix+".result.>", func(m *nats.Msg) {
		now := time.Now()
		mu.Lock()
		defer mu.Unlock()
		if at, ok := sent[m.Header.Get(topology.HeaderUpdateID)]; ok {
			if times = append(times, now.Sub(at)); len(times) == k.load.updates {
				close(done)
			}
		}
	})
	s.must(err)
	s.must(s.nc.Flush())
	defer sub.Unsubscribe() //nolint:errcheck // The connection goes with the benchmark.
	body, began := k.load.body(), time.Now()
	run := strconv.FormatInt(began.UnixNano(), 36) + "-"
	for i := range k.load.updates {
		time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(k.Rate))))
		m := nats.NewMsg(k.load.subject(c.prefix, i))
		m.Data = body
		id := run + strconv.Itoa(i)
		m.Header[nats.MsgIdHdr] = []string{id}
		mu.Lock()
		sent[id] = time.Now()
		mu.Unlock()
		_, err := s.js.PublishMsgAsync(m)
		s.must(err)
	}
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		s.tb.Fatalf("%s: %d results of %d updates", c.name, len(times), k.load.updates)
	}
	slices.Sort(times)
	return times
}

// percentile is the value that a share of all, which are sorted, do not exceed, in milliseconds.
func percentile(sorted []time.Duration, share float64) float64 {
	return sorted[min(len(sorted)-1, int(share*float64(len(sorted))))].Seconds() * 1000
}
