//go:build integration

package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// edit is a change of one of the repository's files, made on a copy: text that is there exactly once, and what stands
// in its place.
type edit struct{ file, from, to string }

// brokenBuild is a relay without one of the things that make its promises true.
type brokenBuild struct {
	name  string
	edits []edit
	// setup says that it only sets the streams up; the right build serves.
	setup bool
	// caughtBy are the checks of which at least one must report. None means that a second guard is there: then no check
	// may report.
	caughtBy []string
}

// checkServes is the one check that is not the chaos suite's: a replica that ended by itself, as one does that finds the
// streams otherwise than they must be.
const checkServes = "serve refuses"

// brokenScenario is a failure at the worst moment for the builds that it is meant to find out.
type brokenScenario struct {
	name   string
	happen func(*brokenRun)
	builds []brokenBuild
}

// brokenScenarios are all builds that the suite must tell from the right one. What makes a moment the worst one is
// said at the scenario's function.
func brokenScenarios() []brokenScenario {
	return []brokenScenario{
		{"killed while results are refused", killedWhileResultsAreRefused, []brokenBuild{{
			name: "ack before publish", caughtBy: []string{"checkLost", "checkBooked"},
			edits: []edit{
				{
					"internal/relay/settle.go",
					"\tr.waits.Add(1)\n\tr.busy.add(it.tenure, 1, 0)\n",
					"\tr.acknowledge(ctx, it)\n\tr.waits.Add(1)\n\tr.busy.add(it.tenure, 1, 0)\n",
				},
				{
					"internal/relay/settle.go",
					"\tif _, err := r.persist(ctx, func(ctx context.Context) error { return r.deps.Journal.Settle(ctx, s) }); err != nil {\n",
					"\tr.acknowledge(ctx, it)\n" +
						"\tif _, err := r.persist(ctx, func(ctx context.Context) error { return r.deps.Journal.Settle(ctx, s) }); err != nil {\n",
				},
			},
		}}},
		{"killed while dead letters are refused", killedWhileDeadLettersAreRefused, []brokenBuild{{
			// It names the sequence that the dead letter will have: without a failure nobody could tell.
			name: "result before dead letter", caughtBy: []string{"checkDeadLetters"},
			edits: []edit{
				{
					"internal/journal/journal.go",
					"\t\tack, err := j.DeadLetter(ctx, s)\n\t\tif err != nil {\n\t\t\treturn err\n\t\t}\n\t\tdeadLetterSeq = ack.Sequence\n",
					"\t\tletters, err := j.results.js.Stream(ctx, \"KEX_DEADLETTERS\")\n\t\tif err != nil {\n\t\t\treturn err\n\t\t}\n" +
						"\t\tdeadLetterSeq = letters.CachedInfo().State.LastSeq + 1\n",
				},
				{
					"internal/journal/journal.go",
					"\tif !ack.Duplicate {\n\t\treturn nil\n\t}\n\tif err := j.tellDoubleBooking(",
					"\tif s.Outcome == update.DeadLettered {\n\t\tif _, err := j.DeadLetter(ctx, s); err != nil {\n\t\t\treturn err\n\t\t}\n\t}\n" +
						"\tif !ack.Duplicate {\n\t\treturn nil\n\t}\n\tif err := j.tellDoubleBooking(",
				},
			},
		}}},
		{"killed while requests are being made", killedWhileSending, []brokenBuild{{
			name: "no ledger", caughtBy: []string{"checkDuplicates"},
			edits: []edit{{
				"internal/journal/tenure_write.go",
				"\treturn t.write(ctx, recordOf(rec, stateSending))\n",
				"\treturn nil\n",
			}},
		}}},
		{"killed with updates held back", killedWithUpdatesHeld, []brokenBuild{
			{
				// The first delivery does not follow, and so the queue reads what is missing then. It costs time alone.
				name: "nothing read at the take-over alone", edits: []edit{withoutTakeOver},
			},
			{
				// It sends too early what comes first, or stands still before what never comes.
				name: "nothing read at all", caughtBy: []string{"checkOrder", "checkPending"},
				edits: []edit{withoutTakeOver, {
					"internal/queue/gap.go",
					"\treturn span{q.seen + 1, meta.streamSeq - 1}, true\n",
					"\treturn span{}, false\n",
				}},
			},
		}},
		{"frozen for longer than a lease", frozenForLongerThanALease, []brokenBuild{{
			name: "no lease", caughtBy: []string{"checkOverlap", "checkDuplicates", "checkOrder", "checkTraceIDs"},
			edits: []edit{
				{"internal/journal/lease_held.go", "\t\tif int64(l.leases.clock()) < until {\n", "\t\tif until > 0 {\n"},
				{"internal/journal/lease_held.go", "\tl.until.Store(0)\n\tl.once.Do(func() { close(l.lost) })\n", ""},
			},
		}}},
		{"killed together with nats-server", killedTogetherWithNATS, []brokenBuild{{
			// It is above everything that was sent, unless a killed server forgot.
			name: "bound from the consumer's position", caughtBy: []string{"checkDuplicates"},
			edits: []edit{
				{
					"internal/journal/tenure.go",
					"\tif info.State.Msgs > 0 {\n",
					"\tconsumer, err := t.js.Consumer(ctx, topology.StreamUpdates, topology.Consumer(t.lease.Partition()))\n" +
						"\tif err != nil {\n\t\treturn updatesState{}, err\n\t}\n\tstate.last = consumer.CachedInfo().Delivered.Stream\n" +
						"\tif info.State.Msgs > 0 {\n",
				},
			},
		}}},
		{"started with the streams that setup made", startedAfterSetup, []brokenBuild{
			{name: "look-ups at a follower, by setup", setup: true, caughtBy: []string{checkServes}, edits: []edit{directGets}},
			{name: "look-ups at a follower, by serve", caughtBy: []string{checkServes}, edits: []edit{directGets}},
		}},
	}
}

