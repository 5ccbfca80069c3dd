package integration

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// beside is how many tests run at the same time that say they may: they mostly wait, for leases, Retry-Afters and
// probes, however many cores there are. Whoever says -parallel gets that. Tests that hold the relay to a time or use
// all cores do not say so, and run one after the other before those.
const beside = "5"

// The programs under test, built once.
var programs struct {
	kexrelay, natsServer string
}

func TestMain(m *testing.M) {
	if pool := os.Getenv(plainEnv); pool != "" {
		if err := runPlain(pool); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked {
		if err := flag.Set("test.parallel", beside); err != nil {
			panic(err)
		}
	}
	if *onlyLong {
		if err := chooseLong(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kexrelay-integration-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a leftover in the temporary directory harms nobody
	programs.kexrelay = filepath.Join(dir, "kexrelay")
	programs.natsServer = filepath.Join(dir, "nats-server")
	for out, pkg := range map[string]string{
		programs.kexrelay:   "kexrelay/cmd/kexrelay",
		programs.natsServer: "github.com/nats-io/nats-server/v2",
	} {
		build := exec.CommandContext(context.Background(), "go", "build", "-o", out, pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if raceDetector && out == programs.kexrelay {
			build.Args = slices.Insert(build.Args, 2, "-race")
			build.Env = os.Environ()
		}
		if text, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building %s: %v\n%s", pkg, err, text)
			return 1
		}
	}
	return m.Run()
}
