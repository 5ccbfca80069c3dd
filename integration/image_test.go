//go:build integration

package integration

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// imageFacts are what docker says of an image.
type imageFacts struct {
	ID     string `json:"Id"`
	Config struct {
		User         string
		ExposedPorts map[string]any
		Entrypoint   []string
		Cmd          []string
		Labels       map[string]string
	}
	RootFS struct{ Layers []string }
}

// commitOf makes a repository with one commit of the working tree, always the same one, in a directory of its own.
func commitOf(t *testing.T, umask string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "checkout")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := `umask ` + umask + `
root=$(git rev-parse --show-toplevel)
git -C "$root" ls-files -z | tar -C "$root" --null -T - -cf - | tar -C "$1" -m -xf -
cd "$1"
chmod -R u+rwX .
git init -q .
git config core.fileMode false
git add -A
git -c user.name=t -c user.email=t@localhost -c commit.gpgsign=false commit -q -m one`
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script, "bash", dir)
	cmd.Env = append(os.Environ(), "GIT_AUTHOR_DATE=2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// builtImage is what one build made: the archive, the image loaded from it, and the image docker built.
type builtImage struct {
	dir            string
	archive        []byte
	loaded, docked imageFacts
}

// buildImage builds both ways; the archive's image is name:archive, docker's is name:<umask>.
func buildImage(t *testing.T, umask, name string) builtImage {
	t.Helper()
	b := builtImage{dir: commitOf(t, umask)}
	archived, built := name+":archive", name+":"+umask
	docker(t, b.dir, nil, "bash", "-euc", "umask "+umask+"; go run ./deploy/image --archive bin/kexrelay.tar --name "+archived)
	var err error
	if b.archive, err = os.ReadFile(filepath.Join(b.dir, "bin", "kexrelay.tar")); err != nil {
		t.Fatal(err)
	}
	docker(t, b.dir, nil, "docker", "load", "-i", "bin/kexrelay.tar")
	t.Cleanup(func() { docker(t, b.dir, nil, "docker", "rmi", "-f", archived, built) })
	docker(t, b.dir, nil, "bash", "-euc", "docker build --no-cache -q -f deploy/Dockerfile $(cat bin/image.args) -t "+built+" .")
	for image, into := range map[string]*imageFacts{archived: &b.loaded, built: &b.docked} {
		var all []imageFacts
		if err := json.Unmarshal([]byte(docker(t, b.dir, nil, "docker", "inspect", image)), &all); err != nil || len(all) != 1 {
			t.Fatalf("docker inspect %s: %v", image, err)
		}
		*into = all[0]
	}
	return b
}

// One commit, built in two places with different umasks and at different times: the same archive, the same image ID, the
// same layers. The Dockerfile and the archive describe the same image, and the image runs as somebody who may do nothing.
func TestImageIsTheSameWhoeverBuildsIt(t *testing.T) {
	t.Parallel()
	tag := fmt.Sprintf("kexrelay-image-test-%d", os.Getpid())
	one := buildImage(t, "022", tag)
	two := buildImage(t, "077", tag)
	if !bytes.Equal(one.archive, two.archive) {
		t.Error("two builds of a commit write different archives")
	}
	if one.loaded.ID != two.loaded.ID || !slices.Equal(one.loaded.RootFS.Layers, two.loaded.RootFS.Layers) {
		t.Errorf("the archives hold different images: %s %v, %s %v", one.loaded.ID, one.loaded.RootFS.Layers, two.loaded.ID, two.loaded.RootFS.Layers)
	}
	if !slices.Equal(one.docked.RootFS.Layers, two.docked.RootFS.Layers) || len(one.docked.RootFS.Layers) != 1 {
		t.Errorf("docker built different layers: %v, %v", one.docked.RootFS.Layers, two.docked.RootFS.Layers)
	}
	if loaded, docked := fmt.Sprint(one.loaded.Config), fmt.Sprint(one.docked.Config); loaded != docked {
		t.Errorf("the archive's image is\n%s\nthe Dockerfile's\n%s", loaded, docked)
	}
	t.Logf("image %s, layer %s; docker build's layer %s", one.loaded.ID, one.loaded.RootFS.Layers[0], one.docked.RootFS.Layers[0])
	labels := one.loaded.Config.Labels
	commit := strings.TrimSpace(docker(t, one.dir, nil, "git", "rev-parse", "HEAD"))
	for label, want := range map[string]string{
		"revision": commit, "version": "devel-" + commit[:12], "created": "2026-01-02T03:04:05Z", "title": "kexrelay",
	} {
		if got := labels["org.opencontainers.image."+label]; got != want {
			t.Errorf("label %s is %q, want %q", label, got, want)
		}
	}
	// With no right, no network and nothing to write on.
	run := []string{"run", "--rm", "--read-only", "--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"}
	for _, image := range []string{tag + ":archive", tag + ":022"} {
		if said := docker(t, one.dir, nil, "docker", append(slices.Clone(run), image, "version")...); !strings.Contains(said, "devel-"+commit[:12]) {
			t.Errorf("%s says %s", image, said)
		}
	}
	checkParts(t, one.dir, tag+":archive", one.loaded.Config.Labels["org.opencontainers.image.version"])
}

// checkParts holds the list of parts in the image against the binary in the image, as the go command reads it.
func checkParts(t *testing.T, dir, image, version string) {
	t.Helper()
	id := strings.TrimSpace(docker(t, dir, nil, "docker", "create", image))
	out := t.TempDir()
	docker(t, dir, nil, "docker", "cp", id+":/.", out)
	docker(t, dir, nil, "docker", "rm", id)
	text, err := os.ReadFile(filepath.Join(out, "sbom.cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	var parts struct {
		BOMFormat, SpecVersion, SerialNumber string
		Metadata                             struct {
			Timestamp time.Time
			Component struct{ Name, Version string }
		}
		Components []struct{ Name, Version string }
	}
	if err := json.Unmarshal(text, &parts); err != nil {
		t.Fatal(err)
	}
	if parts.BOMFormat != "CycloneDX" || parts.SpecVersion != "1.6" || parts.Metadata.Component.Name != "kexrelay" || parts.Metadata.Component.Version != version {
		t.Errorf("the list of parts begins %.600s", text)
	}
	info, err := buildinfo.ReadFile(filepath.Join(out, "kexrelay"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"std " + strings.TrimPrefix(info.GoVersion, "go")}
	for _, module := range info.Deps {
		want = append(want, module.Path+" "+module.Version)
	}
	got := make([]string, 0, len(parts.Components))
	for _, c := range parts.Components {
		got = append(got, c.Name+" "+c.Version)
	}
	if !slices.Equal(got, want) || len(got) < 20 {
		t.Errorf("the list of parts has\n%s\nthe binary\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	entries, err := os.ReadDir(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		// The rest docker makes for every container.
		if name := entry.Name(); !slices.Contains([]string{"kexrelay", "sbom.cdx.json", ".dockerenv", "dev", "etc", "proc", "sys"}, name) {
			t.Errorf("the image has %s too", name)
		}
	}
	t.Logf("%d parts", len(got))
}
