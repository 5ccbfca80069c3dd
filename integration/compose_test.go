//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"kexrelay/internal/update"
)

// docker-compose up, as the repository has it, on a machine without a registry: a published comment comes out as a
// result event, and Prometheus sees the relay.
func TestComposeCarriesAPublishedComment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, path := range []string{
		"docker-compose.yml", ".dockerignore", "deploy/Dockerfile", "deploy/nats/nats.conf",
		"deploy/prometheus/prometheus.yml", "deploy/prometheus/kexrelay.rules.yml",
	} {
		copyFile(t, filepath.Join("..", path), filepath.Join(dir, path))
	}
	copyFile(t, programs.kexrelay, filepath.Join(dir, "bin", "image", "kexrelay"))

	project := fmt.Sprintf("kexrelay-test-%d", os.Getpid())
	natsImage, relayImage, prometheusImage := project+"-nats:local", project+"-relay:local", project+"-prometheus:local"
	imageOf(t, natsImage, programs.natsServer)
	prometheus, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatalf("%v: install prometheus (Debian: apt-get install --no-install-recommends prometheus)", err)
	}
	imageOf(t, prometheusImage, prometheus)

	natsPort, relayPort, prometheusPort := freePort(t), freePort(t), freePort(t)
	env := []string{
		"COMPOSE_PROJECT_NAME=" + project, "NATS_IMAGE=" + natsImage, "KEXRELAY_IMAGE=" + relayImage,
		"PROMETHEUS_IMAGE=" + prometheusImage, "PROMETHEUS_PORT=" + strconv.Itoa(prometheusPort),
		"NATS_PORT=" + strconv.Itoa(natsPort), "RELAY_PORT=" + strconv.Itoa(relayPort), "SIMULATOR_PORT=" + strconv.Itoa(freePort(t)),
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(docker(t, dir, env, "docker-compose", "--profile", "prometheus", "logs", "--no-color", "--tail=40"))
		}
		docker(t, dir, env, "docker-compose", "--profile", "prometheus", "down", "-v", "--timeout", "50")
		docker(t, dir, env, "docker", "rmi", "-f", natsImage, relayImage, prometheusImage)
		// Compose builds the image once per service: of those that are not the same one has the name, the others have none.
		docker(t, dir, env, "docker", "image", "prune", "-f", "--filter", "label=org.opencontainers.image.title=kexrelay",
			"--filter", "label=org.opencontainers.image.revision=unknown")
	})
	docker(t, dir, env, "docker-compose", "--profile", "prometheus", "up", "--build", "-d")
	s := &system{t: t, dir: dir, natsURL: "nats://127.0.0.1:" + strconv.Itoa(natsPort), health: "http://127.0.0.1:" + strconv.Itoa(relayPort)}
	eventually(t, time.Minute, "the relay is ready", func() bool { code, _ := s.ready(); return code == http.StatusOK })
	eventually(t, time.Minute, "docker sees it healthy", func() bool {
		id := strings.TrimSpace(docker(t, dir, env, "docker-compose", "ps", "-q", "relay"))
		return strings.TrimSpace(docker(t, dir, env, "docker", "inspect", "-f", "{{.State.Health.Status}}", id)) == "healthy"
	})
	s.connect()
	s.publish("kex.vorgang.123456.kommentare", `["Testkommentar"]`, map[string]string{"X-TraceId": "compose1"})
	s.drained(20 * time.Second)
	events := s.results()
	if len(events) != 1 || events[0].Data.Outcome != update.Delivered || events[0].Data.TraceID != "compose1" {
		t.Fatalf("results %+v", events)
	}
	m := &monitoring{t: t, url: "http://127.0.0.1:" + strconv.Itoa(prometheusPort)}
	begin := time.Now()
	for _, query := range []string{`up{job="kexrelay"} == 1`, `kexrelay_updates_total{kind="kommentare",outcome="delivered"} == 1`} {
		eventually(t, 30*time.Second, "as the README says, prometheus answers "+query, func() bool { return m.ask(query) == 1 })
	}
	t.Logf("prometheus shows what was delivered %v after it was", time.Since(begin))
	var rules struct {
		Groups []struct{ Rules []json.RawMessage }
	}
	if !m.get("/api/v1/rules", &rules) || len(rules.Groups) != 1 || len(rules.Groups[0].Rules) != len(readRules(t)) {
		t.Errorf("prometheus has the rules %+v", rules)
	}
	begin = time.Now()
	docker(t, dir, env, "docker-compose", "stop", "relay")
	id := strings.TrimSpace(docker(t, dir, env, "docker-compose", "ps", "-aq", "relay"))
	if code := strings.TrimSpace(docker(t, dir, env, "docker", "inspect", "-f", "{{.State.ExitCode}}", id)); code != "0" {
		t.Errorf("exit code %s after docker-compose stop", code)
	}
	t.Logf("stopped in %v", time.Since(begin))
}

// imageOf makes an image from nothing but a program and the libraries it is linked with, with root in it: there may be no
// registry to pull one from.
func imageOf(t *testing.T, image, program string) {
	t.Helper()
	dir := t.TempDir()
	copyFile(t, program, filepath.Join(dir, "root", "program"))
	out, err := exec.CommandContext(t.Context(), "ldd", program).CombinedOutput()
	if err == nil { // Else it is linked with none.
		for _, library := range libraries.FindAllString(string(out), -1) {
			copyFile(t, library, filepath.Join(dir, "root", library))
		}
	}
	dockerfile := "FROM scratch\nCOPY root/ /\nENTRYPOINT [\"/program\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o600); err != nil {
		t.Fatal(err)
	}
	docker(t, dir, nil, "docker", "build", "-t", image, ".")
}

// libraries finds paths in what ldd prints.
var libraries = regexp.MustCompile(`/lib\S+`)

// docker runs a command of the engine and gives what it printed.
func docker(t *testing.T, dir string, env []string, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close() //nolint:errcheck // it is only read
	info, err := in.Stat()
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, info.Mode())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
