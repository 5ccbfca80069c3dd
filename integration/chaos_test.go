package integration

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// Names of what is counted in a schedule, and of its least numbers.
const (
	countKill       = "kill -9 of a replica"
	countStop       = "SIGTERM of a replica"
	countFreeze     = "SIGSTOP of a replica"
	countNATSKill   = "kill -9 of nats-server"
	countLeaderKill = "kill -9 of a cluster leader"
	countCut        = "cut of " // and the link's name
)

// Nobody breaks more than this in one run without asking: the numbers of the guarantee, see chaosQuota.
const chaosFull = "full"

// chaosQuota is what a full run does at least: of a single server, and of a cluster.
func chaosQuota(servers int) map[string]int {
	if servers > 1 {
		return map[string]int{countKill: 12, countLeaderKill: 10, countFreeze: 2}
	}
	quota := map[string]int{countKill: 50, countNATSKill: 20, countFreeze: 5, countStop: 5}
	for _, name := range []string{linkName(0, "nats"), linkName(1, "nats"), linkName(0, "api"), linkName(1, "api"), publisherLink} {
		quota[countCut+name] = 10
	}
	return quota
}

// chaosSeed is the schedule's: printed, and repeatable with KEXRELAY_CHAOS_SEED.
func chaosSeed(t *testing.T) uint64 {
	t.Helper()
	if text := os.Getenv("KEXRELAY_CHAOS_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("KEXRELAY_CHAOS_SEED: %v", err)
		}
		return seed
	}
	return rand.Uint64()
}

// chaosRuns are the runs that are asked for: KEXRELAY_CHAOS is how long things are broken ("30m"), or "full" for as long
// as it takes to reach the numbers of the guarantee; without it minutes with the build tag integration, else seconds.
// All but the seconds are shared by a single server with one partition and a cluster of three with four.
func chaosRuns(t *testing.T) []chaosConfig {
	t.Helper()
	single := chaosConfig{name: "single server", servers: 1, partitions: 1, vorgaenge: 300, pace: 5 * time.Millisecond}
	cluster := chaosConfig{name: "cluster of three", servers: 3, partitions: 4, vorgaenge: 300, pace: 10 * time.Millisecond}
	switch text := os.Getenv("KEXRELAY_CHAOS"); {
	case text == chaosFull:
		single.quota, single.updates = chaosQuota(1), 20_000
		cluster.quota, cluster.updates = chaosQuota(3), 5_000
		single.pace, cluster.pace = 18*time.Millisecond, 18*time.Millisecond
	case text != "":
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("KEXRELAY_CHAOS: %v", err)
		}
		single.time, cluster.time = d/2, d/2
		single.pace, cluster.pace = 18*time.Millisecond, 18*time.Millisecond
	case long:
		single.time, cluster.time = 80*time.Second, 80*time.Second
	default:
		single.time = 14 * time.Second
		return []chaosConfig{single}
	}
	return []chaosConfig{single, cluster}
}

// Two replicas are killed, frozen and stopped, nats-servers are killed, every link is cut, slowed down and made deaf, in
// an order chosen by chance: every acknowledged publish still ends exactly once, nothing is booked twice without
// saying so, each Vorgang in order. The checks are in chaos_check_test.go.
//
// KEXRELAY_CHAOS: how long (see chaosRuns). KEXRELAY_CHAOS_SEED: the schedule of an earlier run. KEXRELAY_CHAOS_SUMMARY:
// a file that gets the summary. KEXRELAY_CHAOS_LOGS: a directory that gets what the processes printed, and the story of the run (chaos_story_test.go).
func TestNothingIsLostOrSilentlyRepeatedInChaos(t *testing.T) {
	seed := chaosSeed(t)
	for _, cfg := range chaosRuns(t) {
		t.Run(cfg.name, func(t *testing.T) {
			t.Logf("KEXRELAY_CHAOS_SEED=%d", seed)
			c := newChaos(t, cfg, seed)
			stop := c.watchQuorum()
			c.breakThings()
			c.drain()
			stop()
			e := c.evidence()
			if c.acked == 0 || len(e.requests) == 0 {
				t.Error("nothing was published or nothing was sent: the run shows nothing")
			}
			for _, check := range chaosChecks {
				report(t, check.name, check.run(e))
			}
			summary := c.summary(e)
			t.Logf("%s, seed %d\n%s", cfg.name, seed, summary)
			c.keepStory(e)
			keepSummary(t, cfg.name+", seed "+strconv.FormatUint(seed, 10)+"\n"+summary)
		})
	}
}

// report fails the test with what a check has found, the first of it in full.
func report(t *testing.T, check string, found []string) {
	t.Helper()
	const enough = 20
	for i, text := range found {
		if i == enough {
			t.Errorf("%s: and %d more", check, len(found)-enough)
			return
		}
		t.Errorf("%s: %s", check, text)
	}
}

func keepSummary(t *testing.T, text string) {
	t.Helper()
	name := os.Getenv("KEXRELAY_CHAOS_SUMMARY")
	if name == "" {
		return
	}
	file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // a lost summary is in the test's log too
	if _, err := file.WriteString(text + "\n"); err != nil {
		t.Fatal(err)
	}
}

// keepOutput writes what a process printed to the directory KEXRELAY_CHAOS_LOGS.
func keepOutput(t *testing.T, p *process) {
	t.Helper()
	dir := os.Getenv("KEXRELAY_CHAOS_LOGS")
	if dir == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(dir, p.name+".log"), []byte(p.output.String()), 0o600); err != nil {
		t.Errorf("keeping the output of %s: %v", p.name, err)
	}
}
