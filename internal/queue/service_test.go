package queue

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kexrelay/internal/embedded/embeddedtest"
)

// askAll puts a question to all and gives the answers, at least n.
func askAll(t *testing.T, conn *Conn, subject string, n int) []map[string]any {
	t.Helper()
	inbox := conn.nc.NewInbox()
	sub, err := conn.nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection ends soon
	if err := conn.nc.PublishRequest(subject, inbox, nil); err != nil {
		t.Fatal(err)
	}
	var answers []map[string]any
	for wait := patience; ; wait = 200 * time.Millisecond { // More than n would be a mistake.
		if len(answers) < n {
			wait = patience
		}
		msg, err := sub.NextMsg(wait)
		if errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) {
			return answers
		}
		if err != nil {
			t.Fatalf("%s: %v", subject, err)
		}
		if len(msg.Data) == 0 {
			return answers // Nobody listens.
		}
		var answer map[string]any
		if err := json.Unmarshal(msg.Data, &answer); err != nil {
			t.Fatalf("%s: %v: %s", subject, err, msg.Data)
		}
		answers = append(answers, answer)
	}
}

func announce(t *testing.T, conn *Conn, s Service) (stop func()) {
	t.Helper()
	stop, err := conn.Announce(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return stop
}

func TestEveryReplicaAnswersAsAMicroService(t *testing.T) {
	url := embeddedtest.Run(t).URL()
	asker := connect(t, ConnectOptions{URL: url}, Hooks{Logger: logger(t)})
	stops := map[string]func(){}
	for name, version := range map[string]string{"north": "v1.2.3", "south": "dev-abc"} {
		conn := connect(t, ConnectOptions{URL: url}, Hooks{Logger: logger(t)})
		stops[name] = announce(t, conn, Service{
			Version: version, Metadata: map[string]string{"replica": name, "build": version},
			State: func() any { return map[string]any{"replica": name, "inFlight": 3} },
		})
		if err := conn.nc.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	member := func(answer map[string]any, path ...string) any {
		t.Helper()
		var value any = answer
		for _, name := range path {
			object, ok := value.(map[string]any)
			if !ok {
				t.Fatalf("no %v in %v", path, answer)
			}
			value = object[name]
		}
		return value
	}
	names := func(answers []map[string]any, path ...string) []string {
		t.Helper()
		var all []string
		for _, answer := range answers {
			name, _ := member(answer, path...).(string)
			all = append(all, name)
		}
		slices.Sort(all)
		return all
	}
	both := []string{"north", "south"}

	if got := askAll(t, asker, "$SRV.PING", 2); len(got) != 2 || got[0]["name"] != ServiceName {
		t.Errorf("PING: %v", got)
	}
	info := askAll(t, asker, "$SRV.INFO."+ServiceName, 2)
	if got := names(info, "metadata", "replica"); !slices.Equal(got, both) {
		t.Errorf("INFO: %v", info)
	}
	if got := names(info, "version"); !slices.Equal(got, []string{"0.0.0", "1.2.3"}) {
		t.Errorf("versions %v", got)
	}
	stats := askAll(t, asker, "$SRV.STATS."+ServiceName, 2)
	for i, answer := range stats {
		endpoints, _ := answer["endpoints"].([]any)
		if len(endpoints) != 1 {
			t.Fatalf("STATS: %v", answer)
		}
		stats[i], _ = endpoints[0].(map[string]any)
	}
	if got := names(stats, "data", "replica"); !slices.Equal(got, both) {
		t.Errorf("STATS: %v", stats)
	}
	if n := member(stats[0], "data", "inFlight"); n != 3.0 {
		t.Errorf("in flight %v", n)
	}
	if got := names(askAll(t, asker, ServiceSubject, 2), "replica"); !slices.Equal(got, both) {
		t.Errorf("%s: %v", ServiceSubject, got)
	}

	stops["north"]()
	eventually(t, "only the other one answers", func() bool {
		return slices.Equal(names(askAll(t, asker, ServiceSubject, 1), "replica"), []string{"south"})
	})
}

// Without the right to listen for it the replica is not shown; the connection works on, and its hooks still hear of
// everything.
func TestAMissingRightForTheServiceHarmsNothingElse(t *testing.T) {
	srv := secured(t, -1, []*server.User{{Username: "relay", Password: "r", Permissions: &server.Permissions{
		Publish: allow(">"), Subscribe: allow("_INBOX.>"),
	}}})
	refused := make(chan string, 100)
	conn := connect(t, ConnectOptions{URL: srv.ClientURL(), User: "relay", Password: "r"}, Hooks{
		Logger: logger(t), OnPermission: func(subject string) { refused <- subject },
	})
	announce(t, conn, Service{Version: "v1.0.0", State: func() any { return nil }})
	select {
	case <-refused:
	case <-time.After(patience):
		t.Error("nobody heard of the missing right")
	}
	if !conn.Connected() {
		t.Error("the connection is gone")
	}
}
