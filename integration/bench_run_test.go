package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// contestant is a consumer under measurement: a process that takes updates out of a stream of its own, books them,
// publishes a result for each and acknowledges it.
type contestant struct {
	name string
	// prefix begins the subjects its updates are published to; stream and consumer are where they wait for it, results
	// is the stream of its events.
	prefix, stream, consumer, results string
	program                           string
	args                              []string
	env                               func(s *benchSystem, inFlight int) []string
	// settings are more of the environment.
	settings []string
}

// relayAs is a build of kexrelay with the settings of a production: its log at the default level.
func relayAs(name, program string) contestant {
	return contestant{
		name: name, prefix: "kex", stream: topology.StreamUpdates, consumer: topology.Consumer(0), results: topology.StreamResults,
		program: program, args: []string{"serve"},
		env: func(s *benchSystem, inFlight int) []string {
			return []string{
				"NATS_URL=" + s.natsURL, "KEX_BASE_URL=" + s.baseURL, "KEX_TOKEN_URL=" + s.tokenURL, "KEX_CLIENT_ID=" + clientID,
				"KEX_CLIENT_SECRET=" + clientSecret, "KEXRELAY_HTTP_ADDR=127.0.0.1:0", "KEXRELAY_CONCURRENCY=" + strconv.Itoa(inFlight),
			}
		},
	}
}

// plainAs is the plain consumer: this test binary, started anew.
func plainAs(name, pool string) contestant {
	return contestant{
		name: name, prefix: "plain", stream: plainUpdates, consumer: plainConsumer, results: plainResults, program: os.Args[0],
		env: func(s *benchSystem, inFlight int) []string {
			return []string{
				plainEnv + "=" + pool, "NATS_URL=" + s.natsURL, "KEX_BASE_URL=" + s.baseURL, "KEX_TOKEN_URL=" + s.tokenURL,
				"IN_FLIGHT=" + strconv.Itoa(inFlight),
			}
		},
	}
}

// benchCase is what the contestants do one after the other.
type benchCase struct {
	Name     string        `json:"name"`
	InFlight int           `json:"inFlight"`
	Rate     int           `json:"rate,omitzero"` // Updates published per second, 0 for a load that waits.
	Latency  time.Duration `json:"-"`
	load     benchLoad
	// warm are the updates before the clock starts: connections, token, buffers, and the relay's slow start.
	warm int
	// burst are updates of one Vorgang that are published in front of a paced load, and left behind.
	burst int
	// ideal is what the API's latency allows for, per second, where that is the limit and not the machine.
	ideal float64
	// without names contestants that do not take part.
	without []string
}

// benchRun is what one run of a contestant showed; CPU in seconds per 10,000 updates.
type benchRun struct {
	Rate  float64 `json:"updatesPerSecond"`
	MBps  float64 `json:"mbPerSecond"`
	OfC   float64 `json:"ofLimit"`    // Of C, or of what the API's latency allows for.
	CPUOf float64 `json:"cpuOfLimit"` // The limits' CPU time to that of all three processes: less noisy than OfC.
	P50   float64 `json:"p50Milliseconds,omitzero"`
	P99   float64 `json:"p99Milliseconds,omitzero"`
	Own   float64 `json:"ownCPU"`
	NATS  float64 `json:"natsCPU"`
	API   float64 `json:"apiCPU"`
	PeakB float64 `json:"peakRSSBytes"`
}

// start starts a contestant and lets it book the warm-up.
func (s *benchSystem) start(c contestant, inFlight int, warm benchLoad) *process {
	s.tb.Helper()
	out, err := os.Create(filepath.Join(s.dir, "output"))
	s.must(err)
	defer out.Close() //nolint:errcheck // The process has its own.
	p := launchInto(s.tb, c.name, out, append(c.env(s, inFlight), c.settings...), c.program, c.args...)
	s.publish(s.tb.Context(), c.prefix, warm)
	s.awaitEmpty(c.stream, p, time.Minute)
	return p
}

