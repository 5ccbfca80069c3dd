package integration

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kexrelay/internal/simulator"
)

// ask puts a question to all replicas and gives the answers: both replicas', and any more that come within a moment.
func (s *system) ask(subject string) [][]byte {
	s.t.Helper()
	inbox := s.nc.NewInbox()
	sub, err := s.nc.SubscribeSync(inbox)
	if err != nil {
		s.t.Fatal(err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection ends soon
	if err := s.nc.PublishRequest(subject, inbox, nil); err != nil {
		s.t.Fatal(err)
	}
	var answers [][]byte
	for {
		wait := 500 * time.Millisecond
		if len(answers) < 2 {
			wait = 30 * time.Second
		}
		msg, err := sub.NextMsg(wait)
		if errors.Is(err, nats.ErrTimeout) || err == nil && len(msg.Data) == 0 {
			return answers
		}
		if err != nil {
			s.t.Fatalf("%s: %v", subject, err)
		}
		answers = append(answers, msg.Data)
	}
}

// Each replica answers what `nats micro ping, info, stats` ask, with its hold, its partitions and its counts.
func TestEachReplicaIsAMicroService(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{Vorgaenge: []simulator.VorgangRule{{Match: []string{"410"}, Always: &simulator.Answer{Status: 410}}}})
	s.serve("KEXRELAY_NAME=north")
	s.serve("KEXRELAY_NAME=south")
	s.publish("kex.vorgang.1.kommentare", `["a"]`, nil)
	s.publish("kex.vorgang.2.kommentare", `["b"]`, nil)
	s.publish("kex.vorgang.410.kommentare", `["c"]`, nil)
	s.drained(20 * time.Second)

	type state struct {
		Replica    string `json:"replica"`
		Ready      bool   `json:"ready"`
		Partitions []int  `json:"partitions"`
		InFlight   int    `json:"inFlight"`
		Holds      []struct {
			Reason string `json:"reason"`
		} `json:"holds"`
		Totals struct {
			Delivered    int `json:"delivered"`
			DeadLettered int `json:"deadLettered"`
			Attempts     int `json:"attempts"`
		} `json:"totals"`
	}
	states := func() []state {
		t.Helper()
		var all []state
		for _, answer := range s.ask("$SRV.STATS.kexrelay") {
			var stats struct {
				Endpoints []struct {
					Data state `json:"data"`
				} `json:"endpoints"`
			}
			if err := json.Unmarshal(answer, &stats); err != nil || len(stats.Endpoints) != 1 {
				t.Fatalf("%s: %v", answer, err)
			}
			all = append(all, stats.Endpoints[0].Data)
		}
		slices.SortFunc(all, func(a, b state) int { return len(b.Partitions) - len(a.Partitions) })
		return all
	}
	all := states()
	if len(all) != 2 || len(all[0].Partitions) != 1 || len(all[1].Partitions) != 0 {
		t.Fatalf("%+v, want one that sends and one on standby", all)
	}
	if !all[0].Ready || !all[1].Ready || all[0].Replica == all[1].Replica {
		t.Errorf("%+v", all)
	}
	delivered, dead := 0, 0
	for _, one := range all {
		delivered += one.Totals.Delivered
		dead += one.Totals.DeadLettered
	}
	if delivered != 2 || dead != 1 {
		t.Errorf("%d delivered and %d dead letters, want 2 and 1", delivered, dead)
	}
	for _, subject := range []string{"$SRV.PING.kexrelay", "$SRV.INFO.kexrelay", "kex.replica.state"} {
		if n := len(s.ask(subject)); n != 2 {
			t.Errorf("%d answers to %s, want 2", n, subject)
		}
	}

	if err := s.api.SetScript(simulator.Script{Latency: &simulator.Latency{Fixed: 3 * time.Second}}); err != nil {
		t.Fatal(err)
	}
	s.publish("kex.vorgang.4.kommentare", `["slow"]`, nil)
	eventually(t, 20*time.Second, "the replica tells of the request in flight", func() bool {
		return slices.ContainsFunc(states(), func(one state) bool { return one.InFlight == 1 })
	})
	if err := s.api.SetScript(simulator.Script{}); err != nil {
		t.Fatal(err)
	}
	s.drained(20 * time.Second)

	if err := s.api.SetClientSecret("another-secret-0aX"); err != nil {
		t.Fatal(err)
	}
	s.api.RevokeTokens()
	s.publish("kex.vorgang.3.kommentare", `["d"]`, nil)
	eventually(t, 20*time.Second, "the replica tells of the hold", func() bool {
		return slices.ContainsFunc(states(), func(one state) bool {
			return len(one.Holds) == 1 && one.Holds[0].Reason == "unauthorized" && !one.Ready
		})
	})
}
