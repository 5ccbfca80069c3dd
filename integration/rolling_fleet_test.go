//go:build integration

package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kexrelay/internal/journal"
	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
)

// commitBefore is the version that is upgraded from: the last one that somebody can run. A clone that does not reach back
// so far upgrades from the code as it is, under another version.
const commitBefore = "63dd727bebea7334882c4eeb785c43f5fae9bedd"

// rollingFleet is three relays, NATS and the API in containers.
type rollingFleet struct {
	*chaos
	// name is the network's, and the beginning of all other names.
	name string
	// before and now are the images of the two versions.
	before, now string
	images      []string
	containers  []string
	relays      [3]string // The containers that run in the three places.
	starts      int
	stops       int
	admin       string
}

func (f *rollingFleet) docker(args ...string) string {
	f.t.Helper()
	return docker(f.t, f.dir, nil, "docker", args...)
}

// remove takes away all that was made.
func (f *rollingFleet) remove() {
	if f.t.Failed() {
		for _, name := range f.containers {
			f.t.Logf("%s printed last:\n%s", name, f.docker("logs", "--tail", "40", name))
		}
	}
	if len(f.containers) > 0 {
		f.docker(append([]string{"rm", "-f", "-v"}, f.containers...)...)
	}
	f.docker("network", "rm", f.name)
	if len(f.images) > 0 {
		f.docker(append([]string{"rmi", "-f"}, f.images...)...)
	}
}

// run starts a container and gives its name.
func (f *rollingFleet) run(name string, args ...string) string {
	f.t.Helper()
	full := f.name + "-" + name
	f.containers = append(f.containers, full) // Before it is there: what fails half way is removed too.
	f.docker(append([]string{"run", "-d", "--name", full, "--network", f.name, "--network-alias", name}, args...)...)
	return full
}

// versionNow is the image of the relay under test.
func (f *rollingFleet) versionNow() string {
	f.t.Helper()
	if f.now == "" {
		f.now = f.image("now", programs.kexrelay)
	}
	return f.now
}

