package main

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"kexrelay/deploy/nats"
	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/simulator"
)

// onSecured starts an API beside a secured NATS, with a client secret for the client "dev", and gives what runs a command as
// one of the roles.
func onSecured(ctx context.Context, t *testing.T, s *embeddedtest.Secured, secret string) (*simulator.Simulator, *simulator.Server, func(role, args string)) {
	t.Helper()
	sim, err := simulator.New(simulator.Config{ClientID: "dev", ClientSecret: secret})
	if err != nil {
		t.Fatal(err)
	}
	api, err := sim.Start(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = api.Close() })
	return sim, api, func(role, args string) {
		t.Helper()
		if code, output := asRole(ctx, s, role, strings.Split(args, "|")); code != 0 {
			t.Errorf("%s: %s: exit code %d:\n%s", role, args, code, output)
		}
	}
}

// Under load the client secret, the relay's credentials and every certificate are replaced. The process lives on, and
// every update is booked.
func TestSecretsRotateUnderLoad(t *testing.T) {
	opts := embeddedtest.SecuredOptions{JWT: true, MutualTLS: true}
	s := embeddedtest.RunSecured(t, opts)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	sim, api, run := onSecured(ctx, t, s, "c4nary-first")
	secret := filepath.Join(s.Dir, "secret")
	embeddedtest.WriteFile(t, secret, []byte("c4nary-first\n"))
	run("setup", "setup")
	// They expire while updates are sent: the server ends the connection then.
	const valid = 4 * time.Second
	if err := nats.Issue(s.Dir, valid, "relay"); err != nil {
		t.Fatal(err)
	}
	expired := time.Now().Add(valid + time.Second)
	serving, stop := context.WithCancel(ctx)
	defer stop()
	var relay sync.WaitGroup
	var code int
	var output string
	relay.Go(func() {
		code, output = asRole(serving, s, "relay", []string{"serve"}, "KEX_BASE_URL="+api.BaseURL(), "KEX_TOKEN_URL="+api.TokenURL(),
			"KEX_CLIENT_ID=dev", "KEX_CLIENT_SECRET_FILE="+secret, "KEXRELAY_HTTP_ADDR=127.0.0.1:0")
	})
	published := 0
	publish := func() {
		t.Helper()
		run("publisher", "publish|comments|--vorgang|1|a comment")
		published++
	}
	for range 10 {
		publish()
	}
	// The file before the API: what asks in between is refused, and nothing is lost by it.
	embeddedtest.WriteFile(t, secret, []byte("c4nary-second\n"))
	if err := sim.SetClientSecret("c4nary-second"); err != nil {
		t.Fatal(err)
	}
	sim.RevokeTokens()
	for range 10 {
		publish()
	}
	if err := nats.Issue(s.Dir, time.Hour, "relay"); err != nil {
		t.Fatal(err)
	}
	for time.Now().Before(expired) {
		publish()
	}
	run("clerk", "publish|comments|--vorgang|1|--wait=30s|after the credentials")
	published++

	// An authority that nobody knew before: first trusted beside the old one, then everybody gets its certificates.
	ca := embeddedtest.NewAuthority(t, "the next CA")
	embeddedtest.WriteFile(t, s.File("ca.crt"), append(ca.PEM, s.CA.PEM...))
	s.Restart(opts)
	run("clerk", "publish|comments|--vorgang|1|--wait=60s|while both are trusted")
	published++
	ca.IssueFiles(t, s.Dir, "server", time.Hour)
	ca.IssueFiles(t, s.Dir, "client", time.Hour)
	embeddedtest.WriteFile(t, s.File("ca.crt"), ca.PEM)
	s.Restart(opts)
	for range 10 {
		publish()
	}
	run("clerk", "publish|comments|--vorgang|1|--wait=60s|after the certificates")
	published++
	stop()
	relay.Wait()
	if code != 0 {
		t.Errorf("serve ended with %d", code)
	}
	booked := len(sim.Bookings("1"))
	t.Logf("%d updates published, %d booked, %d connections again, 0 restarts", published, booked, strings.Count(output, "reconnected to nats"))
	if booked != published {
		t.Errorf("%d updates were published and %d booked", published, booked)
	}
	if again := strings.Count(output, "reconnected to nats"); again < 3 {
		t.Errorf("the connection was made again %d times; the rotation was not seen", again)
	}
	if strings.Contains(output, "deadlettered") || strings.Contains(output, "Permission") {
		t.Errorf("something failed:\n%s", output)
	}
	for _, leaked := range []string{"c4nary", "SUA", "BEGIN"} {
		if strings.Contains(output, leaked) {
			t.Errorf("the log holds %s", leaked)
		}
	}
	for _, refused := range s.Refused() {
		t.Errorf("not permitted: %s", refused.Line)
	}
}
