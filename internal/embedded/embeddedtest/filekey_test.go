package embeddedtest_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
)

// encrypted is a cluster of three whose files are encrypted, each server with its own key.
type encrypted struct {
	t       *testing.T
	dir     string
	routes  []string
	servers []*server.Server
}

// start starts a server with a key, and what is in its directory.
func (e *encrypted) start(i int, key string) {
	e.t.Helper()
	file := filepath.Join(e.dir, fmt.Sprintf("n%d.conf", i))
	embeddedtest.WriteFile(e.t, file, fmt.Appendf(nil,
		"server_name: n%d\nlisten: 127.0.0.1:-1\njetstream { store_dir: '%s', cipher: chacha, key: %s, prev_key: %s }\n"+
			"cluster { name: C, listen: '%s', routes: [nats://%s] }",
		i, e.store(i), key, key, e.routes[i], strings.Join(e.routes, ", nats://")))
	opts, err := server.ProcessConfigFile(file)
	if err != nil {
		e.t.Fatal(err)
	}
	opts.NoSigs, opts.NoLog = true, true
	if e.servers[i], err = server.NewServer(opts); err != nil {
		e.t.Fatal(err)
	}
	e.servers[i].Start()
}

func (e *encrypted) store(i int) string { return filepath.Join(e.dir, fmt.Sprintf("store%d", i)) }

func (e *encrypted) stop(i int) {
	e.servers[i].Shutdown()
	e.servers[i].WaitForShutdown()
}

// connect gives a client of the first server, once it answers.
func (e *encrypted) connect() (jetstream.JetStream, func()) {
	e.t.Helper()
	conn, err := nats.Connect(e.servers[0].ClientURL(), nats.RetryOnFailedConnect(true))
	if err != nil {
		e.t.Fatal(err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		e.t.Fatal(err)
	}
	return js, conn.Close
}

// whole waits until all three have all that there is, and gives the streams' messages and consumers.
func (e *encrypted) whole() map[string]string {
	e.t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; {
		found, missing := e.look()
		if len(missing) == 0 && len(found) == 8 {
			return found
		}
		if time.Now().After(end) {
			e.t.Fatalf("after two minutes there is %v, and not whole: %v", found, missing)
		}
		<-time.After(100 * time.Millisecond)
	}
}

// look gives what there is, and what is not on all three.
func (e *encrypted) look() (found map[string]string, missing []string) {
	e.t.Helper()
	js, done := e.connect()
	defer done()
	found = map[string]string{}
	for info := range js.ListStreams(e.t.Context()).Info() {
		name := info.Config.Name
		found[name] = fmt.Sprintf("%d messages, %d to %d", info.State.Msgs, info.State.FirstSeq, info.State.LastSeq)
		missing = append(missing, lagging(name, info.Cluster)...)
		stream, err := js.Stream(e.t.Context(), name)
		if err != nil {
			missing = append(missing, err.Error())
			continue
		}
		for consumer := range stream.ListConsumers(e.t.Context()).Info() {
			found[name+" "+consumer.Name] = fmt.Sprintf("%d delivered", consumer.Delivered.Stream)
			missing = append(missing, lagging(consumer.Name, consumer.Cluster)...)
		}
	}
	return found, append(missing, e.differing()...)
}

// differing says whether servers have different amounts, each asked for itself: what the others know of one that has just
// been started may be of before.
func (e *encrypted) differing() []string {
	amounts := map[string]bool{}
	for _, s := range e.servers {
		info, err := s.Jsz(&server.JSzOptions{})
		if err != nil {
			return []string{err.Error()}
		}
		amounts[fmt.Sprintf("%d streams, %d consumers, %d messages", info.Streams, info.Consumers, info.Messages)] = true
	}
	if len(amounts) == 1 {
		return nil
	}
	return slices.Sorted(maps.Keys(amounts))
}

// lagging names who has not all of something.
func lagging(name string, group *jetstream.ClusterInfo) (missing []string) {
	if group == nil || group.Leader == "" || len(group.Replicas) != 2 {
		return []string{name + " has no leader, or not three copies"}
	}
	for _, replica := range group.Replicas {
		if !replica.Current || replica.Offline || replica.Lag != 0 {
			missing = append(missing, name+" lags on "+replica.Name)
		}
	}
	return missing
}

// The way the README tells for a cluster: one server after the other is emptied, gets the new key and is filled again by
// the others. (With the previous key beside the new one nats-server 2.15.2 does not start there.)
func TestTheKeyOfAClustersFilesIsChangedServerByServer(t *testing.T) {
	e := &encrypted{t: t, dir: t.TempDir(), servers: make([]*server.Server, 3)}
	for range e.servers {
		e.routes = append(e.routes, fmt.Sprintf("127.0.0.1:%d", embeddedtest.FreePort(t)))
	}
	for i := range e.servers {
		e.start(i, "first-key")
		t.Cleanup(func() { e.stop(i) })
	}
	for end := time.Now().Add(2 * time.Minute); ; {
		js, done := e.connect()
		_, err := topology.Setup(t.Context(), js, topology.Options{Replicas: 3})
		done()
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
		<-time.After(100 * time.Millisecond)
	}
	js, done := e.connect()
	for i := range 100 {
		if _, err := js.Publish(t.Context(), fmt.Sprintf("kex.vorgang.%d.kommentare", i), []byte(`["a comment"]`)); err != nil {
			t.Fatal(err)
		}
	}
	done()
	before := e.whole()
	for i := range e.servers {
		e.stop(i)
		if err := os.RemoveAll(e.store(i)); err != nil {
			t.Fatal(err)
		}
		e.start(i, "second-key")
		after := e.whole()
		for name, want := range before {
			if after[name] != want {
				t.Errorf("server %d has the new key: %s has %s, had %s", i, name, after[name], want)
			}
		}
	}
}