// versionBefore is the image of the relay that is upgraded from.
func (f *rollingFleet) versionBefore() string {
	f.t.Helper()
	if f.before != "" {
		return f.before
	}
	program, source := filepath.Join(f.t.TempDir(), "kexrelay"), ".."
	if exec.CommandContext(f.t.Context(), "git", "cat-file", "-e", commitBefore+"^{commit}").Run() == nil {
		source = f.t.TempDir()
		docker(f.t, "..", nil, "bash", "-euo", "pipefail", "-c", `git archive "$1" | tar -x -C "$2"`, "bash", commitBefore, source)
		f.t.Logf("upgraded from commit %.12s", commitBefore)
	} else {
		f.t.Logf("this clone has no commit %.12s: upgraded from the code as it is, under another version", commitBefore)
	}
	// With -trimpath the directory, another one each time, does not keep the build cache from helping.
	docker(f.t, source, []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X main.version=v0.0.0-before", "-o", program, "./cmd/kexrelay")
	f.before = f.image("before", program)
	if said := f.docker("run", "--rm", f.before, "version"); !strings.Contains(said, "v0.0.0-before") {
		f.t.Fatalf("the version before says that it is %s", said)
	}
	return f.before
}

// image makes the relay's image of a program, as deploy/Dockerfile says.
func (f *rollingFleet) image(tag, program string) string {
	f.t.Helper()
	dir := f.t.TempDir()
	copyFile(f.t, filepath.Join("..", ".dockerignore"), filepath.Join(dir, ".dockerignore"))
	copyFile(f.t, filepath.Join("..", "deploy", "Dockerfile"), filepath.Join(dir, "Dockerfile"))
	copyFile(f.t, program, filepath.Join(dir, "bin", "image", "kexrelay"))
	image := f.name + ":" + tag
	f.images = append(f.images, image)
	docker(f.t, dir, nil, "docker", "build", "-q", "-f", "Dockerfile", "-t", image, ".")
	return image
}

// setup runs a version's setup to its end.
func (f *rollingFleet) setup(image string, args ...string) {
	f.t.Helper()
	f.docker(append([]string{"run", "--rm", "--network", f.name, "-e", "NATS_URL=nats://nats:4222", image, "setup"}, args...)...)
}

// start puts a new container into a replica's place and waits until the image's own check finds it ready.
func (f *rollingFleet) start(i int, image string) {
	f.t.Helper()
	f.starts++
	args := []string{"--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--stop-timeout", "45"}
	for _, setting := range []string{
		"NATS_URL=nats://nats:4222", "KEX_BASE_URL=http://api:8089" + simulator.BasePath, "KEX_TOKEN_URL=http://api:8089" + simulator.TokenPath,
		"KEX_CLIENT_ID=" + clientID, "KEX_CLIENT_SECRET=" + clientSecret, "KEXRELAY_INSECURE_HTTP=true",
		"KEXRELAY_NAME=roll", "KEXRELAY_HTTP_ADDR=0.0.0.0:8080", "KEXRELAY_LOG_FORMAT=json",
	} {
		args = append(args, "-e", setting)
	}
	f.relays[i] = f.run(fmt.Sprintf("relay-%d-%d", i, f.starts), append(args, image)...)
	f.becomesReady(i)
}

func (f *rollingFleet) becomesReady(i int) {
	f.t.Helper()
	eventually(f.t, 20*time.Second, f.relays[i]+" is ready", func() bool {
		return exec.CommandContext(f.t.Context(), "docker", "exec", f.relays[i],
			"/kexrelay", "healthcheck", "--url", "http://127.0.0.1:8080/readyz").Run() == nil
	})
}

// containerState is what docker says of a container.
type containerState struct {
	State struct {
		Running, OOMKilled bool
		ExitCode           int
	}
	RestartCount int
}

func (f *rollingFleet) state(i int) containerState {
	f.t.Helper()
	var all []containerState
	if err := json.Unmarshal([]byte(f.docker("inspect", f.relays[i])), &all); err != nil || len(all) != 1 {
		f.t.Fatalf("docker inspect %s: %v", f.relays[i], err)
	}
	return all[0]
}

// stop stops a replica as docker does, with its grace period: until then it runs, and it ends with exit code 0.
func (f *rollingFleet) stop(i int) {
	f.t.Helper()
	if s := f.state(i); !s.State.Running || s.RestartCount != 0 {
		f.t.Errorf("%s has ended by itself before it was stopped: %+v", f.relays[i], s)
	}
	f.stops++
	f.docker("stop", f.relays[i])
	if s := f.state(i); s.State.Running || s.State.OOMKilled || s.State.ExitCode != 0 {
		f.t.Errorf("%s was stopped and is now %+v", f.relays[i], s)
	}
}

// replace puts a container of another version into a replica's place.
func (f *rollingFleet) replace(i int, image string) {
	f.t.Helper()
	f.stop(i)
	f.start(i, image)
}

// restart stops a replica's container and starts the same one anew.
func (f *rollingFleet) restart(i int) {
	f.t.Helper()
	f.stop(i)
	f.docker("start", f.relays[i])
	f.becomesReady(i)
}

// slowAPI makes the API take so long for each request: something is always being sent when a replica is stopped.
func (f *rollingFleet) slowAPI(latency time.Duration) {
	f.t.Helper()
	eventually(f.t, 20*time.Second, "the API answers", func() bool {
		r, err := http.NewRequestWithContext(f.t.Context(), http.MethodPut, f.admin+"/script",
			strings.NewReader(fmt.Sprintf("latency: {fixed: %v}\n", latency)))
		if err != nil {
			f.t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return false
		}
		_ = answer.Body.Close() // It is empty.
		return answer.StatusCode == http.StatusNoContent
	})
}

// ask gives what one of the API's admin endpoints answers.
func (f *rollingFleet) ask(path string) []byte {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, f.admin+path, http.NoBody)
	if err != nil {
		f.t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	defer answer.Body.Close() //nolint:errcheck // it was read
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		f.t.Fatalf("%s: status %d, %v", path, answer.StatusCode, err)
	}
	return text
}