// directGets lets any server of a cluster answer look-ups, also one that lags behind.
var directGets = edit{"internal/topology/wanted.go", "\t\tDiscard:           jetstream.DiscardNew,\n", "\t\tDiscard:           jetstream.DiscardNew,\n\t\tAllowDirect:       true,\n"}

// withoutTakeOver fetches without asking what was delivered before.
var withoutTakeOver = edit{"internal/app/partition.go", "\tif err := q.TakeOver(ctx); err != nil {\n", "\tif err := ctx.Err(); err != nil {\n"}

// A relay that is broken on purpose is told from the right one by the suite's own checks, in a failure that is made
// for it; the right one passes the same failure. So no check is blind, and none cries at everything.
func TestBrokenBuildsAreCaught(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var rows []string
	t.Cleanup(func() { // After all subtests.
		slices.Sort(rows)
		table := "broken build: caught by\n  " + strings.Join(rows, "\n  ") + "\n"
		t.Log(table)
		keepSummary(t, table)
	})
	for _, scenario := range brokenScenarios() {
		t.Run(scenario.name, func(t *testing.T) {
			t.Parallel()
			t.Run("right build", func(t *testing.T) {
				t.Parallel()
				for _, found := range happened(t, newBrokenRun(t, programs.kexrelay, programs.kexrelay), scenario) {
					report(t, found.check, found.texts)
				}
			})
			for _, build := range scenario.builds {
				t.Run(build.name, func(t *testing.T) {
					t.Parallel()
					setup, serve := programs.kexrelay, buildBroken(t, build)
					if build.setup {
						setup, serve = serve, setup
					}
					var names []string
					caught := false
					for _, found := range happened(t, newBrokenRun(t, setup, serve), scenario) {
						t.Logf("%s (%d): %s", found.check, len(found.texts), found.texts[0])
						names = append(names, found.check)
						caught = caught || slices.Contains(build.caughtBy, found.check)
					}
					switch {
					case len(build.caughtBy) == 0 && len(names) == 0:
						names = []string{"nothing: a second guard is there"}
					case !caught:
						t.Errorf("found by %q, want by one of %q", names, build.caughtBy)
					}
					mu.Lock()
					defer mu.Unlock()
					rows = append(rows, build.name+": "+strings.Join(names, ", "))
				})
			}
		})
	}
}

// finding is what one check has found.
type finding struct {
	check string
	texts []string
}

// happened runs a scenario with a build and gives what the suite's checks say of it.
func happened(t *testing.T, c *brokenRun, scenario brokenScenario) []finding {
	t.Helper()
	scenario.happen(c)
	c.drainFor(brokenPatience)
	e := c.evidence()
	if c.acked == 0 {
		t.Error("nothing was published: the run shows nothing")
	}
	var all []finding
	for _, r := range c.replicas {
		if !running(r.process) {
			all = append(all, finding{checkServes, []string{tail(r.process.output.String(), 1)}})
		}
	}
	for _, check := range chaosChecks {
		if texts := check.run(e); len(texts) > 0 {
			all = append(all, finding{check.name, texts})
		}
	}
	return all
}

// buildBroken builds a broken relay. The repository's files stay as they are: the compiler is told to read others in
// their place.
func buildBroken(t *testing.T, build brokenBuild) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	texts := make(map[string]string)
	for _, e := range build.edits {
		path := filepath.Join(root, filepath.FromSlash(e.file))
		if texts[path] == "" {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			texts[path] = string(data)
		}
		if n := strings.Count(texts[path], e.from); n != 1 {
			t.Fatalf("this broken build does not apply any more: %s has %d times, not once, the text\n%s", e.file, n, e.from)
		}
		texts[path] = strings.Replace(texts[path], e.from, e.to, 1)
	}
	var overlay struct{ Replace map[string]string }
	overlay.Replace = make(map[string]string)
	for path, text := range texts {
		overlay.Replace[path] = filepath.Join(dir, strings.ReplaceAll(strings.TrimPrefix(path, root+"/"), "/", "_"))
		if err := os.WriteFile(overlay.Replace[path], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	data, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "kexrelay")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-overlay", name, "-o", program, "kexrelay/cmd/kexrelay")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building it: %v\n%s", err, out)
	}
	return program
}
