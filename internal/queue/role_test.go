package queue

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kexrelay/deploy/nats"
	"kexrelay/internal/embedded/embeddedtest"
)

// What is wrong with a file is told before anything connects, without a word of what is in it.
func TestFilesThatProveNothingAreNamed(t *testing.T) {
	dir := t.TempDir()
	if err := nats.Issue(dir, 0); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	creds, other, seed := read("relay.creds"), read("reader.creds"), read("relay.nk")
	const mark = "-----BEGIN USER NKEY SEED-----"
	token, _, _ := strings.Cut(creds, mark)
	_, otherSeed, _ := strings.Cut(other, mark)
	for name, tc := range map[string]struct {
		check         func(string) error
		content, says string
	}{
		"good credentials":         {CheckCreds, creds, ""},
		"empty credentials":        {CheckCreds, " \n", "is an empty file"},
		"no credentials":           {CheckCreds, "c4nary", "malformed"},
		"half of the credentials":  {CheckCreds, token, "no user seed"},
		"malformed credentials":    {CheckCreds, strings.Replace(creds, "eyJ", "c4nary", 1), "malformed"},
		"another one's seed":       {CheckCreds, token + mark + otherSeed, "does not belong"},
		"a good seed":              {CheckNKey, seed, ""},
		"an empty seed":            {CheckNKey, "", "is an empty file"},
		"no seed":                  {CheckNKey, "c4nary", "no seed"},
		"an account's seed":        {CheckNKey, read(nats.AccountSeed), "no user's"},
		"credentials for the seed": {CheckNKey, token, "no seed"},
	} {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
			t.Fatal(err)
		}
		err := tc.check(path)
		if tc.says == "" && err != nil || tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)) {
			t.Errorf("%s: got %v, want %q", name, err, tc.says)
		}
		if err != nil && (strings.Contains(err.Error(), "c4nary") || strings.Contains(err.Error(), "SU")) && tc.says != "no user's" {
			t.Errorf("%s: the error repeats what is in it: %v", name, err)
		}
	}
	if err := CheckCreds(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestALogLineOfARefusalNamesTheRole(t *testing.T) {
	s := embeddedtest.RunSecured(t, embeddedtest.SecuredOptions{})
	for name, opts := range map[string]ConnectOptions{
		"by key": {NKey: s.File("reader.nk"), InboxPrefix: "_INBOX_reader"},
	} {
		log := &logWriter{tb: t}
		opts.URL, opts.TLSCA = s.URL(), s.File("ca.crt")
		conn := connect(t, opts, Hooks{Logger: logTo(log)})
		if err := conn.nc.Publish("kex.audit.probe", nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, name+": the log names subject and role", func() bool {
			return log.count("kex.audit.probe") > 0 && log.count("role=reader")+log.count(`"role":"reader"`) > 0
		})
	}
}
