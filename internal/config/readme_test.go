package config_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kexrelay/internal/config"
)

// updateREADME writes what is generated into the README instead of comparing it.
var updateREADME = flag.Bool("update", false, "write the generated parts of the README")

const (
	root   = "../.."
	readme = root + "/README.md"
)

// What the README copies from elsewhere is exactly what stands there: the option table, and an example of a result
// event that the schemas' own tests validate.
func TestREADMECopiesWhatIsGenerated(t *testing.T) {
	const event = "schemas/examples/result/valid/delivered.json"
	example, err := os.ReadFile(filepath.Join(root, event))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct{ begin, end, want string }{
		"option table": {
			"<!-- configuration: generated -->\n", "<!-- configuration: end -->\n", config.Markdown(),
		},
		"result event": {
			"<!-- example: " + event + " -->\n```json\n", "```\n", strings.TrimRight(string(example), "\n") + "\n",
		},
	}
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	updated := string(text)
	for name, test := range tests {
		before, rest, ok := strings.Cut(updated, test.begin)
		if !ok || strings.Contains(rest, test.begin) {
			t.Fatalf("%s: the README has not exactly one %q", name, test.begin)
		}
		got, after, ok := strings.Cut(rest, test.end)
		if !ok {
			t.Fatalf("%s: the README has no %q behind %q", name, test.end, test.begin)
		}
		if diff := cmp.Diff(test.want, got); diff != "" && !*updateREADME {
			t.Errorf("%s: go test ./internal/config -run README -update writes it (-want +got):\n%s", name, diff)
		}
		updated = before + test.begin + test.want + test.end + after
	}
	if *updateREADME && updated != string(text) {
		if err := os.WriteFile(readme, []byte(updated), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
