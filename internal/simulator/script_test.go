package simulator

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v3"
)

func contains(err error, texts ...string) bool {
	return err != nil && !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(err.Error(), text) })
}

func TestScriptErrorsSayWhereAndWhat(t *testing.T) {
	for script, want := range map[string][]string{
		"sequenze: []":                                                         {"line 1", `unknown key "sequenze"`},
		"faults: [{rate: 0.1, staus: 500}]":                                    {`unknown key "staus"`},
		"latency: {fixd: 1s}":                                                  {`unknown key "fixd"`},
		"token: {sequence: [{status: 1, wait: 2}]}":                            {`unknown key "wait"`},
		"latency: {fixed: 5}":                                                  {"line 1", "`5`", "time.Duration"},
		"latency: 20ms":                                                        {"line 1", "keys of a Latency"},
		"throttle: {rate: many}":                                               {"line 1", "many"},
		"a: b\n---\nc: d":                                                      {`unknown key "a"`},
		"{}\n---\n{}":                                                          {"one YAML document"},
		"[":                                                                    {"yaml"},
		"sequence: [{status: 500}, {status: 99}]":                              {"sequence[1].status: 99"},
		"sequence: [{status: 600}]":                                            {"sequence[0].status: 600"},
		"sequence: [{times: -1}]":                                              {"sequence[0].times"},
		"sequence: [{cut: now}]":                                               {`sequence[0].cut: "now" is none of before-booking, after-booking, mid-answer`},
		"sequence: [{reset: true}]":                                            {"sequence[0].reset"},
		"sequence: [{early: true, book: true}]":                                {"sequence[0].early"},
		"sequence: [{early: true, cut: after-booking}]":                        {"sequence[0].early"},
		"sequence: [{cut: before-booking, book: true}]":                        {"sequence[0].book"},
		"sequence: [{cut: after-booking, book: false}]":                        {"sequence[0].book"},
		"sequence: [{location: /x}]":                                           {"sequence[0].location"},
		"sequence: [{body-size: -1}]":                                          {"sequence[0].body-size"},
		"sequence: [{body-size: 9999999999}]":                                  {"sequence[0].body-size"},
		"sequence: [{body-size: 9, body: x}]":                                  {"sequence[0].body-size"},
		"sequence: [{headers: {'a b': c}}]":                                    {"sequence[0].headers"},
		"sequence: [{headers: {a: \"b\\r\\nc\"}}]":                             {"sequence[0].headers"},
		"sequence: [{retry-after: -1s}]":                                       {"sequence[0].retry-after"},
		"sequence: [{retry-after-form: epoch}]":                                {"sequence[0].retry-after-form"},
		"sequence: [{drip: -1s}]":                                              {"sequence[0].drip"},
		"sequence: [{answer-latency: {fixed: -1s}}]":                           {"sequence[0].answer-latency.fixed"},
		"vorgaenge: [{always: {}}]":                                            {"vorgaenge[0].match"},
		"vorgaenge: [{match: ['[']}]":                                          {"vorgaenge[0].match", "neither sequence nor always"},
		"vorgaenge: [{match: [''], always: {}}]":                               {"vorgaenge[0].match"},
		"vorgaenge: [{match: [1], kind: x, always: {}}]":                       {"vorgaenge[0].kind"},
		"vorgaenge: [{match: [1], always: {status: 1}}]":                       {"vorgaenge[0].always.status"},
		"vorgaenge: [{match: [1], sequence: [{cut: x}]}]":                      {"vorgaenge[0].sequence[0].cut"},
		"faults: [{rate: 1.1}]":                                                {"faults[0].rate"},
		"faults: [{rate: -1}]":                                                 {"faults[0].rate"},
		"faults: [{rate: .nan}]":                                               {"faults[0].rate"},
		"faults: [{rate: 1, kind: x}]":                                         {"faults[0].kind"},
		"faults: [{rate: 0.6}, {rate: 0.6, kind: dokument}]":                   {"faults", "dokument", "1.2"},
		"throttle: {burst: 5}":                                                 {"throttle.rate"},
		"throttle: {rate: 5, burst: -1}":                                       {"throttle.burst"},
		"throttle: {rate: 5, status: 1}":                                       {"throttle.status"},
		"outages: [{of: world}]":                                               {"outages[0].of"},
		"outages: [{from: -1s}]":                                               {"outages[0].from"},
		"outages: [{every: 1s}]":                                               {"outages[0].every"},
		"outages: [{every: 1s, for: 2s}]":                                      {"outages[0].every"},
		"outages: [{status: 1}]":                                               {"outages[0].status"},
		"token: {ttl: -1s, expires-in: -1s}":                                   {"token.ttl", "token.expires-in"},
		"token: {always: {status: 1}}":                                         {"token.always.status"},
		"token: {sequence: [{status: 1}]}":                                     {"token.sequence[0].status"},
		"token: {scopes: ['a b']}":                                             {"token", `"a b"`},
		"latency: {fixed: 1s, uniform: {min: 1s, max: 2s}}":                    {"latency", "only one"},
		"latency: {fixed: 2h}":                                                 {"latency.fixed"},
		"latency: {max: -1s}":                                                  {"latency.max"},
		"latency: {uniform: {min: 2s, max: 1s}}":                               {"latency.uniform"},
		"latency: {normal: {mean: -1s}}":                                       {"latency.normal"},
		"latency: {lognormal: {median: 2s, p99: 1s}}":                          {"latency.lognormal"},
		"latency: {lognormal: {p99: 1s}}":                                      {"latency.lognormal"},
		"latency: {percentiles: [{p: 101, latency: 1s}]}":                      {"latency.percentiles[0]"},
		"latency: {percentiles: [{p: 50, latency: 1s}, {p: 50, latency: 2s}]}": {"latency.percentiles[1]"},
		"latency: {percentiles: [{p: 50, latency: 2s}, {p: 60, latency: 1s}]}": {"latency.percentiles[1]"},
		"sequence: [{status: 1}]\nfaults: [{rate: 7}]":                         {"sequence[0].status", "faults[0].rate"}, // All at once.
	} {
		if _, err := ParseScript([]byte(script)); !contains(err, want...) {
			t.Errorf("script %q: error %v, want it to say %q", script, err, want)
		}
	}
	if _, err := ParseScript(make([]byte, maxScript+1)); !contains(err, "at most") {
		t.Errorf("a script that is too large: %v", err)
	}
}

