package app

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kexrelay/deploy/nats"
	"kexrelay/internal/config"
	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/telemetry"
)

func TestWhatExpiresIsToldAheadAndShown(t *testing.T) {
	dir := t.TempDir()
	embeddedtest.NewAuthority(t, "a test").IssueFiles(t, dir, "client", 60*24*time.Hour)
	if err := nats.Issue(dir, 3*time.Hour); err != nil {
		t.Fatal(err)
	}
	cfg := config.Serve{NATS: config.Connection{Creds: filepath.Join(dir, "relay.creds"), TLSCert: filepath.Join(dir, "client.crt")}}
	shown := make(map[telemetry.Credential]time.Time)
	var log bytes.Buffer
	e := newExpiries(cfg, func(c telemetry.Credential, at time.Time) { shown[c] = at }, slog.New(slog.NewTextHandler(&log, nil)))
	look := func(after time.Duration, want int) {
		t.Helper()
		log.Reset()
		e.look(t.Context(), time.Now().Add(after))
		if got := strings.Count(log.String(), "\n"); got != want {
			t.Errorf("after %s there are %d lines, want %d:\n%s", after, got, want, &log)
		}
	}
	look(0, 0)
	wanted := make(map[telemetry.Credential]time.Duration)
	wanted[telemetry.CredentialNATSCreds], wanted[telemetry.CredentialNATSCert] = 3*time.Hour, 60*24*time.Hour
	for credential, want := range wanted {
		if got := time.Until(shown[credential]); got > want || got < want-time.Minute {
			t.Errorf("%s is shown to expire in %s, want %s", credential, got, want)
		}
	}
	look(time.Hour, 0)
	look(2*time.Hour+time.Minute, 1) // The last third of three hours.
	look(2*time.Hour+time.Minute, 0)
	if err := nats.Issue(dir, 300*24*time.Hour, "relay"); err != nil {
		t.Fatal(err)
	}
	look(4*time.Hour, 0)
	look(47*24*time.Hour, 1) // The certificate, 14 days before.
	if !strings.Contains(log.String(), "client.crt") || !strings.Contains(log.String(), "expire soon") {
		t.Errorf("it does not say which: %s", &log)
	}
	look(48*24*time.Hour+time.Hour, 1) // Once a day.
	look(61*24*time.Hour, 1)
	if !strings.Contains(log.String(), "have expired") {
		t.Errorf("it does not say that it is over: %s", &log)
	}
	embeddedtest.WriteFile(t, filepath.Join(dir, "relay.creds"), []byte("c4nary"))
	look(0, 1)
	if strings.Contains(log.String(), "c4nary") || !strings.Contains(log.String(), "relay.creds") {
		t.Errorf("of a file that cannot be read: %s", &log)
	}
	look(0, 0)
}