// requests are all that came to the API.
func (f *rollingFleet) requests() []simulator.Request {
	f.t.Helper()
	var all []simulator.Request
	for lines := bufio.NewScanner(bytes.NewReader(f.ask("/requests"))); lines.Scan(); {
		var r simulator.Request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			f.t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// evidence is what the publisher, the streams and the API's ledger say; nothing was broken.
func (f *rollingFleet) evidence() *evidence {
	f.t.Helper()
	e := &evidence{updates: f.updates, letters: f.letters(), requests: f.requests(), handlers: map[string]handler{}, single: true}
	if err := json.Unmarshal(f.ask("/repeated"), &e.repeated); err != nil {
		f.t.Fatal(err)
	}
	// The last acks may be on their way.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if e.pending = f.left(f.t.Context()); len(e.pending) == 0 || time.Now().After(end) {
			break
		}
	}
	e.results = f.results()
	e.index()
	return e
}

// lastStored is the sequence of the last update that was stored.
func (f *rollingFleet) lastStored() uint64 {
	f.t.Helper()
	s, err := f.js.Stream(f.t.Context(), topology.StreamUpdates)
	if err != nil {
		f.t.Fatal(err)
	}
	return s.CachedInfo().State.LastSeq
}

// firstWaiting is the sequence of the oldest update that is not settled, or of the next one to come.
func (f *rollingFleet) firstWaiting() uint64 {
	f.t.Helper()
	s, err := f.js.Stream(f.t.Context(), topology.StreamUpdates)
	if err != nil {
		f.t.Fatal(err)
	}
	if state := s.CachedInfo().State; state.Msgs > 0 {
		return state.FirstSeq
	}
	return s.CachedInfo().State.LastSeq + 1
}

// handedOver is how often a partition has had a new holder.
func (f *rollingFleet) handedOver() (times uint64) {
	f.t.Helper()
	holders, err := journal.NewLeases(f.js, "test", slog.New(slog.DiscardHandler)).Holders(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	for _, h := range holders {
		times += h.Epoch
	}
	return times
}

// longestWaits is how long updates of a time waited until their request came to the API: from being stored on, or, of
// those behind another of their Vorgang, from that one's answer on. The API, NATS and this test have one clock.
func longestWaits(results []journal.Event, requests []simulator.Request, from, to time.Time) (free, behind time.Duration) {
	stored := make(map[string]time.Time)
	for _, event := range results {
		stored[event.Data.TraceID] = event.Data.ReceivedAt
	}
	answered := make(map[string]time.Time) // The Vorgang's last one.
	for _, r := range ordered(requests) {
		trace, _ := attemptOf(r.TraceID)
		at, before := stored[trace], answered[r.Vorgangsnummer]
		answered[r.Vorgangsnummer] = r.AnsweredAt
		switch {
		case at.IsZero() || at.Before(from) || at.After(to):
		case before.After(at):
			behind = max(behind, r.ReceivedAt.Sub(before))
		default:
			free = max(free, r.ReceivedAt.Sub(at))
		}
	}
	return free, behind
}

// longestPause is the longest time between two bookings.
func longestPause(requests []simulator.Request, from, to time.Time) (longest time.Duration) {
	booked := slices.DeleteFunc(byBooking(requests), func(r simulator.Request) bool { return r.BookedAt.Before(from) || r.BookedAt.After(to) })
	for i := 1; i < len(booked); i++ {
		longest = max(longest, booked[i].BookedAt.Sub(booked[i-1].BookedAt))
	}
	return longest
}
