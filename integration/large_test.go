//go:build integration

package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
)

// largeEnv says how many large documents there are: 6 if it is not set, so that the test takes seconds.
const largeEnv = "KEXRELAY_LARGE"

// What large documents may cost, whatever their size and number.
const (
	largeSize      = 100_000_000
	largeInFlight  = 4
	mostHeapGrowth = 24_000_000
	mostResident   = 160_000_000
	mostAround     = 64_000_000 // The simulator, and publish.
)

// large is the n-th document's content, the same each time it is read.
func large(n int) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{byte(n)}), largeSize)
}

// largeRequest is the digest and the size of the API's request with it.
func largeRequest(tb testing.TB, n int) (digest string, size int64) {
	tb.Helper()
	hash := sha256.New()
	counted := &countingWriter{w: hash}
	fmt.Fprintf(counted, `{"filename":"scan-%d.pdf","base64Content":"`, n)
	encoder := base64.NewEncoder(base64.StdEncoding, counted)
	if _, err := io.Copy(encoder, large(n)); err != nil {
		tb.Fatal(err)
	}
	_ = encoder.Close() // A hash takes everything.
	_, _ = io.WriteString(counted, `"}`)
	return hex.EncodeToString(hash.Sum(nil)), counted.n
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// Documents of 100 MB pass four at a time in constant memory, with refusals in between; each request has the same body,
// one with a damaged object is never completed, and the objects of what is delivered are gone.
func TestLargeDocumentsPassInConstantMemory(t *testing.T) {
	documents := 6
	if n, err := strconv.Atoi(os.Getenv(largeEnv)); err == nil {
		documents = n
	}
	s := newBenchSystem(t)
	c := relayAs("kexrelay serve", programs.kexrelay)
	more := c.env
	health := "127.0.0.1:" + strconv.Itoa(freePort(t))
	c.env = func(s *benchSystem, inFlight int) []string {
		return append(more(s, inFlight), "KEXRELAY_HTTP_ADDR="+health, "KEXRELAY_RETRY_INITIAL=100ms", "KEXRELAY_RETRY_MAX_INTERVAL=1s")
	}
	relay := s.start(c, largeInFlight, benchLoad{kind: "kommentare", size: 200, updates: 100, lanes: 10})
	s.program("pause", "--for", "10m")
	for i := range documents {
		s.publishLarge(i)
	}
	damaged := s.publishDamaged(documents)
	s.admin(http.MethodPut, "/script", `{faults: [{rate: 0.25, status: 503}]}`)
	idle := heapInUse(t.Context(), t, health)
	var most atomic.Int64
	watched, stop := context.WithCancel(t.Context())
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		for watched.Err() == nil {
			most.Store(max(most.Load(), heapInUse(watched, t, health)))
			select {
			case <-time.After(50 * time.Millisecond):
			case <-watched.Done():
			}
		}
	}()
	began := time.Now()
	s.program("resume")
	s.awaitEmpty(topology.StreamUpdates, relay, 5*time.Minute)
	took := time.Since(began)
	stop()
	<-watching

	refused := 0
	for i := range documents {
		refused += s.wantLarge(i)
	}
	if refused == 0 {
		t.Error("no request was refused: nothing was repeated")
	}
	for _, r := range s.requestsOf(damaged) {
		if r.Digest != "" || r.Booked || r.Status == http.StatusCreated {
			t.Errorf("a request with a damaged object was completed: %+v", r)
		}
	}
	if dead := s.program("deadletters", "list", "-o", "json"); strings.Count(dead, "\n") != 1 || !strings.Contains(dead, `"object_missing"`) {
		t.Errorf("dead letters: %s", dead)
	}
	eventually(t, 10*time.Second, "only the dead letter's object is left", func() bool { return s.objects() == 1 })

	growth, resident, simulated := most.Load()-idle, peakBytes(t, relay.cmd.Process.Pid), peakBytes(t, s.api.cmd.Process.Pid)
	t.Logf("%d documents of 100 MB in %.1fs, %d refusals: heap %.1f MB over %.1f MB idle, peak resident memory %.1f MB, simulator %.1f MB",
		documents, took.Seconds(), refused, mega(growth), mega(idle), mega(resident), mega(simulated))
	if growth > mostHeapGrowth || resident > mostResident || simulated > mostAround {
		t.Error("that is too much")
	}
}

func mega(n int64) float64 { return float64(n) / 1e6 }

// program runs kexrelay and gives what it printed.
func (s *benchSystem) program(args ...string) string {
	s.tb.Helper()
	out, errs, code := runProgram(s.tb, []string{"NATS_URL=" + s.natsURL}, nil, programs.kexrelay, args...)
	if code != 0 {
		s.tb.Fatalf("%v: exit code %d\n%s%s", args, code, out, errs)
	}
	return out
}