// measure lets a contestant book a load: as fast as it can what waits for it when the clock starts, or at the case's
// rate what is published then.
func (s *benchSystem) measure(c contestant, k benchCase) benchRun {
	s.tb.Helper()
	s.apiTakes(k.Latency)
	warm := k.load
	warm.updates = k.warm
	p := s.start(c, k.InFlight, warm)
	before := s.waiting(c.results)
	var r benchRun
	var used [3]float64
	if k.Rate > 0 {
		if k.burst > 0 {
			s.publish(s.tb.Context(), c.prefix, k.load.burst(k.burst))
		}
		used = s.cpu(p)
		times := s.pace(c, k)
		r.P50, r.P99, r.Rate = percentile(times, 0.5), percentile(times, 0.99), float64(k.Rate)
	} else {
		first, last := k.load, k.load
		first.updates, last.updates = k.load.updates-1, 1
		s.paused(c, func() { s.publish(s.tb.Context(), c.prefix, first) })
		used = s.cpu(p)
		began := time.Now()
		s.resume(c)
		s.publish(s.tb.Context(), c.prefix, last) // The end of a pause does not wake the server's consumer, a message does.
		s.awaitEmpty(c.stream, p, 2*time.Minute)
		r.Rate = float64(k.load.updates) / time.Since(began).Seconds()
	}
	now := s.cpu(p)
	for i, to := range []*float64{&r.Own, &r.NATS, &r.API} {
		*to = (now[i] - used[i]) * 10_000 / float64(k.load.updates)
	}
	// Whoever listens hears of a result a moment before it is stored. A burst is left behind, but for its first updates.
	eventually(s.tb, 10*time.Second, "every update has its result", func() bool { return s.waiting(c.results)-before >= k.load.updates })
	if n := s.waiting(c.results) - before; n != k.load.updates && k.burst == 0 {
		s.tb.Fatalf("%s: %d results of %d updates\n%s", c.name, n, k.load.updates, p.printed(30))
	}
	r.MBps, r.PeakB = r.Rate*float64(len(k.load.body()))/1e6, float64(peakBytes(s.tb, p.cmd.Process.Pid))
	if code := p.terminate(s.tb, 30*time.Second); code != 0 {
		s.tb.Fatalf("%s ended with code %d\n%s", c.name, code, p.printed(30))
	}
	if k.burst > 0 {
		stream, err := s.js.Stream(s.tb.Context(), c.stream)
		s.must(err)
		s.must(stream.Purge(s.tb.Context()))
	}
	return r
}

// burst are so many updates of one Vorgang that the load does not touch.
func (l benchLoad) burst(updates int) benchLoad {
	l.first, l.lanes, l.updates = l.first-1, 1, updates
	return l
}

// paused does something while the server delivers nothing to a contestant, and leaves it so for resume.
func (s *benchSystem) paused(c contestant, do func()) {
	s.tb.Helper()
	_, err := s.js.PauseConsumer(s.tb.Context(), c.stream, c.consumer, time.Now().Add(time.Hour))
	s.must(err)
	do()
	runtime.GC() // Not in the time of others.
}

func (s *benchSystem) resume(c contestant) {
	s.tb.Helper()
	_, err := s.js.ResumeConsumer(s.tb.Context(), c.stream, c.consumer)
	s.must(err)
}

// cpu is what a contestant, the server and the simulator have used so far.
func (s *benchSystem) cpu(p *process) [3]float64 {
	var used [3]float64
	for i, of := range []*process{p, s.nats, s.api} {
		used[i] = cpuSeconds(s.tb, of.cmd.Process.Pid)
	}
	return used
}

// likeStream creates a stream with all the settings of another, but its subjects, and a work queue's consumer if it
// has a name.
func (s *benchSystem) likeStream(like, name, consumer string, subjects ...string) {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(s.tb.Context(), 10*time.Second)
	defer cancel()
	model, err := s.js.Stream(ctx, like)
	s.must(err)
	config := model.CachedInfo().Config
	config.Name, config.Subjects, config.SubjectTransform = name, subjects, nil
	config.Description = fmt.Sprintf("like %s, for comparison", like)
	_, err = s.js.CreateStream(ctx, config)
	s.must(err)
	if consumer == "" {
		return
	}
	_, err = s.js.CreateConsumer(ctx, name, jetstream.ConsumerConfig{
		Durable: consumer, AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: topology.MaxAckPending, AckWait: topology.AckWait,
	})
	s.must(err)
}
