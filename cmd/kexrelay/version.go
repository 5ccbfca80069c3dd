package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"kexrelay/internal/telemetry"
)

// version is set by the linker for releases: -ldflags "-X main.version=v1.2.3".
var version = "" //nolint:gochecknoglobals // the linker can only set a variable

// buildVersion is the release's version, or the revision the binary was built from.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" && len(setting.Value) >= 12 {
			return "devel-" + setting.Value[:12]
		}
	}
	return "devel"
}

// versionCommand is `kexrelay version`.
type versionCommand struct {
	env    *environment
	output outputFlags
}

func newVersionCommand(env *environment) *cobra.Command {
	c := &versionCommand{env: env}
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  kexrelay version\n  kexrelay version --json",
		RunE:    func(*cobra.Command, []string) error { return c.run() },
	}
	c.output.register(cmd)
	return cmd
}

func (c *versionCommand) run() error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	facts := struct {
		Version string `json:"version"`
		Go      string `json:"go"`
		OS      string `json:"os"`
		Arch    string `json:"arch"`
	}{buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH}
	if p.json {
		return p.object(facts)
	}
	return p.line("kexrelay %s (%s, %s/%s)", facts.Version, facts.Go, facts.OS, facts.Arch)
}

// telemetryBuild is what the metrics say of the build.
func telemetryBuild() telemetry.BuildInfo {
	return telemetry.BuildInfo{Version: buildVersion(), GoVersion: runtime.Version()}
}
