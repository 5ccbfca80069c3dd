package expiry_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kexrelay/deploy/nats"
	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/expiry"
)

func TestCertificatesAndCredentialsSayWhenTheyExpire(t *testing.T) {
	dir := t.TempDir()
	ca := embeddedtest.NewAuthority(t, "a test")
	ca.IssueFiles(t, dir, "late", 20*time.Hour)
	ca.IssueFiles(t, dir, "soon", time.Hour)
	late, _ := ca.Issue(t, "a", 20*time.Hour)
	soon, _ := ca.Issue(t, "b", 2*time.Hour)
	embeddedtest.WriteFile(t, filepath.Join(dir, "both.crt"), append(late, soon...))
	if err := nats.Issue(dir, 3*time.Hour); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]time.Duration{"late.crt": 20 * time.Hour, "soon.crt": time.Hour, "both.crt": 2 * time.Hour, "relay.creds": 3 * time.Hour} {
		valid, err := expiry.Of(filepath.Join(dir, file))
		if got := time.Until(valid.Until); err != nil || got > want || got < want-time.Minute {
			t.Errorf("%s expires in %s, %v, want %s", file, got, err, want)
		}
		if valid.From.IsZero() || valid.From.After(time.Now()) {
			t.Errorf("%s is valid from %s", file, valid.From)
		}
	}
	if err := nats.Issue(dir, 0, "relay"); err != nil {
		t.Fatal(err)
	}
	if valid, err := expiry.Of(filepath.Join(dir, "relay.creds")); err != nil || !valid.Until.IsZero() {
		t.Errorf("credentials without an end expire at %s, %v", valid.Until, err)
	}
}

func TestWhatCannotBeReadIsNamed(t *testing.T) {
	dir := t.TempDir()
	const secret = "c4nary"
	for name, content := range map[string]string{
		"empty": "", "text": secret, "key": "-----BEGIN PRIVATE KEY-----\nYQ==\n-----END PRIVATE KEY-----\n",
		"broken certificate": "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n",
		"broken token":       "-----BEGIN NATS USER JWT-----\n" + secret + "\n------END NATS USER JWT------\n",
		"broken payload":     "-----BEGIN NATS USER JWT-----\na." + secret + ".b\n------END NATS USER JWT------\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := expiry.Of(path)
		if err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, path := range []string{dir, filepath.Join(dir, "none")} {
		if _, err := expiry.Of(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
