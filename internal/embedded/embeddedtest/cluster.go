package embeddedtest

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// RunCluster starts three servers that are one cluster, and gives them when JetStream has a leader. They live as long as
// what [Run] starts.
func RunCluster(t TB) []*server.Server {
	t.Helper()
	routes := make([]string, 3)
	for i := range routes {
		routes[i] = fmt.Sprintf("127.0.0.1:%d", FreePort(t))
	}
	servers := make([]*server.Server, len(routes))
	for i, route := range routes {
		dir := t.TempDir()
		file := filepath.Join(dir, "nats.conf")
		WriteFile(t, file, fmt.Appendf(nil,
			"server_name: n%d\nlisten: 127.0.0.1:-1\njetstream { store_dir: '%s' }\ncluster { name: C, listen: '%s', routes: [nats://%s] }",
			i, dir, route, strings.Join(routes, ", nats://")))
		opts, err := server.ProcessConfigFile(file)
		if err != nil {
			t.Fatalf("reading the configuration of server %d: %v", i, err)
		}
		opts.NoSigs, opts.NoLog = true, true
		if servers[i], err = server.NewServer(opts); err != nil {
			t.Fatalf("making server %d: %v", i, err)
		}
		servers[i].Start()
		t.Cleanup(func() {
			servers[i].Shutdown()
			servers[i].WaitForShutdown()
		})
	}
	for end := time.Now().Add(2 * time.Minute); ; {
		for _, s := range servers {
			if s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == len(servers) {
				return servers
			}
		}
		if time.Now().After(end) {
			t.Fatalf("the cluster has no leader after two minutes")
		}
		<-time.After(20 * time.Millisecond)
	}
}
