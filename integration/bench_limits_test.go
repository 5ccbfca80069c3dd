package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// The streams of the limits.
const (
	limitUpdates  = "LIMIT_UPDATES"
	limitConsumer = "limit"
	limitResults  = "LIMIT_RESULTS"
)

// limits are what the parts of the way allow for by themselves, per second, with the bodies and the events of the
// contestants: bare HTTP requests (H), bare consume and ack (J), bare publishing of events (P). All processes share
// the machine's cores, so that nobody can be faster than the three one after the other: C = 1/(1/H + 1/J + 1/P).
type limits struct {
	H float64 `json:"h"`
	J float64 `json:"j"`
	P float64 `json:"p"`
	C float64 `json:"c"`
	// CPU is what the three use together, clients and servers, in seconds per 10,000 updates.
	CPU float64 `json:"cpu"`
}

// limit measures H, J and P of a case.
func (s *benchSystem) limit(k benchCase) limits {
	s.tb.Helper()
	s.apiTakes(0)
	consume := s.bareConsume
	if k.load.object {
		consume = s.bareObjects
	}
	s.bareCPU = 0
	l := limits{H: s.barePosts(k), J: consume(k), P: s.barePublish(k)}
	l.C, l.CPU = 1/(1/l.H+1/l.J+1/l.P), s.bareCPU
	return l
}

// stopwatch measures one part of the limits, which this process is the client of.
type stopwatch struct {
	s     *benchSystem
	began time.Time
	cpu   float64
}

func (s *benchSystem) watch() stopwatch {
	s.tb.Helper()
	runtime.GC() // Not in the time of others.
	return stopwatch{s: s, cpu: s.allCPU(), began: time.Now()}
}

// rate is how many per second there were of n, and adds their CPU time to that of the case.
func (w stopwatch) rate(n int) float64 {
	rate := float64(n) / time.Since(w.began).Seconds()
	w.s.bareCPU += (w.s.allCPU() - w.cpu) * 10_000 / float64(n)
	return rate
}

// allCPU is what this process, the server and the simulator have used so far.
func (s *benchSystem) allCPU() float64 {
	s.tb.Helper()
	return cpuSeconds(s.tb, os.Getpid()) + cpuSeconds(s.tb, s.nats.cmd.Process.Pid) + cpuSeconds(s.tb, s.api.cmd.Process.Pid)
}

// barePosts is the rate of requests by net/http with as many in flight as the case has.
func (s *benchSystem) barePosts(k benchCase) float64 {
	s.tb.Helper()
	token := "Bearer " + s.token()
	transport := &http.Transport{MaxIdleConnsPerHost: k.InFlight}
	defer transport.CloseIdleConnections()
	body := k.load.body()
	post := func(n int64) error {
		to := s.baseURL + strings.ReplaceAll(k.load.subject("", int(n)), ".", "/")
		r, err := http.NewRequestWithContext(s.tb.Context(), http.MethodPost, to, bytes.NewReader(body))
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", token)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Traceid", "limit"+strconv.FormatInt(n, 10))
		answer, err := transport.RoundTrip(r)
		if err != nil {
			return err
		}
		defer answer.Body.Close() //nolint:errcheck // it was read
		_, err = io.Copy(io.Discard, answer.Body)
		if err == nil && answer.StatusCode/100 != 2 {
			err = fmt.Errorf("the API answered %s", answer.Status)
		}
		return err
	}
	var n atomic.Int64
	all := func(total int64) {
		var work sync.WaitGroup
		for range k.InFlight {
			work.Go(func() {
				for i := n.Add(1); i <= total; i = n.Add(1) {
					if err := post(i); err != nil {
						s.tb.Error(err)
						return
					}
				}
			})
		}
		work.Wait()
	}
	all(int64(k.warm))
	n.Store(int64(k.warm))
	watch := s.watch()
	all(int64(k.warm + k.load.updates))
	return watch.rate(k.load.updates)
}

// token gets an access token as any client of the API does.
func (s *benchSystem) token() string {
	s.tb.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {"privatkredit:vorgang:schreiben"}}
	r, err := http.NewRequestWithContext(s.tb.Context(), http.MethodPost, s.tokenURL, strings.NewReader(form.Encode()))
	s.must(err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(clientID, clientSecret)
	answer, err := http.DefaultClient.Do(r)
	s.must(err)
	defer answer.Body.Close() //nolint:errcheck // it was read
	var got struct {
		AccessToken string `json:"access_token"`
	}
	s.must(json.NewDecoder(answer.Body).Decode(&got))
	return got.AccessToken
}

// bareConsume is the rate of fetching and acknowledging alone.
func (s *benchSystem) bareConsume(k benchCase) float64 {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(s.tb.Context(), time.Minute)
	defer cancel()
	s.publish(ctx, "limit", k.load)
	consumer, err := s.js.Consumer(ctx, limitUpdates, limitConsumer)
	s.must(err)
	var n atomic.Int64
	done := make(chan struct{})
	var option jetstream.PullConsumeOpt = jetstream.PullMaxMessages(2000)
	if k.load.size > 2000 {
		option = jetstream.PullMaxBytes(32 << 20) // Far below what nats.go drops.
	}
	watch := s.watch()
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		if err := m.Ack(); err != nil {
			s.tb.Error(err)
		}
		if n.Add(1) == int64(k.load.updates) {
			close(done)
		}
	}, option)
	s.must(err)
	defer consuming.Stop()
	select {
	case <-done:
	case <-ctx.Done():
		s.tb.Fatalf("%d of %d messages came", n.Load(), k.load.updates)
	}
	s.must(s.nc.Flush())
	rate := watch.rate(k.load.updates)
	s.awaitEmpty(limitUpdates, s.nats, time.Minute)
	return rate
}

// barePublish is the rate of publishing result events, as the relay's last one is, asynchronously.
func (s *benchSystem) barePublish(k benchCase) float64 {
	s.tb.Helper()
	results, err := s.js.Stream(s.tb.Context(), topology.StreamResults)
	s.must(err)
	last, err := results.GetMsg(s.tb.Context(), results.CachedInfo().State.LastSeq)
	s.must(err)
	n := max(k.load.updates, 500)
	watch := s.watch()
	for i := range n {
		m := nats.NewMsg("limit.result." + strconv.Itoa(i%k.load.lanes))
		maps.Copy(m.Header, last.Header)
		m.Header[nats.MsgIdHdr] = []string{"limit-" + strconv.FormatInt(watch.began.UnixNano(), 36) + strconv.Itoa(i)}
		m.Data = last.Data
		_, err := s.js.PublishMsgAsync(m, jetstream.WithStallWait(time.Minute))
		s.must(err)
	}
	select {
	case <-s.js.PublishAsyncComplete():
	case <-time.After(time.Minute):
		s.tb.Fatal("the events were not acknowledged")
	}
	return watch.rate(n)
}

// newLimits adds the streams of the limits and of the plain consumer to a system.
func newLimits(tb testing.TB) *benchSystem {
	tb.Helper()
	s := newBenchSystem(tb)
	s.likeStream(topology.StreamUpdates, limitUpdates, limitConsumer, "limit.vorgang.*.*")
	s.likeStream(topology.StreamResults, limitResults, "", "limit.result.>")
	s.likeStream(topology.StreamUpdates, plainUpdates, plainConsumer, "plain.vorgang.*.*")
	s.likeStream(topology.StreamResults, plainResults, "", "plain.result.>")
	return s
}
