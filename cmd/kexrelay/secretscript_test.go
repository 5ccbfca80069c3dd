package main

import (
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdListed waits until the list of processes shows no text of a file for a started command, and checks that it shows
// the rest of its arguments.
func cmdListed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: listed NAME TEXT FILE")
	}
	pid := strconv.Itoa(startedIn(ts)[args[0]].Process.Pid)
	deadline := time.Now().Add(scriptTimeout)
	for {
		list, err := os.ReadFile("/proc/" + pid + "/cmdline")
		ts.Check(err)
		shown := strings.ReplaceAll(string(list), "\x00", " ")
		ps, err := exec.Command("ps", "-ww", "-o", "args=", "-p", pid).Output()
		if err == nil {
			shown += string(ps)
		} else if !errors.Is(err, exec.ErrNotFound) {
			ts.Check(err)
		}
		leak := ""
		for canary := range strings.FieldsSeq(ts.ReadFile(args[2])) {
			if strings.Contains(shown, canary) {
				leak = canary
			}
		}
		switch {
		case leak == "" && strings.Contains(shown, args[1]):
			return
		case time.Now().After(deadline):
			ts.Fatalf("%q is in the list of processes, or %q is not: %s", leak, args[1], shown)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// cmdFetch prints what is answered at an address into a file.
func cmdFetch(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: fetch STATUS URL FILE")
	}
	resp, err := http.Get(args[1])
	ts.Check(err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if strconv.Itoa(resp.StatusCode) != args[0] {
		ts.Fatalf("status %d, want %s", resp.StatusCode, args[0])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), body, 0o600))
}

// cmdDump ends a started command with a dump of all goroutines, as a panic does.
func cmdDump(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: dump NAME")
	}
	command := startedIn(ts)[args[0]]
	ts.Check(command.Process.Signal(syscall.SIGQUIT))
	if err := command.Wait(); err == nil {
		ts.Fatalf("it ended well")
	}
}
