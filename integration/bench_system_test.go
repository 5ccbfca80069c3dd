package integration

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// benchSystem is what every benchmark of the whole way needs: a nats-server and the simulated API, each a process of
// its own, and a connection to publish with.
type benchSystem struct {
	tb       testing.TB
	dir      string
	nats     *process
	natsURL  string
	api      *process
	baseURL  string
	tokenURL string
	adminURL string
	nc       *nats.Conn
	js       jetstream.JetStream
	bareCPU  float64 // What the limits of the present case have used.
}

func newBenchSystem(tb testing.TB) *benchSystem {
	tb.Helper()
	addr := "127.0.0.1:" + strconv.Itoa(freePort(tb))
	s := &benchSystem{tb: tb, dir: tb.TempDir(), natsURL: "nats://" + addr}
	conf := filepath.Join(s.dir, "nats.conf")
	text := fmt.Sprintf("listen: %q\nmax_payload: 8MB\njetstream { store_dir: %q, max_file_store: 40GB }\n", addr, filepath.Join(s.dir, "store"))
	s.must(os.WriteFile(conf, []byte(text), 0o600))
	s.nats = startProcess(tb, "nats-server", nil, programs.natsServer, "--config", conf)
	if out, errs, code := runProgram(tb, []string{"NATS_URL=" + s.natsURL}, nil, programs.kexrelay, "setup", "--wait", "30s",
		"--max-bytes", topology.StreamUpdates+"=8GiB", "--max-bytes", topology.BucketDocuments+"=8GiB"); code != 0 {
		tb.Fatalf("setup: exit code %d\n%s%s", code, out, errs)
	}
	s.api = startProcess(tb, "kexrelay simulate", nil, programs.kexrelay, "simulate", "--addr", "127.0.0.1:0", "--json",
		"--max-body", "256MiB", "--client-id", clientID, "--client-secret", clientSecret)
	var urls struct{ BaseURL, TokenURL, AdminURL string }
	eventually(tb, 20*time.Second, "the simulator says where it is", func() bool {
		for line := range strings.Lines(s.api.output.String()) {
			if json.Unmarshal([]byte(line), &urls) == nil && urls.TokenURL != "" {
				return true
			}
		}
		return false
	})
	s.baseURL, s.tokenURL, s.adminURL = urls.BaseURL, urls.TokenURL, urls.AdminURL
	var err error
	s.nc, err = nats.Connect(s.natsURL)
	s.must(err)
	tb.Cleanup(s.nc.Close)
	s.js, err = jetstream.New(s.nc, jetstream.WithPublishAsyncMaxPending(2000))
	s.must(err)
	return s
}

func (s *benchSystem) must(err error) {
	s.tb.Helper()
	if err != nil {
		s.tb.Fatal(err)
	}
}

// admin asks or tells the simulator something.
func (s *benchSystem) admin(method, path, body string) []byte {
	s.tb.Helper()
	r, err := http.NewRequestWithContext(s.tb.Context(), method, s.adminURL+path, strings.NewReader(body))
	s.must(err)
	answer, err := http.DefaultClient.Do(r)
	s.must(err)
	defer answer.Body.Close() //nolint:errcheck // it was read
	text, err := io.ReadAll(answer.Body)
	s.must(err)
	if answer.StatusCode/100 != 2 {
		s.tb.Fatalf("%s %s: %s\n%s", method, path, answer.Status, text)
	}
	return text
}

// apiTakes sets the API's latency and lets it forget what it booked.
func (s *benchSystem) apiTakes(latency time.Duration) {
	s.tb.Helper()
	script := "{}"
	if latency > 0 {
		script = "latency: {fixed: " + latency.String() + "}"
	}
	s.admin(http.MethodPut, "/script", script)
	s.admin(http.MethodPost, "/reset", "")
}

// benchLoad is what is published in one run.
type benchLoad struct {
	kind    string // The subject's last token.
	size    int    // Bytes of the API's request, or of the file in the bucket.
	updates int
	lanes   int // How many Vorgänge they are spread over, from the first on.
	first   int
	object  bool // The document lies in the bucket, and the update names it.
}

