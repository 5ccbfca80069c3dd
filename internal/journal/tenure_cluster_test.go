package journal

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// In a cluster the replicas lag behind their leaders, and leaders change. What was acknowledged before the lease
// changed hands must be known after it, every time.
func TestInAClusterNothingAcknowledgedIsMissed(t *testing.T) {
	t.Parallel()
	servers := embeddedtest.RunCluster(t)
	connections := make([]jetstream.JetStream, len(servers))
	for i, s := range servers {
		connections[i] = connect(t, s.ClientURL())
	}
	js := connections[0]
	if _, err := topology.Setup(within(t, 3*time.Minute), js, topology.Options{}); err != nil {
		t.Fatal(err)
	}
	// Patient as in the relay: a server may not know yet that the stream has a leader, or which subjects it takes.
	settling := make([]*Journal, len(servers))
	for i := range settling {
		settling[i] = New(connections[i], Config{Source: source, PublishTimeout: 5 * time.Second, Patience: time.Minute})
		t.Cleanup(settling[i].Close)
	}
	leases := make([]*Leases, len(servers))
	for i := range leases {
		leases[i] = NewLeases(connections[i], fmt.Sprint("r", i), discard())
		// Never lost by a slow machine: who gives one up says so.
		leases[i].timing = leaseTiming{renew: time.Second, valid: 10 * time.Minute, stale: 11 * time.Minute, poll: 20 * time.Millisecond, call: 5 * time.Second}
	}
	take := func(i int) *replica {
		t.Helper()
		r := &replica{js: connections[i], leases: leases[i]}
		var err error
		if r.lease, err = leases[i].Campaign(within(t, 2*time.Minute), 0); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.lease.die)
		begin := time.Now()
		ctx := within(t, 3*time.Minute)
		cfg := TenureConfig{Logger: discard(), PublishTimeout: 5 * time.Second, Patience: time.Minute}
		for r.tenure, err = TakeOver(ctx, r.js, r.lease, cfg); err != nil; r.tenure, err = TakeOver(ctx, r.js, r.lease, cfg) {
			if f := fault.Of(err); f == nil || f.Kind != fault.Systemic || ctx.Err() != nil {
				t.Fatal(err)
			}
			t.Logf("taken over again, as the relay does: %v", err)
		}
		t.Logf("taken over by %d in %s", i, time.Since(begin).Round(time.Millisecond))
		t.Cleanup(func() { crash(r.tenure) })
		return r
	}
	holder := take(0)
	var left []update.Attempt
	for round := range 6 {
		u := waiting(t, js, 2)
		for i := range u {
			u[i].Timeout = time.Minute
			holder.sending(t, u[i])
		}
		settle(t, settling[(round+1)%3], delivered(updateOf(u[1])))
		left = append(left, u[0])
		mustRelease(t, holder.lease)
		crash(holder.tenure)
		if round%3 == 2 {
			for _, stream := range []string{ledgerStream, topology.StreamResults} {
				stepDown(t, js, stream)
			}
		}
		holder = take((round + 1) % 3)
		holder.wantPast(t, u[1], update.Past{Settled: true})
		for _, a := range left {
			if p := holder.past(a); !p.Left || p.Attempts != 1 || p.Crashes != 1 {
				t.Errorf("round %d: Past(%d) = %+v, want it left once", round, a.Seq, p)
			}
		}
	}
	mustRelease(t, holder.lease)
}

// stepDown makes a stream's leader give up.
func stepDown(t *testing.T, js jetstream.JetStream, stream string) {
	t.Helper()
	if _, err := js.Conn().Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil, 5*time.Second); err != nil && err != nats.ErrTimeout { //nolint:errorlint // Exactly this.
		t.Fatal(err)
	}
}
