package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// editPrefix begins the names of the private directories that content is edited in, before the process's number.
	editPrefix = "kexrelay-edit-"
	// editForgotten is how old such a directory is when nobody can be at it any more, whatever its process's number says.
	editForgotten = 24 * time.Hour
)

// editor lets the user change a text in his own editor. The text lies in a file of mode 0600 in a directory of mode
// 0700, in memory where the system offers that (XDG_RUNTIME_DIR). The directory goes with the editor, and what a process
// left that was killed goes when the next one begins.
type editor struct{ env *environment }

// roots are where the directories may lie, the best first.
func (e *editor) roots() []string {
	roots := []string{os.TempDir()}
	if dir, _ := e.env.lookup("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		roots = append([]string{dir}, roots...)
	}
	return roots
}

// sweep removes what killed processes left.
func (e *editor) sweep() {
	for _, root := range e.roots() {
		left, _ := filepath.Glob(filepath.Join(root, editPrefix+"*")) // The pattern is well formed.
		for _, dir := range left {
			if forgotten(dir) {
				_ = os.RemoveAll(dir) // Somebody else's directory refuses; then it is his.
			}
		}
	}
}

// forgotten reports whether nobody edits in a directory any more.
func forgotten(dir string) bool {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return false
	}
	if time.Since(info.ModTime()) > editForgotten {
		return true
	}
	number, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), editPrefix), "-")
	pid, err := strconv.Atoi(number)
	if err != nil || pid <= 0 {
		return false
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return true
	}
	err = process.Signal(syscall.Signal(0))
	return errors.Is(err, os.ErrProcessDone) || errors.Is(err, syscall.ESRCH)
}

// file makes the private directory and the file with the text in it; remove takes both away.
func (e *editor) file(name, text string) (path string, remove func(), err error) {
	for _, root := range e.roots() {
		var dir string
		if dir, err = os.MkdirTemp(root, editPrefix+strconv.Itoa(os.Getpid())+"-"); err != nil {
			continue
		}
		path = filepath.Join(dir, name)
		remove = func() { _ = os.RemoveAll(dir) } // What cannot be removed is swept by the next one.
		if err = os.WriteFile(path, []byte(text), 0o600); err == nil {
			return path, remove, nil
		}
		remove()
	}
	return "", nil, fmt.Errorf("creating a private file to edit: %w", err)
}

// command is the user's editor: VISUAL, else EDITOR, else vi. It may have arguments.
func (e *editor) command() string {
	for _, name := range []string{"VISUAL", "EDITOR"} {
		if command, _ := e.env.lookup(name); strings.TrimSpace(command) != "" {
			return command
		}
	}
	return "vi"
}

// errEditor says that the editor did not end well: nothing may be done then.
var errEditor = errors.New("nothing was changed")

// edit opens the text and returns what it is when the editor has ended.
func (e *editor) edit(ctx context.Context, name, text string) (string, error) {
	path, remove, err := e.file(name, text)
	if err != nil {
		return "", err
	}
	defer remove()
	if err := e.run(ctx, path); err != nil {
		return "", err
	}
	edited, err := os.ReadFile(path) //nolint:gosec // Made here.
	if err != nil {
		return "", fmt.Errorf("reading what was edited: %w: %w", err, errEditor)
	}
	return string(edited), nil
}

// run runs the editor. ^C is for the editor while it runs; being told to end (SIGTERM, a terminal that is closed) ends
// it, so that the file is removed.
func (e *editor) run(ctx context.Context, path string) error {
	command := e.command()
	var cmd *exec.Cmd
	if runtime.GOOS == "windows" {
		words := strings.Fields(command)
		cmd = exec.CommandContext(context.WithoutCancel(ctx), words[0], append(words[1:], path)...) //nolint:gosec // The user's own editor.
	} else {
		cmd = exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", "-c", command+` "$@"`, command, path) //nolint:gosec // As above.
	}
	cmd.Env = withoutSecrets(e.env.environ)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = e.env.stdin, e.env.stdout, e.env.stderr
	if !terminal(e.env.stdout) && terminal(e.env.stderr) {
		cmd.Stdout = e.env.stderr // Stdout is data.
	}
	interrupts, ends := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	signal.Notify(ends, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(interrupts)
	defer signal.Stop(ends)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the editor %q (set EDITOR to another): %w: %w", printable(command), err, errEditor)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("the editor %q ended with %w: %w", printable(command), err, errEditor)
		}
		return nil
	case <-ends:
		_ = cmd.Process.Signal(syscall.SIGTERM) // It may have ended by itself.
		return fmt.Errorf("editing: %w", context.Canceled)
	}
}
