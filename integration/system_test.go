package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/journal"
	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
)

const (
	clientID     = "integration"
	clientSecret = "canary-secret-ySp3Xk"
)

// system is everything an update meets: a nats-server process, the simulated API and the relay's process.
type system struct {
	t       *testing.T
	dir     string
	natsURL string
	// natsConf is the server's configuration, to start it again.
	natsConf string
	nats     *process
	nc       *nats.Conn
	js       jetstream.JetStream
	api      *simulator.Simulator
	apiURL   *simulator.Server
	relay    *process
	health   string
}

// newSystem starts NATS and the API and sets the topology up. The relay is started by serve.
func newSystem(t *testing.T, script simulator.Script) *system {
	t.Helper()
	s := &system{t: t, dir: t.TempDir()}
	port := freePort(t)
	s.natsURL = "nats://127.0.0.1:" + strconv.Itoa(port)
	s.natsConf = filepath.Join(s.dir, "nats.conf")
	text := fmt.Sprintf("listen: 127.0.0.1:%d\nmax_payload: 8MB\njetstream { store_dir: %q }\n", port, filepath.Join(s.dir, "store"))
	if err := os.WriteFile(s.natsConf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.nats = startProcess(t, "nats-server", nil, programs.natsServer, "--config", s.natsConf)
	if out, errs, code := runProgram(t, s.natsEnv(), nil, programs.kexrelay, "setup", "--wait", "2m"); code != 0 {
		t.Fatalf("setup: exit code %d\n%s%s", code, out, errs)
	}
	s.connect()

	var err error
	s.api, err = simulator.New(simulator.Config{
		ClientID: clientID, ClientSecret: clientSecret, Script: script, Seed: 1, KeepBodies: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.apiURL, err = s.api.Start(context.WithoutCancel(t.Context()), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.api.Close()
		_ = s.apiURL.Close()
	})
	return s
}

func (s *system) connect() {
	s.t.Helper()
	var err error
	s.nc, err = nats.Connect(s.natsURL, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.nc.Close)
	if s.js, err = jetstream.New(s.nc, jetstream.WithPublishAsyncMaxPending(1000), jetstream.WithDefaultTimeout(30*time.Second)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *system) natsEnv() []string { return []string{"NATS_URL=" + s.natsURL} }

// serve starts the relay. More of the environment goes before what is set here.
func (s *system) serve(more ...string) {
	s.t.Helper()
	addr := "127.0.0.1:" + strconv.Itoa(freePort(s.t))
	s.health = "http://" + addr
	env := append(s.natsEnv(),
		"KEX_BASE_URL="+s.apiURL.BaseURL(), "KEX_TOKEN_URL="+s.apiURL.TokenURL(),
		"KEX_CLIENT_ID="+clientID, "KEX_CLIENT_SECRET="+clientSecret,
		"KEXRELAY_HTTP_ADDR="+addr, "KEXRELAY_LOG_LEVEL=debug", "KEXRELAY_LOG_FORMAT=json")
	for _, setting := range more {
		name, _, _ := strings.Cut(setting, "=")
		for i, old := range env {
			if strings.HasPrefix(old, name+"=") {
				env[i] = ""
			}
		}
		env = append(env, setting)
	}
	s.relay = startProcess(s.t, "kexrelay serve", env, programs.kexrelay, "serve")
	eventually(s.t, 20*time.Second, "the relay answers /livez", func() bool {
		select {
		case <-s.relay.exited:
			s.t.Fatalf("the relay ended: %v\n%s", s.relay.err, s.relay.output.String())
		default:
		}
		code, _ := s.get("/livez")
		return code == http.StatusOK
	})
}

// get asks one of the relay's endpoints; code 0 means no answer.
func (s *system) get(path string) (code int, body string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.health+path, http.NoBody)
	if err != nil {
		s.t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, ""
	}
	defer answer.Body.Close() //nolint:errcheck // it was read
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, ""
	}
	return answer.StatusCode, string(text)
}

// publish publishes an update as a CRM does and waits for its PubAck.
func (s *system) publish(subject, body string, header map[string]string) *jetstream.PubAck {
	s.t.Helper()
	m := nats.NewMsg(subject)
	m.Data = []byte(body)
	for name, value := range header {
		m.Header[name] = []string{value}
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	ack, err := s.js.PublishMsg(ctx, m)
	if err != nil {
		s.t.Fatalf("publishing to %s: %v", subject, err)
	}
	return ack
}

// read gives all messages of a stream.
func (s *system) read(stream string) []jetstream.Msg {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 3*time.Minute)
	defer cancel()
	consumer, err := s.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		s.t.Fatalf("reading %s: %v", stream, err)
	}
	var all []jetstream.Msg
	for {
		batch, err := consumer.FetchNoWait(1000)
		if err != nil {
			s.t.Fatalf("reading %s: %v", stream, err)
		}
		n := len(all)
		for m := range batch.Messages() {
			all = append(all, m)
		}
		err = batch.Error()
		if errors.Is(err, nats.ErrNoResponders) && ctx.Err() == nil {
			time.Sleep(50 * time.Millisecond) // A cluster has made the consumer, but not everywhere yet.
			continue
		}
		if err != nil && !errors.Is(err, jetstream.ErrNoMessages) {
			s.t.Fatalf("reading %s: %v", stream, err)
		}
		if len(all) == n {
			return all
		}
	}
}

// results gives all result events.
func (s *system) results() []journal.Event {
	s.t.Helper()
	messages := s.read(topology.StreamResults)
	events := make([]journal.Event, len(messages))
	for i, m := range messages {
		if err := json.Unmarshal(m.Data(), &events[i]); err != nil {
			s.t.Fatalf("result %d is no JSON: %v", i, err)
		}
	}
	return events
}

// count is the number of messages in a stream.
func (s *system) count(stream string) int {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	info, err := s.js.Stream(ctx, stream)
	if err != nil {
		s.t.Fatalf("asking for %s: %v", stream, err)
	}
	return int(info.CachedInfo().State.Msgs)
}

// drained waits until no update is waiting any more.
func (s *system) drained(limit time.Duration) {
	s.t.Helper()
	eventually(s.t, limit, "no update waits any more", func() bool { return s.count(topology.StreamUpdates) == 0 })
}

// ready asks /readyz.
func (s *system) ready() (code int, reason string) {
	s.t.Helper()
	code, body := s.get("/readyz")
	var answer struct {
		Reason string `json:"reason"`
		Holds  []struct {
			Reason string `json:"reason"`
		} `json:"holds"`
	}
	if code == 0 {
		return 0, ""
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		s.t.Fatalf("/readyz is no JSON: %v\n%s", err, body)
	}
	if len(answer.Holds) > 0 {
		return code, answer.Holds[0].Reason
	}
	return code, answer.Reason
}