// file is the content of a document.
func (l benchLoad) file() []byte {
	const page = "%PDF-1.7 Grundbuchauszug, Abteilung I. "
	return []byte(strings.Repeat(page, l.size/len(page)+1)[:l.size])
}

// body is one request to the API.
func (l benchLoad) body() []byte {
	if l.object {
		return []byte(`{"filename":"Grundbuch.pdf","base64Content":"` + base64.StdEncoding.EncodeToString(l.file()) + `"}`)
	}
	before, after, fill := `["`, `"]`, "Nachfrage"
	if l.kind == "dokument" {
		before, after, fill = `{"filename":"Antrag.pdf","base64Content":"`, `"}`, "JVBERi0xLjMK"
	}
	n := max(1, l.size-len(before)-len(after))
	var b bytes.Buffer
	b.WriteString(before)
	b.WriteString(strings.Repeat(fill, n/len(fill)+1)[:n])
	b.WriteString(after)
	return b.Bytes()
}

// subject is where the n-th update is published.
func (l benchLoad) subject(prefix string, n int) string {
	return prefix + ".vorgang." + strconv.Itoa(100_000+l.first+n%l.lanes) + "." + l.kind
}

// publish stores the load as a CRM would, each update acknowledged.
func (s *benchSystem) publish(ctx context.Context, prefix string, l benchLoad) {
	s.tb.Helper()
	if l.object {
		s.publishObjects(ctx, prefix, l)
		return
	}
	body := l.body()
	// Beyond 128 MB that are not stored yet the server refuses more, and nats.go beyond 2,000 updates.
	window := max(1, min(1900, (32<<20)/len(body)))
	acks := make([]jetstream.PubAckFuture, l.updates)
	stored := func(ack jetstream.PubAckFuture) {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			s.must(err)
		case <-ctx.Done():
			s.tb.Fatal(context.Cause(ctx))
		}
	}
	for i := range acks {
		if i >= window {
			stored(acks[i-window])
		}
		var err error
		acks[i], err = s.js.PublishAsync(l.subject(prefix, i), body)
		s.must(err)
	}
	for _, ack := range acks[max(0, len(acks)-window):] {
		stored(ack)
	}
}

// waiting is how many messages a stream holds.
func (s *benchSystem) waiting(stream string) int {
	s.tb.Helper()
	handle, err := s.js.Stream(s.tb.Context(), stream)
	s.must(err)
	return int(handle.CachedInfo().State.Msgs)
}

// awaitEmpty waits until a stream holds nothing any more, or the process has ended.
func (s *benchSystem) awaitEmpty(stream string, p *process, limit time.Duration) {
	s.tb.Helper()
	handle, err := s.js.Stream(s.tb.Context(), stream)
	s.must(err)
	deadline := time.After(limit)
	for {
		info, err := handle.Info(s.tb.Context())
		s.must(err)
		if info.State.Msgs == 0 {
			return
		}
		select {
		case <-p.exited:
			s.tb.Fatalf("%s ended: %v\n%s", p.name, p.err, p.printed(30))
		case <-deadline:
			s.tb.Fatalf("%d messages are left in %s after %v\n%s", info.State.Msgs, stream, limit, p.printed(30))
		case <-time.After(4 * time.Millisecond):
		}
	}
}

// cpuSeconds is the CPU time, user and system, that a process has used so far.
func cpuSeconds(tb testing.TB, pid int) float64 {
	tb.Helper()
	if pid == os.Getpid() {
		var usage syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
			tb.Fatal(err)
		}
		return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		tb.Fatal(err)
	}
	// The second field, the program's name, may have spaces; it ends with the last parenthesis.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			tb.Fatal(err)
		}
		ticks += n
	}
	return float64(ticks) / 100 // Linux counts in hundredths, whatever its kernel ticks with.
}
