package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// What stands in deploy for Prometheus and Grafana.
const (
	rulesFile     = "../deploy/prometheus/kexrelay.rules.yml"
	ruleTestsFile = "../deploy/prometheus/kexrelay.rules.test.yml"
	runbooksFile  = "../deploy/prometheus/README.md"
	dashboardFile = "../deploy/grafana/kexrelay.json"
)

// rule is one recording rule or alert.
type rule struct {
	Record, Alert, Expr string
	Labels, Annotations map[string]string
}

func readRules(t *testing.T) []rule {
	t.Helper()
	var file struct{ Groups []struct{ Rules []rule } }
	readYAML(t, rulesFile, &file)
	var all []rule
	for _, group := range file.Groups {
		all = append(all, group.Rules...)
	}
	if len(all) == 0 {
		t.Fatalf("%s has no rules", rulesFile)
	}
	return all
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// query is one query of the dashboard.
type query struct{ panel, expr string }

func readDashboard(t *testing.T) []query {
	t.Helper()
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Type    string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatalf("%s: %v", dashboardFile, err)
	}
	var all []query
	for _, panel := range dashboard.Panels {
		if panel.Type != "row" && len(panel.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			all = append(all, query{panel.Title, target.Expr})
		}
	}
	if len(all) < 20 {
		t.Errorf("%s has %d queries only", dashboardFile, len(all))
	}
	return all
}

// knownSeries are the series of seriesFile: by name, their sets of labels.
type knownSeries map[string][]map[string]string

var (
	selector = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*(\{[^}]*\})?`)
	matcher  = regexp.MustCompile(`([a-z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)"`)
	grouping = regexp.MustCompile(`\b(?:by|without|on|ignoring)\s*\(([^)]*)\)`)
)

func readSeries(t *testing.T) knownSeries {
	t.Helper()
	text, err := os.ReadFile(seriesFile)
	if err != nil {
		t.Fatal(err)
	}
	known := knownSeries{}
	for line := range strings.Lines(string(text)) {
		name, labels, _ := strings.Cut(strings.TrimSpace(line), "{")
		set := map[string]string{}
		for _, m := range matcher.FindAllStringSubmatch(labels, -1) {
			set[m[1]] = m[3]
		}
		known[name] = append(known[name], set)
	}
	return known
}

// ofScrape are the labels that a scrape adds, and those of buckets.
var ofScrape = []string{"job", "instance", "le"}

// check says what is wrong with an expression: a metric, a label or a label's value that no relay shows. recorded are
// the names of recording rules.
func (k knownSeries) check(expr string, recorded []string) error {
	asked := 0
	labels := slices.Clone(ofScrape)
	for _, found := range selector.FindAllString(expr, -1) {
		name, matchers, _ := strings.Cut(found, "{")
		switch {
		case strings.Contains(name, ":") && !slices.Contains(recorded, name):
			return fmt.Errorf("%s is recorded by no rule", name)
		case strings.Contains(name, ":"):
			asked++
			labels = append(labels, "reason") // What recording rules keep.
			continue
		case !strings.HasPrefix(name, "kexrelay"):
			continue
		}
		asked++
		sets := k[name]
		if len(sets) == 0 {
			return fmt.Errorf("no relay shows %s", name)
		}
		for label := range sets[0] {
			labels = append(labels, label)
		}
		for _, m := range matcher.FindAllStringSubmatch(matchers, -1) {
			if err := checkMatcher(name, sets, m[1], m[3]); err != nil {
				return err
			}
		}
	}
	for _, group := range grouping.FindAllStringSubmatch(expr, -1) {
		for label := range strings.SplitSeq(group[1], ",") {
			if label = strings.TrimSpace(label); !slices.Contains(labels, label) {
				return fmt.Errorf("nothing asked for has the label %s", label)
			}
		}
	}
	if asked == 0 && !strings.Contains(expr, "process_") {
		return fmt.Errorf("%q asks for nothing", expr)
	}
	return nil
}

func checkMatcher(name string, sets []map[string]string, label, value string) error {
	if slices.Contains(ofScrape, label) {
		return nil
	}
	for one := range strings.SplitSeq(value, "|") {
		if !slices.ContainsFunc(sets, func(set map[string]string) bool { return set[label] == one }) {
			return fmt.Errorf("no %s has %s=%q", name, label, one)
		}
	}
	return nil
}

func recordedBy(rules []rule) []string {
	var names []string
	for _, r := range rules {
		if r.Record != "" {
			names = append(names, r.Record)
		}
	}
	return names
}

