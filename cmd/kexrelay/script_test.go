package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/rogpeppe/go-internal/testscript"

	"kexrelay/internal/embedded"
	"kexrelay/internal/embedded/embeddedtest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kexrelay": main})
}

// Each script is the specification of one command or one rule, which its first comment says. Beside testscript's own
// commands there are:
//
//	exits CODE kexrelay ARG...   the command must end with this exit code
//	freeport VARIABLE            finds a port that nobody listens on
//	nats [PORT]                  starts a nats-server; NATS_URL says where, NATS_ADDRESS without a scheme
//	denied                       starts a nats-server that denies everything to the user who is set
//	full STREAM                  empties a stream and lets it take nothing more
//	settle delivered             settles every waiting update, as a relay would, and ends
//	settle REASON [STATUS [DETAIL]]   the same as dead letters
//	relay OUTCOME...             settles whatever comes, in the background, with these in turn
//	hold REASON [DETAIL]         says that a relay holds
//	pull                         asks for an update, as a relay does, and settles nothing
//	audited ACTION COUNT [TEXT...]   there are so many audit events of an action, and each text is in one of them
//	health STATUS BODY           answers like a health endpoint; HEALTH_URL says where
//	start NAME kexrelay ARG...   starts it in the background; its output goes to NAME.out and NAME.err
//	seen FILE LINES              waits until a file has so many lines
//	interrupt NAME CODE          ends a started command as ^C does; it must exit with this code
//	until CODE PATTERN kexrelay ARG...   runs it until it ends with the code and its stdout matches
//	api [VORGANG:STATUS]         starts a simulated API; serve finds it and its client in the environment
//	followed                     waits until somebody reads the results
//	unanswered                   takes the stream of updates away and swallows what is published
//	asked                        waits until something was swallowed
//	published [TEXT...]          some update's body or headers in the stream must contain each text
//	sequences FILE               writes the last sequence of every stream into a file
//	noisy                        copies of what is in NATS come beside it, with escape sequences in their texts
//	harmless [FILE...]           nothing in what the last command printed, and in the files, could steer a terminal
//	fakenats ERR|NONE            starts what only looks like a nats-server, or one nobody may connect to; NATS_URL says where
//	untouched                    nobody has connected to it
//	badfiles                     writes good and bad files of every kind
//	listed NAME TEXT FILE        the list of processes shows TEXT of a started command, and no text of FILE
//	fetch STATUS URL FILE        asks an HTTP server
//	dump NAME                    ends a started command with a dump of its goroutines
//	nocanary FILE...             none of the texts in the files may be in what the last command printed
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, "home")
			env.Setenv("HOME", home)
			env.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config")) // Where the nats CLI's contexts are.
			env.Setenv("TZ", "UTC")
			env.Values[startedKey{}] = started{}
			env.Values[touchedKey{}] = &atomic.Int32{}
			env.Values[unansweredKey{}] = &atomic.Pointer[nats.Subscription]{}
			return os.Mkdir(home, 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":      cmdExits,
			"freeport":   cmdFreePort,
			"nats":       cmdNATS,
			"denied":     cmdDenied,
			"full":       cmdFull,
			"settle":     cmdSettle,
			"relay":      cmdRelay,
			"hold":       cmdHold,
			"audited":    cmdAudited,
			"pull":       cmdPull,
			"health":     cmdHealth,
			"start":      cmdStart,
			"seen":       cmdSeen,
			"interrupt":  cmdInterrupt,
			"until":      cmdUntil,
			"api":        cmdAPI,
			"followed":   cmdFollowed,
			"unanswered": cmdUnanswered,
			"asked":      cmdAsked,
			"published":  cmdPublished,
			"stored":     cmdStored,
			"sequences":  cmdSequences,
			"nocanary":   cmdNoCanary,
			"noisy":      cmdNoisy,
			"harmless":   cmdHarmless,
			"fakenats":   cmdFakeNATS,
			"untouched":  cmdUntouched,
			"badfiles":   cmdBadFiles,
			"listed":     cmdListed,
			"fetch":      cmdFetch,
			"dump":       cmdDump,
		},
	})
}

// cmdExits is exec with an exact exit code.
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE kexrelay ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// cmdNATS starts a server for the rest of the script.
func cmdNATS(ts *testscript.TestScript, _ bool, args []string) {
	tb := scriptTB{ts}
	if len(args) == 0 {
		url := embeddedtest.Run(tb).URL()
		ts.Setenv("NATS_URL", url)
		ts.Setenv("NATS_ADDRESS", strings.TrimPrefix(url, "nats://"))
		return
	}
	port, err := strconv.Atoi(args[0])
	ts.Check(err)
	server, err := embedded.Start(embedded.Options{Port: port, StoreDir: tb.TempDir()})
	ts.Check(err)
	ts.Defer(func() { ts.Check(server.Shutdown()) })
	ts.Setenv("NATS_URL", server.URL())
}

func cmdFreePort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: freeport VARIABLE")
	}
	ts.Setenv(args[0], strconv.Itoa(embeddedtest.FreePort(scriptTB{ts})))
}

// scriptTB lets embeddedtest live as long as the script.
type scriptTB struct{ *testscript.TestScript }

func (scriptTB) Helper() {}

func (t scriptTB) TempDir() string {
	dir, err := os.MkdirTemp(t.MkAbs("."), "nats")
	t.Check(err)
	return dir
}

func (t scriptTB) Cleanup(f func()) { t.Defer(f) }

func (t scriptTB) Errorf(format string, args ...any) { t.Logf("ERROR: "+format, args...) }

// cmdNoCanary looks for secrets in what the last command printed.
func cmdNoCanary(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: nocanary FILE...")
	}
	printed := ts.ReadFile("stdout") + ts.ReadFile("stderr")
	for _, file := range args {
		for canary := range strings.Lines(ts.ReadFile(file)) {
			canary = strings.TrimSpace(canary)
			if canary != "" && strings.Contains(printed, canary) {
				ts.Fatalf("%q was printed", canary)
			}
		}
	}
}

// Every command has a help text with an example that fits into 80 columns, and none of them needs anything for it.
func TestHelpOfEveryCommand(t *testing.T) {
	var stdout, stderr bytes.Buffer
	root := newRootCommand(&environment{stdout: &stdout, stderr: &stderr})
	seen := 0
	var walk func(path []string)
	walk = func(path []string) {
		cmd, _, err := root.Find(path)
		if err != nil {
			t.Fatal(err)
		}
		if cmd.Name() == "completion" || cmd.Name() == "help" {
			return // cobra's own.
		}
		stdout.Reset()
		if code := run(append(path, "--help"), nil, nil, &stdout, &stderr); code != 0 {
			t.Errorf("%s --help exits with %d: %s", cmd.CommandPath(), code, &stderr)
		}
		if !cmd.HasSubCommands() && !strings.Contains(stdout.String(), "Examples:\n  ") {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		for line := range strings.Lines(stdout.String()) {
			wide := len([]rune(strings.TrimRight(line, "\n"))) > defaultWidth
			if wide && !strings.Contains(line, "https://") { // A URL is not broken.
				t.Errorf("%s --help has a line of more than %d columns: %s", cmd.CommandPath(), defaultWidth, line)
			}
		}
		seen++
		for _, sub := range cmd.Commands() {
			walk(append(slices.Clip(path), sub.Name()))
		}
	}
	walk(nil)
	if seen < 10 {
		t.Errorf("only %d commands were looked at", seen)
	}
}
