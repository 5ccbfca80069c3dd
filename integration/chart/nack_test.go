package chart

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jsm.go"
	jsmapi "github.com/nats-io/jsm.go/api"
	"github.com/nats-io/nats.go"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write deploy/nack anew")

// nackManager connects as NACK does.
func nackManager(t *testing.T, url string) *jsm.Manager {
	t.Helper()
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	manager, err := jsm.New(conn, jsm.WithTimeout(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return manager
}

// apply does with streams and consumers what NACK 0.22 does: it begins with jsm's defaults (a maximum age of a year among
// them), and what a resource leaves out stays as there.
func apply(t *testing.T, m *jsm.Manager, objects rendered) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		if s, ok := objects[name].value.(*nackStream); ok {
			if _, err := m.NewStream(s.Spec.Name, streamOptions(t, s)...); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		if c, ok := objects[name].value.(*nackConsumer); ok {
			if _, err := m.NewConsumer(c.Spec.StreamName, consumerOptions(t, c)...); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}

func duration(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func streamOptions(t *testing.T, s *nackStream) []jsm.StreamOption {
	t.Helper()
	spec := s.Spec
	options := []jsm.StreamOption{
		jsm.StreamDescription(spec.Description), jsm.Subjects(spec.Subjects...), jsm.MaxConsumers(spec.MaxConsumers),
		jsm.MaxMessages(int64(spec.MaxMsgs)), jsm.MaxBytes(spec.MaxBytes), jsm.MaxMessageSize(int32(spec.MaxMsgSize)), jsm.Replicas(spec.Replicas),
	}
	choose := func(what, value string, choices map[string]jsm.StreamOption) {
		option, ok := choices[value]
		if !ok {
			t.Fatalf("%s: NACK knows no %s %q", spec.Name, what, value)
		}
		options = append(options, option)
	}
	choose("retention", spec.Retention, map[string]jsm.StreamOption{"limits": jsm.LimitsRetention(), "interest": jsm.InterestRetention(), "workqueue": jsm.WorkQueueRetention()})
	choose("storage", spec.Storage, map[string]jsm.StreamOption{"file": jsm.FileStorage(), "memory": jsm.MemoryStorage()})
	choose("discard", spec.Discard, map[string]jsm.StreamOption{"old": jsm.DiscardOld(), "new": jsm.DiscardNew()})
	if spec.MaxMsgsPerSubject > 0 {
		options = append(options, func(o *jsmapi.StreamConfig) error {
			o.MaxMsgsPer = int64(spec.MaxMsgsPerSubject)
			return nil
		})
	}
	if spec.MaxAge != "" {
		options = append(options, jsm.MaxAge(duration(t, spec.MaxAge)))
	}
	if spec.DuplicateWindow != "" {
		options = append(options, jsm.DuplicateWindow(duration(t, spec.DuplicateWindow)))
	}
	if st := spec.SubjectTransform; st != nil {
		options = append(options, jsm.SubjectTransform(&jsmapi.SubjectTransformConfig{Source: st.Source, Destination: st.Dest}))
	}
	if spec.DenyDelete {
		options = append(options, jsm.DenyDelete())
	}
	if spec.DenyPurge {
		options = append(options, jsm.DenyPurge())
	}
	if spec.AllowRollup {
		options = append(options, jsm.AllowRollup())
	}
	return options
}

func consumerOptions(t *testing.T, c *nackConsumer) []jsm.ConsumerOption {
	t.Helper()
	spec := c.Spec
	if spec.AckPolicy != "explicit" || spec.DeliverPolicy != "all" || spec.ReplayPolicy != "instant" || spec.PriorityPolicy != "pinned_client" {
		t.Fatalf("%+v", spec)
	}
	options := []jsm.ConsumerOption{
		jsm.ConsumerDescription(spec.Description), jsm.DurableName(spec.DurableName), jsm.MaxAckPending(uint(spec.MaxAckPending)),
		jsm.MaxWaiting(0), jsm.AcknowledgeExplicit(), jsm.AckWait(duration(t, spec.AckWait)), jsm.DeliverAllAvailable(),
		jsm.MaxDeliveryAttempts(spec.MaxDeliver), jsm.ReplayInstantly(),
		jsm.PinnedClientPriorityGroups(duration(t, spec.PinnedTTL), spec.PriorityGroups...),
	}
	if len(spec.FilterSubjects) > 0 {
		options = append(options, jsm.FilterStreamBySubject(spec.FilterSubjects...))
	}
	return options
}

// configurations are all streams and consumers of a server, as JSON with everything the server says.
func configurations(t *testing.T, m *jsm.Manager) map[string]string {
	t.Helper()
	all := map[string]string{}
	add := func(name string, config any) {
		text, err := json.MarshalIndent(config, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		all[name] = string(text)
	}
	streams, _, _, err := m.Streams(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range streams {
		add("stream "+s.Name(), s.Configuration())
		consumers, _, _, err := m.Consumers(s.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range consumers {
			config := c.Configuration()
			if len(config.FilterSubjects) == 1 { // Two ways to say it; jsm takes the other one.
				config.FilterSubject, config.FilterSubjects = config.FilterSubjects[0], nil
			}
			add("consumer "+c.Name(), config)
		}
	}
	return all
}

// What NACK makes of the resources is, field by field as the server tells it, what setup makes; and setup finds nothing to mend.
func TestNACKCreatesWhatSetupCreates(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ values, flags string }{
		"one partition": {"topology: {by: nack, replicas: 1}", "--replicas=1"},
		"all said": {
			"topology: {by: nack, replicas: 1, partitions: 3, storage: memory, resultAge: 48h, maxBytes: {KEX_UPDATES: 64MiB, KEX_DEADLETTERS: 512KiB, KEX_DOCUMENTS: 1GiB, KEX_AUDIT: 1MiB, KEX_LEDGER: unlimited}}",
			"--replicas=1 --partitions=3 --storage=memory --result-age=48h --max-bytes=KEX_UPDATES=64MiB --max-bytes=KEX_DEADLETTERS=512KiB --max-bytes=KEX_AUDIT=1MiB",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ours, theirs := startNATS(t), startNATS(t)
			if out, err := (container{env: []string{"NATS_URL=" + ours}}).run(t, append([]string{"setup"}, strings.Fields(test.flags)...)...); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			m := nackManager(t, theirs)
			apply(t, m, render(t, minimal, test.values))
			want, got := configurations(t, nackManager(t, ours)), configurations(t, m)
			if !slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want))) || len(got) < 8 {
				t.Errorf("there are %v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
			}
			for name := range want {
				if got[name] != want[name] {
					t.Errorf("%s is\n%s\nsetup makes it\n%s", name, got[name], want[name])
				}
			}
			out, err := (container{env: []string{"NATS_URL=" + theirs}}).run(t, "setup", "--dry-run")
			if err != nil || strings.Count(out, ": unchanged\n") != strings.Count(out, "\n") || out == "" {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// startCluster starts three servers that keep three copies, and gives the URL of one.
func startCluster(t *testing.T) string {
	t.Helper()
	ports, routes := []string{freePort(t), freePort(t), freePort(t)}, make([]string, 3)
	for i := range routes {
		routes[i] = "nats://127.0.0.1:" + freePort(t)
	}
	for i, route := range routes {
		start(t, nil, programs.natsServer, "--jetstream", "--addr", "127.0.0.1", "--port", ports[i], "--store_dir", t.TempDir(),
			"--name", "n"+strconv.Itoa(i), "--cluster_name", "c", "--cluster", route, "--routes", strings.Join(routes, ","))
	}
	return "nats://127.0.0.1:" + ports[0]
}

// deploy/nack/kexrelay-r3.yaml on a real cluster: everything has three copies, and setup finds nothing to mend.
func TestThreeCopiesInACluster(t *testing.T) {
	t.Parallel()
	url := startCluster(t)
	text, err := os.ReadFile("../../deploy/nack/kexrelay-r3.yaml")
	if err != nil {
		t.Fatal(err)
	}
	objects := rendered{}
	for _, document := range splitYAML(string(text)) {
		o := decode(t, "kexrelay-r3.yaml", document)
		objects[o.kind+" "+o.meta.Name] = o
	}
	probe := []string{"setup", "--dry-run", "--wait=30s"}
	c := container{env: []string{"NATS_URL=" + url}}
	if out, err := c.run(t, probe...); err != nil { // It waits until the cluster has chosen its leader.
		t.Fatalf("%v\n%s", err, out)
	}
	m := nackManager(t, url)
	apply(t, m, objects)
	streams, _, _, err := m.Streams(nil)
	if err != nil || len(streams) != 7 {
		t.Fatalf("%d streams: %v", len(streams), err)
	}
	for _, s := range streams {
		if s.Replicas() != 3 {
			t.Errorf("%s has %d copies", s.Name(), s.Replicas())
		}
	}
	out, err := c.run(t, probe...)
	if err != nil || strings.Count(out, ": unchanged\n") != strings.Count(out, "\n") || out == "" {
		t.Errorf("%v\n%s", err, out)
	}
}

// An uninstalled chart leaves everything in NATS, and each resource says how NACK connects.
func TestNACKDeletesNothing(t *testing.T) {
	for values, account := range map[string]string{"topology: {by: nack, replicas: 1}": "", "topology: {by: nack, replicas: 1, nackAccount: crm}": "crm"} {
		found := 0
		for name, o := range render(t, minimal, values) {
			var c nackConnection
			switch v := o.value.(type) {
			case *nackStream:
				c = v.Spec.nackConnection
			case *nackConsumer:
				c = v.Spec.nackConnection
			default:
				continue
			}
			found++
			if !c.PreventDelete || c.Account != account || (account == "") != slices.Equal(c.Servers, []string{"nats://nats:4222"}) {
				t.Errorf("%s: %+v", name, c)
			}
		}
		if found != 8 {
			t.Errorf("%d resources", found)
		}
	}
}

// deploy/nack is what the chart renders, for those without Helm; R1 and R3 differ in the copies alone.
func TestManifestsForNACKAreTheCharts(t *testing.T) {
	texts := map[int][]byte{}
	for _, replicas := range []int{1, 3} {
		var all bytes.Buffer
		all.WriteString("# What `kexrelay setup --replicas " + strconv.Itoa(replicas) + "` creates, as resources of NACK (github.com/nats-io/nack, 0.22): kubectl apply -f.\n" +
			"# Made from the Helm chart: cd integration/chart && go test -run Manifests -update .\n")
		objects := render(t, minimal, "fullnameOverride: kexrelay", "topology: {by: nack, replicas: "+strconv.Itoa(replicas)+"}")
		for _, name := range slices.Sorted(maps.Keys(objects)) {
			if kind := objects[name].kind; kind != "Stream" && kind != "Consumer" {
				continue
			}
			var o map[string]any
			if err := yaml.Unmarshal(objects[name].text, &o); err != nil {
				t.Fatal(err)
			}
			o["metadata"] = map[string]any{"name": objects[name].meta.Name} // The labels are Helm's.
			text, err := yaml.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			all.WriteString("---\n")
			all.Write(text)
		}
		texts[replicas] = all.Bytes()
		file := "../../deploy/nack/kexrelay-r" + strconv.Itoa(replicas) + ".yaml"
		if *update {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, all.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if found, err := os.ReadFile(file); err != nil || !bytes.Equal(found, all.Bytes()) {
			t.Errorf("%s is not what the chart renders: %v; write it with -update", file, err)
		}
	}
	r1 := strings.NewReplacer("replicas: 1\n", "replicas: 3\n", "--replicas 1`", "--replicas 3`").Replace(string(texts[1]))
	if r1 != string(texts[3]) {
		t.Error("R1 and R3 differ in more than the copies")
	}
}
