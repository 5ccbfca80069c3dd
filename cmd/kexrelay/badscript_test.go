package main

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"kexrelay/deploy/nats"
	"kexrelay/internal/embedded/embeddedtest"
)

// touchedKey is where a script keeps how often its server that must not be asked was.
type touchedKey struct{}

// cmdFakeNATS starts something that is no nats-server: one that greets as one does and then refuses with noise (ERR), or
// one that nobody may connect to (NONE).
func cmdFakeNATS(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: fakenats ERR|NONE")
	}
	touched, ok := ts.Value(touchedKey{}).(*atomic.Int32)
	if !ok {
		ts.Fatalf("the script was not set up")
	}
	refusal := "-ERR 'Authorization " + strings.NewReplacer("\r", "", "\n", "").Replace(noise) + "'\r\n"
	ts.Setenv("NATS_URL", embeddedtest.RunFake(scriptTB{ts}, func(conn net.Conn) {
		if args[0] == "NONE" {
			touched.Add(1)
			return
		}
		_, _ = io.WriteString(conn, embeddedtest.Greeting)
		_, _ = conn.Read(make([]byte, 1<<10))
		_, _ = io.WriteString(conn, refusal)
		_, _ = io.Copy(io.Discard, conn)
	}))
}

// cmdUntouched checks that nobody has connected to a server of fakenats NONE, with ! that somebody has.
func cmdUntouched(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) > 0 {
		ts.Fatalf("usage: [!] untouched")
	}
	touched, ok := ts.Value(touchedKey{}).(*atomic.Int32)
	if !ok || (touched.Load() == 0) == neg {
		ts.Fatalf("connected %d times", touched.Load())
	}
}

// cmdBadFiles writes good files and bad ones of every kind into the script's directory. What is in the bad ones and is
// nobody's business has the canary c4nary in it.
func cmdBadFiles(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: badfiles")
	}
	dir, tb := ts.MkAbs("."), scriptTB{ts}
	authority := embeddedtest.NewAuthority(tb, "authority")
	authority.IssueFiles(tb, dir, "good", time.Hour)
	authority.IssueFiles(tb, dir, "other", time.Hour)
	ts.Check(nats.Issue(dir, 0))
	crt, key := ts.ReadFile("good.crt"), ts.ReadFile("good.key")
	relay, reader := ts.ReadFile("relay.creds"), ts.ReadFile("reader.creds")
	const seed = "-----BEGIN USER NKEY SEED-----"
	token, _, _ := strings.Cut(relay, seed)
	_, foreign, _ := strings.Cut(reader, seed)
	for name, content := range map[string]string{
		"empty": "", "blank": " \n\t\n", "text": "c4nary\n", "binary": "\x00c4nary\x01\xff", "large": strings.Repeat("c4nary", 1<<18),
		"half.crt": crt[:len(crt)/2], "part.crt": crt + crt[:len(crt)/2],
		"bad.crt":  "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n",
		"half.key": key[:len(key)/2], "bad.key": "-----BEGIN PRIVATE KEY-----\nQUJD\n-----END PRIVATE KEY-----\n",
		"sealed.key": "-----BEGIN ENCRYPTED PRIVATE KEY-----\nQUJD\n-----END ENCRYPTED PRIVATE KEY-----\n",
		"half.creds": token, "bad.creds": strings.Replace(relay, "eyJ", "c4nary", 1), "mixed.creds": token + seed + foreign,
		"account.nk": ts.ReadFile(nats.AccountSeed), "good.secret": "right\n", "lines.secret": "c4nary\nc4nary\n",
		"marked.secret": "\ufeffc4nary\n", "latin.secret": "c4nary\xfc\n",
		"bad.yaml": "kex: [c4nary\n", "list.yaml": "- c4nary\n", "unknown.yaml": "nosuch: c4nary\n", "bad.conf": "jetstream { c4nary\n",
	} {
		ts.Check(os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	ts.Check(os.Mkdir(filepath.Join(dir, "directory"), 0o700))
	// Nobody can read it, whoever runs the test.
	ts.Check(os.Symlink("/proc/self/mem", filepath.Join(dir, "unreadable")))
}
