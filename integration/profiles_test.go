//go:build integration

package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// composeFile is what is looked at of docker-compose config.
type composeFile struct {
	Services map[string]struct {
		Image       string
		Profiles    []string
		Volumes     []any
		Environment map[string]string
	}
}

// composed is the compose file as docker-compose understands it with a profile, or none.
func composed(t *testing.T, profile string) composeFile {
	t.Helper()
	args := []string{"config"}
	if profile != "" {
		args = []string{"--profile", profile, "config"}
	}
	var file composeFile
	if err := yaml.Unmarshal([]byte(docker(t, "..", nil, "docker-compose", args...)), &file); err != nil {
		t.Fatal(err)
	}
	return file
}

// images by a version: what is tried today is what runs tomorrow.
var versioned = regexp.MustCompile(`^[a-z/]+:v?\d+\.\d+(\.\d+)?(-alpine)?$`)

func TestEachComposeProfileBringsWhatItSays(t *testing.T) {
	t.Parallel()
	file := composed(t, "grafana")
	for name, want := range map[string][]string{
		"nats": nil, "setup": nil, "simulator": nil, "relay": nil,
		"prometheus": {"prometheus", "grafana"}, "grafana": {"grafana"},
	} {
		service, ok := file.Services[name]
		if !ok || !slices.Equal(service.Profiles, want) {
			t.Errorf("%s (there: %t) comes with the profiles %v, want %v", name, ok, service.Profiles, want)
		}
		if service.Image != "kexrelay:local" && !versioned.MatchString(service.Image) {
			t.Errorf("%s has an image without a version: %s", name, service.Image)
		}
	}
	if len(file.Services) != 6 {
		t.Errorf("%d services", len(file.Services))
	}
	composed(t, "")
	composed(t, "prometheus")
}

// What Grafana is given: a data source that is the service prometheus, and the dashboard where the provider looks.
func TestGrafanaIsProvisionedWithWhatIsThere(t *testing.T) {
	t.Parallel()
	var sources struct {
		Datasources []struct {
			Type, URL string
			IsDefault bool `yaml:"isDefault"`
			JSONData  struct {
				TimeInterval string `yaml:"timeInterval"`
			} `yaml:"jsonData"`
		}
	}
	readYAML(t, "../deploy/grafana/provisioning/datasources/prometheus.yaml", &sources)
	var providers struct {
		Providers []struct {
			Type    string
			Options struct{ Path string }
		}
	}
	readYAML(t, "../deploy/grafana/provisioning/dashboards/kexrelay.yaml", &providers)
	if len(sources.Datasources) != 1 || len(providers.Providers) != 1 {
		t.Fatalf("%+v %+v", sources, providers)
	}
	source, path := sources.Datasources[0], providers.Providers[0].Options.Path
	if source.Type != "prometheus" || source.URL != "http://prometheus:9090" || !source.IsDefault {
		t.Errorf("data source %+v", source)
	}
	var scraping struct {
		Global struct {
			Interval string `yaml:"scrape_interval"`
		}
	}
	readYAML(t, "../deploy/prometheus/prometheus.yml", &scraping)
	if scraping.Global.Interval == "" || source.JSONData.TimeInterval != scraping.Global.Interval {
		t.Errorf("rates are over %q at least, prometheus scrapes every %q", source.JSONData.TimeInterval, scraping.Global.Interval)
	}
	grafana := composed(t, "grafana").Services["grafana"]
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(root, "deploy", "grafana", "kexrelay.json") + ":" + path + "/kexrelay.json:ro"
	if !slices.Contains(grafana.Volumes, any(want)) {
		t.Errorf("the dashboard is not mounted as %s: %v", want, grafana.Volumes)
	}
	if home := grafana.Environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]; home != path+"/kexrelay.json" {
		t.Errorf("the first page is %s", home)
	}
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Templating struct {
			List []struct{ Name, Type, Query any }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil || len(dashboard.Templating.List) == 0 ||
		dashboard.Templating.List[0].Type != "datasource" || dashboard.Templating.List[0].Query != source.Type {
		t.Errorf("the dashboard does not choose a data source of type %s by itself: %v %+v", source.Type, err, dashboard.Templating.List)
	}
}

func TestPromtoolAcceptsComposesConfiguration(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "promtool", "check", "config", "../deploy/prometheus/prometheus.yml").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "rules found") {
		t.Errorf("%v\n%s", err, out)
	}
}
