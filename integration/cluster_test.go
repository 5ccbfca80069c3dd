package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// natsServer is one nats-server process with a store of its own, which survives its end.
type natsServer struct {
	t       *testing.T
	name    string
	conf    string
	addr    string
	process *process
	// starts counts its processes.
	starts int
	// routes are the ways to and from its peers.
	routes []*link
}

// startServers starts nats-server processes, more than one as a cluster. Each route leads through a link of its own,
// so that a server can be cut off from its peers.
func startServers(t *testing.T, n int) []*natsServer {
	t.Helper()
	servers := make([]*natsServer, n)
	routePorts := make([]int, n)
	for i := range servers {
		servers[i] = &natsServer{t: t, name: fmt.Sprintf("n%d", i), addr: fmt.Sprintf("127.0.0.1:%d", freePort(t))}
		routePorts[i] = freePort(t)
	}
	for i, s := range servers {
		dir := t.TempDir()
		text := fmt.Sprintf("server_name: %s\nlisten: %q\nmax_payload: 8MB\njetstream { store_dir: %q }\n",
			s.name, s.addr, filepath.Join(dir, "store"))
		if n > 1 {
			var routes []string
			for j, peer := range servers {
				if i == j {
					continue
				}
				l := newLink(t, s.name+" to "+peer.name, fmt.Sprintf("127.0.0.1:%d", routePorts[j]))
				s.routes, peer.routes = append(s.routes, l), append(peer.routes, l)
				routes = append(routes, "nats://"+l.addr)
			}
			// Port 1: what the peers tell each other leads nowhere, so the links are the only ways. Nor are clients told
			// of other ways than theirs.
			text += fmt.Sprintf("cluster { name: C, listen: \"127.0.0.1:%d\", advertise: \"127.0.0.1:1\", no_advertise: true, routes: [%s] }\n",
				routePorts[i], strings.Join(routes, ", "))
		}
		s.conf = filepath.Join(dir, "nats.conf")
		if err := os.WriteFile(s.conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range servers {
		s.start()
	}
	return servers
}

func (s *natsServer) start() {
	s.starts++
	s.process = launch(s.t, fmt.Sprintf("nats-server %s (start %d)", s.name, s.starts), nil, programs.natsServer, "--config", s.conf)
}

func (s *natsServer) freeze() { s.signal(syscall.SIGSTOP) }
func (s *natsServer) thaw()   { s.signal(syscall.SIGCONT) }

func (s *natsServer) signal(signal syscall.Signal) {
	if err := s.process.cmd.Process.Signal(signal); err != nil {
		s.t.Errorf("%v to %s: %v", signal, s.name, err)
	}
}

// cutOff takes the server's peers from it, not its clients.
func (s *natsServer) cutOff() {
	for _, l := range s.routes {
		l.refuse()
	}
}

// rejoin gives the server its peers back.
func (s *natsServer) rejoin() {
	for _, l := range s.routes {
		l.mend()
	}
}

// serverURLs are the URLs of all servers, for one who may use each of them.
func serverURLs(servers []*natsServer) string {
	urls := make([]string, len(servers))
	for i, s := range servers {
		urls[i] = "nats://" + s.addr
	}
	return strings.Join(urls, ",")
}

// asset is a stream, or one of its consumers.
type asset struct{ stream, consumer string }

// leaderOf is the server that leads an asset, nil if nobody says.
func leaderOf(ctx context.Context, js jetstream.JetStream, servers []*natsServer, a asset) *natsServer {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var group *jetstream.ClusterInfo
	if a.consumer != "" {
		if c, err := js.Consumer(ctx, a.stream, a.consumer); err == nil {
			group = c.CachedInfo().Cluster
		}
	} else if s, err := js.Stream(ctx, a.stream); err == nil {
		group = s.CachedInfo().Cluster
	}
	if group == nil {
		return nil
	}
	for _, s := range servers {
		if s.name == group.Leader {
			return s
		}
	}
	return nil
}

// whole reports whether all copies of the streams are there and current.
func whole(ctx context.Context, js jetstream.JetStream, servers int) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	streams, n := js.ListStreams(ctx), 0
	for info := range streams.Info() {
		if n++; info.Cluster == nil || info.Cluster.Leader == "" || len(info.Cluster.Replicas) != servers-1 {
			return false
		}
		for _, peer := range info.Cluster.Replicas {
			if !peer.Current || peer.Offline {
				return false
			}
		}
	}
	return streams.Err() == nil && n > 0
}
