package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/simulator"
)

// roleCommand is a command that a role must be able to run.
type roleCommand struct {
	role string
	args string // Separated by |, so that an argument may have spaces.
	code int
}

func (c roleCommand) name() string { return strings.ReplaceAll(c.args, "|", " ") }

// roleCommands are all commands with the roles they are for, in an order in which each finds what it needs: two updates
// have become dead letters before, three wait while sending is paused.
func roleCommands(dir string) []roleCommand {
	large, small := filepath.Join(dir, "large.pdf"), filepath.Join(dir, "small.pdf")
	export := filepath.Join(dir, "dead.jsonl")
	return []roleCommand{
		{"publisher", "publish|comments|--vorgang|1|a comment", 0},
		{"publisher", "publish|document|--vorgang|1|" + small, 0},
		{"publisher", "publish|document|--vorgang|2|" + large, 0},
		{"publisher", "publish|document|--vorgang|2|" + large, 0}, // Not stored again: its upload is taken back.
		{"clerk", "publish|comments|--vorgang|1|--wait=20s|a comment", 0},
		{"clerk", "publish|document|--vorgang|3|--wait=20s|" + large, 0},
		{"clerk", "publish|document|--vorgang|410|--wait=20s|" + large, exitDeadLetter},
		{"clerk", "publish|comments|--vorgang|410|--wait=20s|dead", exitDeadLetter},
		{"clerk", "publish|comments|--vorgang|404|--wait=20s|dead", exitDeadLetter},
		{"clerk", "publish|comments|--vorgang|403|--wait=20s|dead", exitDeadLetter},
		{"reader", "results|list", 0},
		{"reader", "results|list|--vorgang|410|--json", 0},
		{"monitor", "results|list|--outcome|deadlettered", 0},
		{"monitor", "status", 0},
		{"monitor", "status|--json", 0},
		{"monitor", "report", 0},
		{"relay", "doctor", 0},
		{"operator", "status", 0},
		{"operator", "report", 0},
		{"operator", "results|list", 0},
		{"operator", "trace|KEX_UPDATES-1", exitFailed}, // Its publisher gave it another ID.
		{"operator", "deadletters|list", 0},
		{"operator", "deadletters|list|--group", 0},
		{"operator", "deadletters|show|1", 0},
		{"operator", "deadletters|show|1|--reveal", 0},
		{"operator", "deadletters|replay|2|--yes|--no-canary|--wait|20s", exitDeadLetter},
		{"operator", "deadletters|replay|--reason|not_found|--yes|--wait|20s", exitDeadLetter},
		{"operator", "deadletters|export|--reveal|--to|" + export, 0},
		{"operator", "deadletters|discard|--reason|forbidden|--because|closed|--yes", 0},
		{"operator", "deadletters|import|--force|" + export, exitFailed}, // What was removed just now the server drops as a duplicate.
		{"operator", "deadletters|edit|1|--yes|--filename|new.pdf", 0},
		{"operator", "deadletters|erase|--vorgang|410|--because|Art. 17|--yes", 0},
		{"operator", "pause|--kind|document|--reason|a test", 0},
		{"operator", "resume|--kind|document", 0},
		{"operator", "pause|--for|1h", 0},
		{"publisher", "publish|comments|--vorgang|5|--id|waits-1|a comment", 0},
		{"publisher", "publish|comments|--vorgang|5|--id|waits-2|a comment", 0},
		{"publisher", "publish|document|--vorgang|5|" + large, 0},
		{"operator", "updates|list", 0},
		{"operator", "updates|show|13", 0},
		{"operator", "trace|waits-1", 0},
		{"operator", "trace|waits-2", 0},
		{"publisher", "publish|comments|--vorgang|8|a comment", 0},
		{"publisher", "publish|document|--vorgang|8|" + large, 0},
		{"operator", "deadletters|erase|--vorgang|8|--because|Art. 17|--yes", 0}, // The relay does it with him.
	}
}

