//go:build integration

package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kexrelay/internal/update"
)

// docker-compose up, as the repository has it, on a machine without a registry: a published comment comes out as a
// result event.
func TestComposeCarriesAPublishedComment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, path := range []string{"docker-compose.yml", ".dockerignore", "deploy/Dockerfile", "deploy/nats/nats.conf"} {
		copyFile(t, filepath.Join("..", path), filepath.Join(dir, path))
	}
	copyFile(t, programs.kexrelay, filepath.Join(dir, "bin", "kexrelay"))

	// An image of nats-server from nothing but its binary: there may be no registry to pull one from.
	project := fmt.Sprintf("kexrelay-test-%d", os.Getpid())
	natsImage, relayImage := project+"-nats:local", project+"-relay:local"
	natsDir := filepath.Join(dir, "nats-image")
	copyFile(t, programs.natsServer, filepath.Join(natsDir, "nats-server"))
	dockerfile := "FROM scratch\nCOPY nats-server /nats-server\nENTRYPOINT [\"/nats-server\"]\n"
	if err := os.WriteFile(filepath.Join(natsDir, "Dockerfile"), []byte(dockerfile), 0o600); err != nil {
		t.Fatal(err)
	}
	docker(t, natsDir, nil, "docker", "build", "-t", natsImage, ".")

	natsPort, relayPort := freePort(t), freePort(t)
	env := []string{
		"COMPOSE_PROJECT_NAME=" + project, "NATS_IMAGE=" + natsImage, "KEXRELAY_IMAGE=" + relayImage,
		"NATS_PORT=" + strconv.Itoa(natsPort), "RELAY_PORT=" + strconv.Itoa(relayPort), "SIMULATOR_PORT=" + strconv.Itoa(freePort(t)),
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(docker(t, dir, env, "docker-compose", "logs", "--no-color", "--tail=40"))
		}
		docker(t, dir, env, "docker-compose", "down", "-v", "--timeout", "50")
		docker(t, dir, env, "docker", "rmi", "-f", natsImage, relayImage)
	})
	docker(t, dir, env, "docker-compose", "up", "--build", "-d")
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
	begin := time.Now()
	docker(t, dir, env, "docker-compose", "stop", "relay")
	id := strings.TrimSpace(docker(t, dir, env, "docker-compose", "ps", "-aq", "relay"))
	if code := strings.TrimSpace(docker(t, dir, env, "docker", "inspect", "-f", "{{.State.ExitCode}}", id)); code != "0" {
		t.Errorf("exit code %s after docker-compose stop", code)
	}
	t.Logf("stopped in %v", time.Since(begin))
}

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