func TestAnEmptyScriptIsAnAPIThatWorks(t *testing.T) {
	for _, text := range []string{"", "\n# nothing\n", "{}", "null"} {
		script, err := ParseScript([]byte(text))
		if diff := cmp.Diff(Script{}, script, cmpopts.IgnoreUnexported(Answer{})); err != nil || diff != "" {
			t.Errorf("%q: error %v, %s", text, err, diff)
		}
	}
}

func TestAScriptCanBeJSON(t *testing.T) {
	script, err := ParseScript([]byte(`{"vorgaenge": [{"match": ["42*"], "always": {"status": 410, "retry-after": "5s"}}]}`))
	want := Script{Vorgaenge: []VorgangRule{{Match: []string{"42*"}, Always: &Answer{Status: 410, RetryAfter: 5 * time.Second}}}}
	if diff := cmp.Diff(want, script, cmpopts.IgnoreUnexported(Answer{})); err != nil || diff != "" {
		t.Errorf("error %v, %s", err, diff)
	}
}

func TestLoadScriptNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "broken.yaml")
	if _, err := LoadScript(path); !contains(err, "broken.yaml") {
		t.Errorf("a missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("x: y"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadScript(path); !contains(err, "broken.yaml", `"x"`) {
		t.Errorf("a broken file: %v", err)
	}
}