// roleCommandsAtRest are those that want the relay to be stopped, and what goes on after them.
func roleCommandsAtRest() []roleCommand {
	return []roleCommand{
		{"operator", "updates|cancel|13|--reason|wrong|--yes", 0},
		{"operator", "deadletters|erase|--vorgang|5|--because|Art. 17|--yes", 0},
		{"setup", "setup", 0},
		{"setup", "setup|--dry-run", 0},
		{"setup", "setup|--partitions|2", 0},
		{"operator", "resume", 0},
	}
}

// asRole runs a command with the settings of a role, until it ends or ctx does.
func asRole(ctx context.Context, s *embeddedtest.Secured, role string, args []string, more ...string) (code int, output string) {
	var out lockedBuffer
	environ := append(slices.Concat(s.Environ(role), more), "HOME="+s.Dir, "XDG_CONFIG_HOME="+s.Dir)
	env := &environment{environ: environ, stdin: strings.NewReader(""), stdout: &out, stderr: &out}
	root := newRootCommand(env) //nolint:contextcheck // It is given the context below.
	root.SetArgs(args)
	code = exitCode(ctx, root.ExecuteContext(ctx), &out)
	return code, out.String()
}

// lockedBuffer is a buffer that several goroutines write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func apiFor(t *testing.T) (environ []string) {
	t.Helper()
	rule := func(vorgang string, status int) simulator.VorgangRule {
		return simulator.VorgangRule{Match: []string{vorgang}, Always: &simulator.Answer{Status: status}}
	}
	sim, err := simulator.New(simulator.Config{ClientID: "dev", ClientSecret: "dev-secret", Script: simulator.Script{
		Vorgaenge: []simulator.VorgangRule{rule("410", 410), rule("404", 404), rule("403", 403)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	api, err := sim.Start(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = api.Close() })
	return []string{
		"KEX_BASE_URL=" + api.BaseURL(), "KEX_TOKEN_URL=" + api.TokenURL(), "KEX_CLIENT_ID=dev", "KEX_CLIENT_SECRET=dev-secret",
		"KEXRELAY_HTTP_ADDR=127.0.0.1:0",
	}
}

func TestEveryRoleDoesItsWork(t *testing.T) {
	s := embeddedtest.RunSecured(t, embeddedtest.SecuredOptions{})
	api := apiFor(t)
	dir := t.TempDir()
	for name, size := range map[string]int{"small.pdf": 1 << 10, "large.pdf": 9 << 20} {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte("x"), size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	check := func(c roleCommand) {
		code, output := asRole(ctx, s, c.role, strings.Split(c.args, "|"), api...)
		if code != c.code {
			t.Errorf("%s: %s: exit code %d, want %d:\n%s", c.role, c.name(), code, c.code, output)
		}
		for _, refused := range s.Refused() {
			t.Errorf("%s: %s: not permitted: %s", c.role, c.name(), refused.Line)
		}
	}
	check(roleCommand{"setup", "setup|--dry-run", 0})
	check(roleCommand{"setup", "setup", 0})
	serving := func(commands []roleCommand) {
		relayCtx, stop := context.WithCancel(ctx)
		defer stop()
		var relay sync.WaitGroup
		relay.Go(func() {
			if code, output := asRole(relayCtx, s, "relay", []string{"serve"}, api...); code != 0 {
				t.Errorf("serve ended with %d:\n%s", code, output)
			}
		})
		for { // The relay has taken over all that it serves.
			code, output := asRole(ctx, s, "monitor", []string{"status"}, api...)
			if code == 0 {
				break
			}
			if ctx.Err() != nil {
				t.Fatalf("status: exit code %d:\n%s", code, output)
			}
		}
		for _, c := range commands {
			check(c)
		}
		stop()
		relay.Wait()
	}
	serving(roleCommands(dir))
	for _, c := range roleCommandsAtRest() {
		check(c)
	}
	serving([]roleCommand{{"clerk", "publish|comments|--vorgang|6|--wait=20s|after it", 0}, {"monitor", "status", 0}})
	check(roleCommand{"monitor", "status", exitUnhealthy})
}
