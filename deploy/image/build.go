package main

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Names of the files of the image, all in its root.
const (
	binaryName = "kexrelay"
	sbomName   = "sbom.cdx.json"
)

// options are what the command line and the environment say.
type options struct {
	out, archive, name, version, arch string
	// epoch is SOURCE_DATE_EPOCH: seconds since 1970 that replace the commit's time.
	epoch       string
	environment []string
}

// facts are what the binary says of its origin.
type facts struct {
	version, revision string
	created           time.Time
	modified          bool
	info              *debug.BuildInfo
}

// run builds everything and gives what is to be told.
func (o options) run(ctx context.Context) (string, error) {
	if flagged := strings.IndexFunc(o.version, func(r rune) bool { return r <= ' ' || r > '~' || r == '\'' || r == '"' }); flagged >= 0 {
		return "", fmt.Errorf("--version: %q has a character that no version has", o.version)
	}
	if !slices.Contains([]string{"amd64", "arm64"}, o.arch) {
		return "", fmt.Errorf("--arch: %q is neither amd64 nor arm64", o.arch)
	}
	epoch, err := parseEpoch(o.epoch)
	if err != nil {
		return "", err
	}
	tree := filepath.Join(o.out, "image")
	if err := os.RemoveAll(tree); err != nil { // What an earlier version left would go into the image.
		return "", fmt.Errorf("clearing the image's tree: %w", err)
	}
	if err := os.MkdirAll(tree, 0o755); err != nil { //nolint:gosec // The image's root is for everybody.
		return "", fmt.Errorf("making the image's tree: %w", err)
	}
	binary := filepath.Join(tree, binaryName)
	if err := o.build(ctx, binary); err != nil {
		return "", err
	}
	f, err := o.factsOf(binary, epoch)
	if err != nil {
		return "", err
	}
	list, err := sbom(binary, f)
	if err != nil {
		return "", err
	}
	if err := o.write(tree, list, f); err != nil {
		return "", err
	}
	said := fmt.Sprintf("%s: kexrelay %s for linux/%s, of %s\n", tree, f.version, o.arch, f.created.Format(time.RFC3339))
	if o.arch != runtime.GOARCH {
		said += fmt.Sprintf("docker build without BuildKit would label it %s: take --archive, and build without --arch before docker build\n", runtime.GOARCH)
	}
	if f.modified {
		said += "with changes that are in no commit: nobody can build this again\n"
	}
	if o.archive == "" {
		return said, nil
	}
	id, err := writeArchive(o.archive, o.name, o.arch, tree, f)
	if err != nil {
		return "", err
	}
	return said + fmt.Sprintf("%s: image %s, %s\n", o.archive, o.name, id), nil
}

// build compiles the relay so that neither the machine nor the directory it is built in can be seen in the binary.
func (o options) build(ctx context.Context, binary string) error {
	ldflags := "-s -w"
	if o.version != "" {
		ldflags += " -X main.version=" + o.version
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=auto", "-ldflags", ldflags, "-o", binary, "kexrelay/cmd/kexrelay") //nolint:gosec // It is what this command is for.
	cmd.Env = append(slices.Clone(o.environment), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+o.arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=", "GOEXPERIMENT=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building kexrelay: %w\n%s", err, out)
	}
	return nil
}

// factsOf reads the binary. Without a repository there is no commit: then SOURCE_DATE_EPOCH says the time, or it is 1970.
func (o options) factsOf(binary string, epoch *time.Time) (facts, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return facts{}, fmt.Errorf("reading what the binary was built of: %w", err)
	}
	f := facts{version: o.version, revision: "unknown", created: time.Unix(0, 0).UTC(), info: info}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			f.revision = setting.Value
		case "vcs.modified":
			f.modified = setting.Value == "true"
		case "vcs.time":
			if f.created, err = time.Parse(time.RFC3339, setting.Value); err != nil {
				return facts{}, fmt.Errorf("reading the commit's time: %w", err)
			}
		}
	}
	switch { // As `kexrelay version` says it.
	case f.version != "":
	case len(f.revision) >= 12:
		f.version = "devel-" + f.revision[:12]
	default:
		f.version = "devel"
	}
	if f.modified {
		f.revision += "-modified"
	}
	if epoch != nil {
		f.created = *epoch
	}
	f.created = f.created.UTC()
	return f, nil
}

// parseEpoch is nil where nothing is said.
func parseEpoch(text string) (*time.Time, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // Not said is an answer.
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds < 0 {
		return nil, errors.New("SOURCE_DATE_EPOCH is no number of seconds")
	}
	at := time.Unix(seconds, 0)
	return &at, nil
}

// write puts the list of parts beside the binary, and what docker build needs beside the tree. Modes and times are the
// same whatever umask and clock say.
func (o options) write(tree string, list []byte, f facts) error {
	for path, mode := range map[string]os.FileMode{
		filepath.Join(tree, binaryName): 0o755,
		filepath.Join(tree, sbomName):   0o644,
		filepath.Join(o.out, sbomName):  0o644,
		tree:                            0o755,
	} {
		if filepath.Base(path) == sbomName {
			if err := os.WriteFile(path, list, mode); err != nil {
				return fmt.Errorf("writing the list of parts: %w", err)
			}
		}
		if err := os.Chmod(path, mode); err != nil {
			return fmt.Errorf("setting a mode: %w", err)
		}
	}
	// The directory last: what is written into it changes its time.
	for _, path := range []string{filepath.Join(tree, binaryName), filepath.Join(tree, sbomName), tree} {
		if err := os.Chtimes(path, f.created, f.created); err != nil {
			return fmt.Errorf("setting a time: %w", err)
		}
	}
	args := fmt.Sprintf("--platform linux/%s --build-arg VERSION=%s --build-arg REVISION=%s --build-arg CREATED=%s\n", o.arch, f.version, f.revision, f.created.Format(time.RFC3339))
	if err := os.WriteFile(filepath.Join(o.out, "image.args"), []byte(args), 0o644); err != nil { //nolint:gosec // It is no secret.
		return fmt.Errorf("writing the labels: %w", err)
	}
	return nil
}
