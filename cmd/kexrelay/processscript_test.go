package main

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// started are the commands a script has running in the background, by name.
type started map[string]*exec.Cmd

// startedKey is where a script keeps them.
type startedKey struct{}

func startedIn(ts *testscript.TestScript) started {
	commands, ok := ts.Value(startedKey{}).(started)
	if !ok {
		ts.Fatalf("the script was not set up")
	}
	return commands
}

// cmdStart starts a command in the background, with its output in NAME.out and NAME.err.
func cmdStart(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || args[1] != "kexrelay" {
		ts.Fatalf("usage: start NAME kexrelay ARG...")
	}
	path, err := exec.LookPath("kexrelay")
	ts.Check(err)
	command := exec.Command(path, args[2:]...)
	command.Dir = ts.MkAbs(".")
	// Without GOCOVERDIR a binary made for measuring coverage complains on stderr.
	for _, name := range []string{"PATH", "HOME", "XDG_CONFIG_HOME", "TZ", "NATS_URL", "GOCOVERDIR"} {
		command.Env = append(command.Env, name+"="+ts.Getenv(name))
	}
	for ending, stream := range map[string]func(*os.File){
		".out": func(f *os.File) { command.Stdout = f },
		".err": func(f *os.File) { command.Stderr = f },
	} {
		file, err := os.Create(ts.MkAbs(args[0] + ending))
		ts.Check(err)
		ts.Defer(func() { _ = file.Close() })
		stream(file)
	}
	ts.Check(command.Start())
	startedIn(ts)[args[0]] = command
	ts.Defer(func() {
		_ = command.Process.Kill() // If it has not ended by itself.
		_ = command.Wait()
	})
}

// cmdSeen waits until a file has so many lines.
func cmdSeen(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: seen FILE LINES")
	}
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	deadline := time.After(scriptTimeout)
	for {
		content, err := os.ReadFile(ts.MkAbs(args[0]))
		ts.Check(err)
		if bytes.Count(content, []byte("\n")) >= want {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			ts.Fatalf("%s has not got %d lines:\n%s", args[0], want, content)
		}
	}
}

// cmdInterrupt does what ^C does, and wants an exit code.
func cmdInterrupt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: interrupt NAME CODE")
	}
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	command := startedIn(ts)[args[0]]
	ts.Check(command.Process.Signal(os.Interrupt))
	err = command.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		ts.Check(err)
	}
	if got := command.ProcessState.ExitCode(); got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// cmdHealth answers like a health endpoint.
func cmdHealth(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: health STATUS BODY")
	}
	status, err := strconv.Atoi(args[0])
	ts.Check(err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(args[1]))
	}))
	ts.Defer(server.Close)
	ts.Setenv("HEALTH_URL", server.URL)
}