// The example is documentation: it must load, say everything there is to say, and survive being written.
func TestTheExampleScript(t *testing.T) {
	script, err := LoadScript("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(script)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseScript(text)
	if diff := cmp.Diff(script, again, cmpopts.IgnoreUnexported(Answer{})); err != nil || diff != "" {
		t.Errorf("written and read again: error %v, %s", err, diff)
	}
	for _, key := range []string{
		"throttle", "outages", "sequence", "vorgaenge", "faults", "token", "latency", "fixed", "uniform", "normal", "lognormal",
		"percentiles", "max", "status", "book", "cut", "reset", "early", "answer-latency", "retry-after", "retry-after-form",
		"headers", "body", "body-size", "drip", "echo", "error", "times", "match", "kind", "always", "rate", "burst", "from", "for",
		"every", "of", "ttl", "expires-in", "scopes",
	} {
		if !strings.Contains(string(text), key+":") {
			t.Errorf("the example does not show the key %s", key)
		}
	}
}

// The example does what its comments say.
func TestTheExampleScriptBehaves(t *testing.T) {
	script, err := LoadScript("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	script.Throttle, script.Faults = nil, nil // They depend on how fast this test runs.
	s := newSimulator(t, "", func(c *Config) { c.Script = script })
	c := listen(t, s)
	for _, test := range []struct {
		vorgang string
		want    []int
		booked  int
	}{
		{"1", []int{500, 200}, 1},
		{"4100", []int{410, 410}, 0},
		{"5030", []int{503, 503, 200}, 1},
		{"4290", []int{429, 200}, 1},
		{"5040", []int{504, 0, 0, 200, 200}, 5},
		{"5041", []int{0, 200}, 1},
		{"4000", []int{200}, 1},
		{"3021", []int{302}, 0},
		{"6000", []int{200, 200, 200, 503, 200}, 4},
	} {
		if got := c.statuses(test.vorgang, len(test.want)); fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("Vorgang %s is answered %v, want %v", test.vorgang, got, test.want)
		}
		c.wantBooked(test.vorgang, test.booked)
	}
	c.wantStatus(c.post("4000", KindDocument, "", exampleDocument), 400)
}

func TestLatencyDistributions(t *testing.T) {
	const n = 20000
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	for name, test := range map[string]struct {
		latency                *Latency
		p1, median, p99, least float64 // Milliseconds.
		most                   float64
	}{
		"fixed":     {Fixed(20 * time.Millisecond), 20, 20, 20, 20, 20},
		"uniform":   {&Latency{Uniform: &Uniform{100 * time.Millisecond, 200 * time.Millisecond}}, 101, 150, 199, 100, 200},
		"normal":    {&Latency{Normal: &Normal{100 * time.Millisecond, 10 * time.Millisecond}}, 76.7, 100, 123.3, 0, 200},
		"lognormal": {&Latency{LogNormal: &LogNormal{100 * time.Millisecond, 400 * time.Millisecond}}, 25, 100, 400, 0, 3600e3},
		"cut off": {
			&Latency{LogNormal: &LogNormal{100 * time.Millisecond, 400 * time.Millisecond}, Max: 150 * time.Millisecond},
			25, 100, 150, 0, 150,
		},
		"percentiles": {
			&Latency{Percentiles: []Percentile{{50, 100 * time.Millisecond}, {98, 196 * time.Millisecond}, {99, time.Second}}},
			100, 100, 1000, 100, 1000,
		},
		"none": {nil, 0, 0, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if err := test.latency.validate("latency"); err != nil {
				t.Fatal(err)
			}
			chance := rand.New(rand.NewPCG(1, 2))
			drawn := make([]float64, n)
			for i := range drawn {
				drawn[i] = ms(test.latency.draw(chance))
			}
			slices.Sort(drawn)
			for _, check := range []struct {
				what      string
				got, want float64
			}{{"p1", drawn[n/100], test.p1}, {"median", drawn[n/2], test.median}, {"p99", drawn[n*99/100], test.p99}} {
				if check.got < check.want*0.93 || check.got > check.want*1.07 {
					t.Errorf("%s = %.2f ms, want %.2f", check.what, check.got, check.want)
				}
			}
			if drawn[0] < test.least || drawn[n-1] > test.most {
				t.Errorf("drawn are %.2f–%.2f ms, want %.2f–%.2f", drawn[0], drawn[n-1], test.least, test.most)
			}
		})
	}
}
