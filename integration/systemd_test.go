//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// unitIn writes the unit as the repository has it into dir, with the binary under test for the installed one.
func unitIn(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile("../deploy/systemd/kexrelay.service")
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(dir, "kexrelay.service")
	if err := os.WriteFile(unit, []byte(strings.ReplaceAll(string(text), "/usr/local/bin/kexrelay", programs.kexrelay)), 0o600); err != nil {
		t.Fatal(err)
	}
	return unit
}

// systemd understands every line of the unit, and finds it as hardened as it can say.
func TestTheSystemdUnitIsRightAndHardened(t *testing.T) {
	t.Parallel()
	env := []string{"SYSTEMD_LOG_LEVEL=warning"}
	unit := unitIn(t, t.TempDir())
	out, errs, code := runProgram(t, env, nil, "systemd-analyze", "verify", "--man=no", unit)
	if code != 0 || strings.Contains(out+errs, "kexrelay") { // A line it does not know is only a warning.
		t.Errorf("systemd-analyze verify: exit code %d\n%s%s", code, out, errs)
	}
	out, errs, _ = runProgram(t, env, nil, "systemd-analyze", "security", "--offline=yes", "--no-pager", unit)
	found := regexp.MustCompile(`Overall exposure level for kexrelay\.service: ([0-9.]+)`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("systemd-analyze security says no level:\n%s%s", out, errs)
	}
	t.Log(found[0])
	if level, err := strconv.ParseFloat(found[1], 64); err != nil || level > 2 {
		t.Errorf("exposure level %s, want at most 2.0:\n%s", found[1], out)
	}
}

// A wrong configuration is not tried again and again: RestartPreventExitStatus asks for the exit code of ExecStart alone,
// so that what fails before it is started anew every two seconds for ever.
func TestTheSystemdUnitEndsWithAWrongConfiguration(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../deploy/systemd/kexrelay.service")
	if err != nil {
		t.Fatal(err)
	}
	start := regexp.MustCompile(`(?m)^ExecStart=/usr/local/bin/kexrelay (serve) --config \S+$`).FindSubmatch(text)
	prevented := regexp.MustCompile(`(?m)^RestartPreventExitStatus=(\d+)$`).FindSubmatch(text)
	if start == nil || prevented == nil || regexp.MustCompile(`(?m)^ExecStartPre=`).Match(text) {
		t.Fatalf("the unit:\n%s", text)
	}
	config := filepath.Join(t.TempDir(), "kexrelay.yaml")
	if err := os.WriteFile(config, []byte("nonsense: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := runProgram(t, nil, nil, programs.kexrelay, string(start[1]), "--config", config); strconv.Itoa(code) != string(prevented[1]) {
		t.Errorf("exit code %d, want %s\n%s", code, prevented[1], errs)
	}
}

// A unit with a line that systemd does not know is found out: the test above can fail.
func TestAWrongSystemdUnitIsFoundOut(t *testing.T) {
	t.Parallel()
	unit := unitIn(t, t.TempDir())
	text, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(unit, []byte(strings.Replace(string(text), "ProtectHome=", "ProtectHoem=", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, _ := runProgram(t, nil, nil, "systemd-analyze", "verify", "--man=no", unit)
	if !strings.Contains(out+errs, "ProtectHoem") {
		t.Errorf("systemd-analyze verify says nothing of a wrong line:\n%s%s", out, errs)
	}
}

// The configuration beside the unit is one that serve takes.
func TestTheExampleConfigurationIsRight(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text, err := os.ReadFile("../deploy/systemd/kexrelay.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "client-secret"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "kexrelay.yaml")
	if err := os.WriteFile(config, []byte(strings.ReplaceAll(string(text), "/etc/kexrelay", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := runProgram(t, nil, nil, programs.kexrelay, "config", "check", "--config", config); code != 0 {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
}
