package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"kexrelay/internal/embedded/embeddedtest"
)

// The key of nats-server's files is changed as the README says, while a relay runs: nats-server 2.15.2 forgets what it has
// no message of, and all consumers; `setup` makes them again, and the relay goes on by itself. What was published before,
// between and after is booked once each, in its order, and nothing is flagged.
func TestTheKeyOfTheFilesIsChangedWhileARelayRuns(t *testing.T) {
	s := embeddedtest.RunSecured(t, embeddedtest.SecuredOptions{Key: "first-key"})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	sim, api, run := onSecured(ctx, t, s, "dev-secret")
	run("setup", "setup")
	serving, stop := context.WithCancel(ctx)
	var relay sync.WaitGroup
	var code int
	var output string
	relay.Go(func() {
		code, output = asRole(serving, s, "relay", []string{"serve"}, "KEX_BASE_URL="+api.BaseURL(), "KEX_TOKEN_URL="+api.TokenURL(),
			"KEX_CLIENT_ID=dev", "KEX_CLIENT_SECRET=dev-secret", "KEXRELAY_HTTP_ADDR=127.0.0.1:0")
	})
	published := 0
	publish := func(n int, how string) {
		t.Helper()
		for range n {
			run("clerk", fmt.Sprintf("publish|comments|--vorgang|1%s|comment %d", how, published))
			published++
		}
	}
	publish(5, "|--wait=30s")
	for _, opts := range []embeddedtest.SecuredOptions{{Key: "second-key", PreviousKey: "first-key"}, {Key: "second-key"}} {
		publish(5, "")
		if opts.PreviousKey != "" {
			s.ForgetConsumers()
		}
		s.Restart(opts)
		publish(5, "") // Before setup: the stream of updates is there, its consumer is not.
		run("setup", "setup")
		publish(1, "|--wait=60s")
	}
	stop()
	relay.Wait()
	if code != 0 {
		t.Errorf("serve ended with %d:\n%s", code, output)
	}
	booked := sim.Bookings("1")
	if len(booked) != published {
		t.Errorf("%d updates were published and %d booked", published, len(booked))
	}
	_, results := asRole(ctx, s, "reader", []string{"results", "list", "--limit", "100", "--json"})
	if n := strings.Count(results, `"outcome":"delivered"`); n != published || strings.Contains(results, "possibleDuplicate") {
		t.Errorf("%d of %d updates are told as delivered, or one is flagged:\n%s", n, published, results)
	}
	var last int
	for i, line := range strings.Split(strings.TrimSpace(results), "\n") {
		var seq int
		_, from, _ := strings.Cut(line, `"updateSeq":`)
		if _, err := fmt.Sscanf(from, "%d", &seq); err != nil || seq <= last {
			t.Errorf("result %d is of update %d, after that of %d (%v)", i, seq, last, err)
		}
		last = seq
	}
}
