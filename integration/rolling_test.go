//go:build integration

package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"kexrelay/internal/topology"
)

// goesOnWithin is how soon another replica goes on after a SIGTERM, for every Vorgang that had nothing in flight.
const goesOnWithin = time.Second

// Three replicas in containers are upgraded from the version before, rolled back, upgraded again and restarted, one after
// the other, while updates are published for a hundred Vorgänge in four partitions: every acknowledged update ends once and
// is booked once, in the order of its Vorgang, nothing is flagged, no replica ends otherwise than told and with exit code 0,
// and no update waits longer than a hand-over may take.
func TestRollingUpgradeAndRestartLoseAndRepeatNothing(t *testing.T) {
	f := newRollingFleet(t)
	before, now := f.versionBefore(), f.versionNow()
	f.setup(before, "--wait", "60s", "--partitions", "4")
	f.connect()
	for i := range f.relays {
		f.start(i, before)
	}

	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	published := make(chan error, 1)
	go func() { published <- f.publishAll(ctx, 1) }()
	eventually(t, 20*time.Second, "the old replicas deliver", func() bool { return f.count(topology.StreamResults) >= 100 })

	f.setup(now)
	promised(t, "longest wait in a rolling upgrade and the way back", goesOnWithin, func() time.Duration {
		t.Helper()
		up := f.roll("upgrade", func(i int) { f.replace(i, now) })
		return max(up, f.roll("rollback", func(i int) { f.replace(i, before) }))
	})
	f.roll("second upgrade", func(i int) { f.replace(i, now) })
	promised(t, "longest wait in a rolling restart", goesOnWithin, func() time.Duration {
		t.Helper()
		return f.roll("restart", f.restart)
	})

	stop()
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	f.drained(time.Minute)
	f.check()
	for i := range f.relays {
		f.stop(i)
	}
}

// roll does something to each replica in turn, the next when the one before is ready, and gives the longest that an update
// waited meanwhile.
func (f *rollingFleet) roll(what string, each func(i int)) time.Duration {
	f.t.Helper()
	begin, handed := time.Now(), f.handedOver()
	for i := range f.relays {
		each(i)
	}
	end := time.Now()
	// What was stored until then is to be booked before it is looked at.
	last := f.lastStored()
	eventually(f.t, 30*time.Second, "what came during the "+what+" is settled", func() bool { return f.firstWaiting() > last })
	requests := f.requests()
	free, behind := longestWaits(f.results(), requests, begin, end)
	f.t.Logf("%s: three replicas in %v, partitions handed over %d times; longest wait of an update %v, behind one of its Vorgang that was being sent %v; longest time without a booking %v",
		what, end.Sub(begin).Round(time.Millisecond), f.handedOver()-handed, free, behind, longestPause(requests, begin, end))
	return free
}

// check holds all that was published against what came of it.
func (f *rollingFleet) check() {
	f.t.Helper()
	e := f.evidence()
	for _, check := range chaosChecks {
		report(f.t, check.name, check.run(e))
	}
	// Nothing was broken: so there is no excuse for what the checks would excuse.
	var found []string
	acked, invalid, booked := 0, 0, 0
	for _, trace := range e.traces() {
		u, events := e.updates[trace], e.settled[trace]
		acked += len(u.acked)
		switch n := len(e.bookings(trace)); {
		case u.repeats != "" && u.duplicate:
			continue // It is not in the stream.
		case len(events) != 1:
			found = append(found, fmt.Sprintf("%s ended %d times", trace, len(events)))
		case u.invalid:
			invalid++
		case n != 1 || events[0].Data.Attempts != 1:
			found = append(found, fmt.Sprintf("%s was booked %d times, after %d attempts: %s", trace, n, events[0].Data.Attempts, e.story(trace)))
		default:
			booked++
		}
		if e.flagged(trace) || e.told(trace) {
			found = append(found, trace+" may be booked twice, says its result, though every stop was planned")
		}
	}
	report(f.t, "planned stops", found)
	if booked < 500 || len(e.requests) != booked {
		f.t.Errorf("%d updates booked by %d requests: each is to have one, and fewer than 500 show nothing", booked, len(e.requests))
	}
	f.t.Logf("%d acknowledged, %d booked once by %d requests, %d invalid, of %d Vorgänge; %d planned stops; %d lost, %d duplicates, %d order breaks, %d flags",
		acked, booked, len(e.requests), invalid, f.cfg.vorgaenge, f.stops, len(checkLost(e)), len(checkDuplicates(e)), len(checkOrder(e)), len(checkFlags(e)))
}

// newRollingFleet starts NATS and the simulated API in containers on a network of their own. All of it is removed when the test
// ends, however it does.
func newRollingFleet(t *testing.T) *rollingFleet {
	t.Helper()
	f := &rollingFleet{
		chaos: &chaos{
			system: &system{t: t, dir: t.TempDir()}, random: rand.New(rand.NewPCG(1, 1)),
			cfg: chaosConfig{vorgaenge: 100, pace: 10 * time.Millisecond}, updates: make(map[string]*sentUpdate),
		},
		name: fmt.Sprintf("kexrelay-roll-%d", os.Getpid()),
	}
	t.Cleanup(f.remove)
	f.docker("network", "create", f.name)
	natsPort, apiPort := freePort(t), freePort(t)
	f.images = append(f.images, f.name+"-nats:local")
	imageOf(t, f.images[0], programs.natsServer)
	f.run("nats", "-p", fmt.Sprintf("127.0.0.1:%d:4222", natsPort), f.images[0], "--jetstream", "--store_dir", "/data")
	f.natsURL = fmt.Sprintf("nats://127.0.0.1:%d", natsPort)
	f.publisher = []*link{{addr: strings.TrimPrefix(f.natsURL, "nats://")}}

	f.run("api", "-p", fmt.Sprintf("127.0.0.1:%d:8089", apiPort), f.versionNow(), "simulate", "--addr", "0.0.0.0:8089",
		"--client-id", clientID, "--client-secret", clientSecret)
	f.admin = fmt.Sprintf("http://127.0.0.1:%d/admin", apiPort)
	f.slowAPI(50 * time.Millisecond)
	return f
}
