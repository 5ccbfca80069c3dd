package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"kexrelay/internal/simulator"
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
	for _, name := range []string{
		"PATH", "HOME", "XDG_CONFIG_HOME", "TZ", "NATS_URL", "GOCOVERDIR", "NATS_USER", "NATS_PASSWORD",
		"KEX_BASE_URL", "KEX_TOKEN_URL", "KEX_CLIENT_ID", "KEX_CLIENT_SECRET", "KEXRELAY_HTTP_ADDR",
	} {
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

// cmdUntil runs a command again and again until it ends and prints as it should.
func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: until CODE PATTERN kexrelay ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	deadline := time.After(scriptTimeout)
	for {
		got := 0
		if err := ts.Exec(args[2], args[3:]...); err != nil {
			exit, ok := errors.AsType[*exec.ExitError](err)
			if !ok {
				ts.Fatalf("%v", err)
			}
			got = exit.ExitCode()
		}
		printed := ts.ReadFile("stdout")
		if got == want && pattern.MatchString(printed) {
			return
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-deadline:
			ts.Fatalf("exit code %d, want %d and %s in:\n%s", got, want, args[1], printed)
		}
	}
}

// cmdAPI starts an API with its token endpoint that knows the client dev, as a background command of the script.
func cmdAPI(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: api [VORGANG:STATUS]")
	}
	script := simulator.Script{}
	if len(args) == 1 {
		vorgang, text, _ := strings.Cut(args[0], ":")
		status, err := strconv.Atoi(text)
		ts.Check(err)
		script.Vorgaenge = []simulator.VorgangRule{{Match: []string{vorgang}, Always: &simulator.Answer{Status: status}}}
	}
	sim, err := simulator.New(simulator.Config{ClientID: "dev", ClientSecret: "dev-secret", Script: script})
	ts.Check(err)
	server, err := sim.Start(context.Background(), "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = server.Close() })
	for name, value := range map[string]string{
		"KEX_BASE_URL": server.BaseURL(), "KEX_TOKEN_URL": server.TokenURL(), "KEX_CLIENT_ID": "dev", "KEX_CLIENT_SECRET": "dev-secret",
		"KEXRELAY_HTTP_ADDR": "127.0.0.1:0",
	} {
		ts.Setenv(name, value)
	}
}
