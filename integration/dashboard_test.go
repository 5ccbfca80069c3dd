//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// monitoring is a Prometheus that scrapes a relay every second and has the alerts loaded.
type monitoring struct {
	t   *testing.T
	url string
}

func newMonitoring(t *testing.T, target string) *monitoring {
	t.Helper()
	program, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatalf("%v: install prometheus (Debian: apt-get install --no-install-recommends prometheus)", err)
	}
	rules, err := filepath.Abs(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\n"+
		"scrape_configs: [{job_name: kexrelay, static_configs: [{targets: [%q]}]}]\n", rules, strings.TrimPrefix(target, "http://"))
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := "127.0.0.1:" + strconv.Itoa(freePort(t))
	startProcess(t, "prometheus", nil, program, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+addr, "--log.level=warn")
	return &monitoring{t: t, url: "http://" + addr}
}

// get asks Prometheus; false while it does not answer.
func (m *monitoring) get(path string, data any) bool {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url+path, http.NoBody)
	if err != nil {
		m.t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	defer answer.Body.Close() //nolint:errcheck // it is read
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode == http.StatusServiceUnavailable {
		return false
	}
	body := struct{ Data any }{Data: data}
	if err := json.Unmarshal(text, &body); err != nil || answer.StatusCode != http.StatusOK {
		m.t.Fatalf("%s: %d %s", path, answer.StatusCode, text)
	}
	return true
}

// ask gives how many series a query has now.
func (m *monitoring) ask(query string) int {
	m.t.Helper()
	var data struct{ Result []json.RawMessage }
	m.get("/api/v1/query?query="+url.QueryEscape(query), &data)
	return len(data.Result)
}

// grafana puts in what Grafana does.
func grafana(expr string) string {
	return strings.NewReplacer("$job", ".+", "$__rate_interval", "1m").Replace(expr)
}

// Every query of the dashboard has an answer from a real scrape, every rule can be evaluated on it, and none of the
// alerts fires although a few updates became dead letters.
func TestEveryDashboardQueryReturnsDataOfARealScrape(t *testing.T) {
	s := newSystem(t, scenarioScript())
	s.serve("KEXRELAY_RETRY_INITIAL=10ms")
	s.waitFor(s.health, `kexrelay_leased_partitions{}`, 1)
	m := newMonitoring(t, s.health)
	eventually(t, 30*time.Second, "prometheus has scraped the relay", func() bool { return m.ask("kexrelay_build_info") == 1 })
	s.scenario()
	s.waitFor(s.health, `kexrelay_dead_letters{reason="gone"}`, 1)

	queries := readDashboard(t)
	for _, q := range queries {
		expr := grafana(q.expr)
		if strings.Contains(expr, "$") {
			t.Errorf("panel %q has a variable nobody fills: %s", q.panel, expr)
			continue
		}
		eventually(t, 30*time.Second, "panel "+q.panel+" has data: "+expr, func() bool { return m.ask(expr) > 0 })
	}
	var rules struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError, State, Type string }
		}
	}
	evaluated := func() int {
		n := 0
		if m.get("/api/v1/rules", &rules) && len(rules.Groups) == 1 {
			for _, r := range rules.Groups[0].Rules {
				if r.Health != "unknown" {
					n++
				}
			}
		}
		return n
	}
	want := len(readRules(t))
	eventually(t, 30*time.Second, "all rules are evaluated", func() bool { return evaluated() == want })
	for _, r := range rules.Groups[0].Rules {
		switch expected := r.Name == "KexrelayDuplicatesFlagged"; { // The scenario has one.
		case r.Health != "ok":
			t.Errorf("%s: %s %s", r.Name, r.Health, r.LastError)
		case r.Type == "alerting" && (r.State == "firing") != expected:
			t.Errorf("%s is %s", r.Name, r.State)
		}
	}
	t.Logf("%d queries of the dashboard have data, %d rules are evaluated", len(queries), want)
}
