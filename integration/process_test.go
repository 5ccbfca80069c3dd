package integration

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kexrelay/internal/embedded/embeddedtest"
)

// process is a program started by a test. It is killed, by its PID, when the test ends.
type process struct {
	name   string
	cmd    *exec.Cmd
	output lockedBuffer
	file   string // Where its output is instead, if anywhere.
	exited chan struct{}
	err    error
}

// lockedBuffer collects output that is read while it is written.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// startProcess runs a program as launch does. If the test fails, it shows the last that the program printed.
func startProcess(tb testing.TB, name string, env []string, program string, args ...string) *process {
	tb.Helper()
	p := launch(tb, name, env, program, args...)
	tb.Cleanup(func() {
		p.kill()
		if tb.Failed() {
			tb.Logf("last output of %s:\n%s", name, tail(p.output.String(), 60))
		}
	})
	return p
}

// launch runs a program with an environment of its own, so that nothing of the machine's leaks into the test.
func launch(tb testing.TB, name string, env []string, program string, args ...string) *process {
	tb.Helper()
	return launchInto(tb, name, nil, env, program, args...)
}

// launchInto is launch for a program that prints into a file, which costs this process nothing; without one into output.
func launchInto(tb testing.TB, name string, file *os.File, env []string, program string, args ...string) *process {
	tb.Helper()
	p := &process{name: name, cmd: exec.Command(program, args...), exited: make(chan struct{})}
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + tb.TempDir()}, env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if file != nil {
		p.cmd.Stdout, p.cmd.Stderr, p.file = file, file, file.Name()
	}
	if err := p.cmd.Start(); err != nil {
		tb.Fatalf("starting %s: %v", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	tb.Cleanup(func() {
		p.kill()
		wantNoRace(tb, name, p.printed(10_000))
	})
	return p
}

// printed is the last that the program printed.
func (p *process) printed(lines int) string {
	if p.file == "" {
		return tail(p.output.String(), lines)
	}
	text, err := os.ReadFile(p.file)
	if err != nil {
		return err.Error()
	}
	return tail(string(text), lines)
}

// wantNoRace fails the test if a program that was built with the race detector has reported a race.
func wantNoRace(tb testing.TB, name, output string) {
	tb.Helper()
	if i := strings.Index(output, "WARNING: DATA RACE"); i >= 0 {
		lines := strings.SplitN(output[i:], "\n", 60)
		tb.Errorf("%s has a data race:\n%s", name, strings.Join(lines[:len(lines)-1], "\n"))
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// terminate sends SIGTERM and gives the exit code, failing the test if the process outlives the limit.
func (p *process) terminate(tb testing.TB, limit time.Duration) int {
	tb.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		tb.Fatalf("stopping %s: %v", p.name, err)
	}
	return p.wait(tb, limit)
}

// wait gives the exit code once the process has ended.
func (p *process) wait(tb testing.TB, limit time.Duration) int {
	tb.Helper()
	select {
	case <-p.exited:
	case <-time.After(limit):
		tb.Fatalf("%s still runs after %v", p.name, limit)
	}
	if exit, ok := errors.AsType[*exec.ExitError](p.err); ok {
		return exit.ExitCode()
	}
	if p.err != nil {
		tb.Fatalf("%s: %v", p.name, p.err)
	}
	return 0
}

// residentBytes is the process's resident memory now.
func (p *process) residentBytes(tb testing.TB) int64 {
	tb.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/statm")
	if err != nil {
		tb.Fatalf("reading the memory of %s: %v", p.name, err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// runProgram runs a program to its end and gives what it printed and its exit code.
func runProgram(tb testing.TB, env []string, stdin io.Reader, program string, args ...string) (stdout, stderr string, code int) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + tb.TempDir()}, env...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	err := cmd.Run()
	wantNoRace(tb, filepath.Base(program), errs.String())
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.String(), errs.String(), exit.ExitCode()
	}
	if err != nil {
		tb.Fatalf("running %s %v: %v", program, args, err)
	}
	return out.String(), errs.String(), 0
}

// freePort is a port that is the test's until it ends.
func freePort(tb testing.TB) int {
	tb.Helper()
	return embeddedtest.FreePort(tb)
}

// busy is how much longer everything may take on a machine that has other work.
const busy = 4

// eventually polls until the condition holds, and fails the test if it does not. The limit is that of a machine with
// nothing else to do, and is there to find out what hangs: busy times as long is waited. What the relay promises is held
// to its time by promised and by stalls.
func eventually(tb testing.TB, limit time.Duration, what string, holds func() bool) {
	tb.Helper()
	limit *= busy
	deadline := time.Now().Add(limit)
	for !holds() {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s", limit, what)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-tb.Context().Done():
			tb.Fatal(context.Cause(tb.Context()))
		}
	}
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
