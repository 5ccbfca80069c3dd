package chart

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/strvals"
	"sigs.k8s.io/yaml"
)

var setFlag = regexp.MustCompile(`--set (\S+)`)

// What the README says to put into a file and on Helm's command line is rendered as it stands there.
func TestWhatTheREADMESaysIsRendered(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n### Kubernetes\n")
	section, _, _ = strings.Cut(section, "\n### ")
	_, rest, _ := strings.Cut(section, "```yaml\n")
	values, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("there is no values file")
	}
	commands := 0
	for line := range strings.Lines(section) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "helm install ") && !strings.HasPrefix(line, "helm upgrade ") {
			continue
		}
		commands++
		if !strings.Contains(line, " kexrelay deploy/helm/kexrelay -n crm -f crm.yaml") {
			t.Errorf("another chart or file: %s", line)
		}
		set := map[string]any{}
		for _, flag := range setFlag.FindAllStringSubmatch(line, -1) {
			if err := strvals.ParseInto(flag[1], set); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
		more, err := yaml.Marshal(set)
		if err != nil {
			t.Fatal(err)
		}
		objects := render(t, values, string(more))
		if len(objects) < 8 {
			t.Errorf("%s: %d resources", line, len(objects))
		}
	}
	if commands != 4 {
		t.Errorf("%d commands", commands)
	}
	if _, err := template(values); err != nil {
		t.Error(err)
	}
}