// TestEverySeriesOfAFullScenario holds the list of series against a real relay.
func TestDashboardAndAlertsAskForWhatARelayShows(t *testing.T) {
	t.Parallel()
	known, rules := readSeries(t), readRules(t)
	recorded := recordedBy(rules)
	for _, r := range rules {
		if err := known.check(r.Expr, recorded); err != nil {
			t.Errorf("%s%s: %v", r.Alert, r.Record, err)
		}
	}
	for _, q := range readDashboard(t) {
		if err := known.check(q.expr, nil); err != nil {
			t.Errorf("panel %q: %v", q.panel, err)
		}
	}
	for expr, problem := range map[string]string{
		`sum(kexrelay_hold{reason="outage"})`:                            "",
		`sum(kexrelay_holds)`:                                            "no relay shows kexrelay_holds",
		`max by (job, reason) (kexrelay_hold{reason=~"outage|outrage"})`: `no kexrelay_hold has reason="outrage"`,
		`kexrelay_hold{kind="dokument"}`:                                 `no kexrelay_hold has kind="dokument"`,
		`sum by (class) (kexrelay_hold)`:                                 "nothing asked for has the label class",
		`job:kexrelay_hold:max > 1`:                                      "job:kexrelay_hold:max is recorded by no rule",
		`up`:                                                             `"up" asks for nothing`,
	} {
		if err := known.check(expr, recorded); problem == "" && err != nil || problem != "" && (err == nil || err.Error() != problem) {
			t.Errorf("%s: %v, want %q", expr, err, problem)
		}
	}
}

// Whether the alerts fire, and when, promtool tests; here it is seen to that it does so for each of them.
func TestEveryAlertHasARunbookAndATest(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(runbooksFile)
	if err != nil {
		t.Fatal(err)
	}
	var tests struct {
		Tests []struct {
			Name      string
			RuleTests []struct {
				Alertname string
				Expected  []any `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	readYAML(t, ruleTestsFile, &tests)
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range tests.Tests {
		for _, r := range test.RuleTests {
			fires[r.Alertname] = fires[r.Alertname] || len(r.Expected) > 0
			silent[r.Alertname] = silent[r.Alertname] || len(r.Expected) == 0
		}
	}
	for _, r := range readRules(t) {
		if r.Alert == "" {
			continue
		}
		if !strings.Contains(string(text), "\n### "+r.Alert+"\n") || r.Annotations["runbook"] != "deploy/prometheus/README.md#"+strings.ToLower(r.Alert) {
			t.Errorf("%s has no runbook section, or does not name it: %q", r.Alert, r.Annotations["runbook"])
		}
		if !fires[r.Alert] {
			t.Errorf("%s fires in no test", r.Alert)
		}
		if !silent[r.Alert] && r.Alert != "KexrelayPartitionUnserved" { // That one is told apart by its alerts.
			t.Errorf("%s is not seen to wait in a test", r.Alert)
		}
		if r.Annotations["summary"] == "" || !slices.Contains([]string{"critical", "warning"}, r.Labels["severity"]) {
			t.Errorf("%s: summary %q, severity %q", r.Alert, r.Annotations["summary"], r.Labels["severity"])
		}
	}
	for _, reason := range []string{"unauthorized", "forbidden", "storage"} {
		if !strings.Contains(string(text), "| `"+reason+"` |") {
			t.Errorf("the runbooks do not tell of the hold %s", reason)
		}
	}
}

// What the README tells of metrics and their labels is what a relay shows: none is left out, none is there no more.
func TestTheREADMEListsEveryMetricWithItsLabels(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n| metric | labels | |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	quoted := regexp.MustCompile("`([a-z_]+)`")
	listed := map[string][]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || strings.HasPrefix(cells[1], "---") {
			continue
		}
		labels := quoted.FindAllStringSubmatch(cells[2], -1)
		for _, name := range quoted.FindAllStringSubmatch(cells[1], -1) {
			metric := "kexrelay_" + name[1]
			listed[metric] = []string{}
			for _, label := range labels {
				listed[metric] = append(listed[metric], label[1])
			}
		}
	}
	shown := map[string][]string{}
	for name, sets := range readSeries(t) {
		for _, part := range []string{"_bucket", "_count", "_sum"} {
			name = strings.TrimSuffix(name, part)
		}
		shown[name] = slices.Sorted(maps.Keys(sets[0]))
	}
	for name, labels := range shown {
		if _, there := listed[name]; !there {
			t.Errorf("the README does not list %s", name)
		}
		for _, label := range labels {
			if !slices.Contains(listed[name], label) {
				t.Errorf("the README does not list the label %s of %s", label, name)
			}
		}
	}
	for name := range listed {
		if _, there := shown[name]; !there {
			t.Errorf("the README lists %s, which no relay shows", name)
		}
	}
}
