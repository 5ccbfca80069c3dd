package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

func TestPartsNameWhatWasReallyBuiltIn(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "kexrelay")
	if err := os.WriteFile(binary, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := sbom(binary, facts{version: "v1.2.3", created: time.Unix(0, 0).UTC(), info: &debug.BuildInfo{
		GoVersion: "go1.26.8", Main: debug.Module{Path: "kexrelay"},
		Deps: []*debug.Module{
			{Path: "example.org/a", Version: "v1.0.0+incompatible", Sum: "h1:abc="},
			{Path: "example.org/b", Version: "v1.0.0", Replace: &debug.Module{Path: "example.org/fork", Version: "v2.0.0", Sum: "h1:def="}},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var got bom
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	want := []string{"pkg:golang/std@1.26.8", "pkg:golang/example.org/a@v1.0.0%2Bincompatible", "pkg:golang/example.org/fork@v2.0.0"}
	for i, c := range got.Components {
		if i >= len(want) || c.PURL != want[i] || c.Ref != want[i] || got.Dependencies[0].DependsOn[i] != want[i] {
			t.Errorf("component %d: %+v", i, c)
		}
	}
	if p := got.Components[2].Properties; len(got.Components) != 3 || len(p) != 2 || p[1].Value != "example.org/b@v1.0.0" {
		t.Errorf("components %+v", got.Components)
	}
	if h := got.Metadata.Component.Hashes[0].Content; !strings.HasPrefix(h, "2d711642b726b044") || got.Metadata.Component.PURL != "pkg:golang/kexrelay@v1.2.3" {
		t.Errorf("the binary: %+v", got.Metadata.Component)
	}
}

func TestWhatNoImageCanBeMadeOfIsRefusedBeforeAnythingIsBuilt(t *testing.T) {
	for option, o := range map[string]options{
		"--version":         {version: "v1 --other", arch: "amd64"},
		"--arch":            {arch: "riscv"},
		"SOURCE_DATE_EPOCH": {arch: "amd64", epoch: "yesterday"},
	} {
		o.out = filepath.Join(t.TempDir(), "bin")
		_, err := o.run(t.Context())
		if err == nil || !strings.Contains(err.Error(), option) {
			t.Errorf("%s: %v", option, err)
		}
		if _, err := os.Stat(o.out); err == nil {
			t.Errorf("%s: something was written", option)
		}
	}
}

// BuildKit labels the image with the processor that its binary is for, whichever machine builds it.
func TestDockerBuildIsToldTheProcessor(t *testing.T) {
	o := options{out: t.TempDir(), arch: "arm64"}
	tree := filepath.Join(o.out, "image")
	if err := os.Mkdir(tree, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, binaryName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := o.write(tree, nil, facts{version: "v1.2.3", revision: "abc", created: time.Unix(0, 0).UTC()}); err != nil {
		t.Fatal(err)
	}
	args, err := os.ReadFile(filepath.Join(o.out, "image.args"))
	want := "--platform linux/arm64 --build-arg VERSION=v1.2.3 --build-arg REVISION=abc --build-arg CREATED=1970-01-01T00:00:00Z\n"
	if err != nil || string(args) != want {
		t.Errorf("%q, %v, want %q", args, err, want)
	}
}