// largeVorgang is the Vorgang of the n-th document.
func largeVorgang(n int) string { return strconv.Itoa(700_000 + n) }

// publishLarge publishes the n-th document from a pipe, in constant memory too.
func (s *benchSystem) publishLarge(n int) {
	s.tb.Helper()
	cmd := exec.CommandContext(s.tb.Context(), programs.kexrelay, "publish", "document", "--vorgang", largeVorgang(n),
		"--filename", fmt.Sprintf("scan-%d.pdf", n), "-")
	cmd.Env = []string{"NATS_URL=" + s.natsURL, "HOME=" + s.dir}
	cmd.Stdin = large(n)
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	peak, err := runPeak(cmd)
	if err != nil {
		s.tb.Fatalf("publishing: %v\n%s", err, &text)
	}
	if peak > mostAround {
		s.tb.Errorf("publish took %.1f MB of memory", mega(peak))
	}
}

// publishDamaged publishes one whose object has the right size and says the right digest, but has another byte.
func (s *benchSystem) publishDamaged(n int) (vorgang string) {
	s.tb.Helper()
	ctx := s.tb.Context()
	bucket, err := s.js.ObjectStore(ctx, topology.BucketDocuments)
	s.must(err)
	name := uuid.NewString()
	info, err := bucket.Put(ctx, jetstream.ObjectMeta{Name: name}, large(n))
	s.must(err)
	chunks := "$O." + topology.BucketDocuments + ".C." + info.NUID
	stream, err := s.js.Stream(ctx, "OBJ_"+topology.BucketDocuments)
	s.must(err)
	s.must(stream.Purge(ctx, jetstream.WithPurgeSubject(chunks)))
	content, part := bufio.NewReader(large(n)), make([]byte, 128<<10)
	for i := 0; ; i++ {
		n, err := io.ReadFull(content, part)
		if errors.Is(err, io.EOF) {
			break
		}
		if i == int(info.Chunks)/2 {
			part[1] ^= 1
		}
		_, err = s.js.Publish(ctx, chunks, part[:n])
		s.must(err)
	}
	_, err = s.js.Publish(ctx, "kex.vorgang."+largeVorgang(n)+".dokument", fmt.Appendf(nil,
		`{"filename":"a.pdf","object":{"bucket":"%s","name":"%s","size":%d,"digest":"%s"}}`, topology.BucketDocuments, name, info.Size, info.Digest))
	s.must(err)
	return largeVorgang(n)
}

// wantLarge checks that the n-th document was booked once, that each of its requests was the same, and gives how many
// were refused.
func (s *benchSystem) wantLarge(n int) (refused int) {
	s.tb.Helper()
	digest, size := largeRequest(s.tb, n)
	booked := 0
	for _, r := range s.requestsOf(largeVorgang(n)) {
		if r.Digest != digest || r.Size != size {
			s.tb.Errorf("document %d: a request of %d bytes with digest %s, want %d, %s", n, r.Size, r.Digest, size, digest)
		}
		if r.Booked {
			booked++
		} else {
			refused++
		}
	}
	if booked != 1 {
		s.tb.Errorf("document %d was booked %d times", n, booked)
	}
	return refused
}

func (s *benchSystem) requestsOf(vorgang string) []simulator.Request {
	s.tb.Helper()
	var requests []simulator.Request
	for line := range strings.Lines(string(s.admin(http.MethodGet, "/requests?vorgang="+vorgang, ""))) {
		var r simulator.Request
		s.must(json.Unmarshal([]byte(line), &r))
		requests = append(requests, r)
	}
	return requests
}

// objects is how many objects there are, with their chunks or without.
func (s *benchSystem) objects() int {
	s.tb.Helper()
	stream, err := s.js.Stream(s.tb.Context(), "OBJ_"+topology.BucketDocuments)
	s.must(err)
	info, err := stream.Info(s.tb.Context(), jetstream.WithSubjectFilter("$O."+topology.BucketDocuments+".C.*"))
	s.must(err)
	return len(info.State.Subjects)
}

// heapInUse asks a relay how much heap it uses.
func heapInUse(ctx context.Context, tb testing.TB, health string) int64 {
	tb.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+health+"/metrics", http.NoBody)
	if err != nil {
		tb.Error(err)
		return 0
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		if ctx.Err() == nil {
			tb.Error(err)
		}
		return 0
	}
	defer answer.Body.Close() //nolint:errcheck // Only read.
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "go_memstats_heap_inuse_bytes "); ok {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				tb.Error(err)
			}
			return int64(n)
		}
	}
	if ctx.Err() == nil {
		tb.Error("the relay does not tell its heap")
	}
	return 0
}
