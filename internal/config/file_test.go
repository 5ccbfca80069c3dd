package config_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kexrelay/internal/config"
)

func rewrite(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTheFileTakesNestedAndWrittenOutKeys(t *testing.T) {
	file := writeFile(t, "relay.yaml", `
# A comment.
kex:
  client-id: from-file
  client-secret: from-file
  scopes: [one, two]
kex.request-timeout: 10s
nats: {url: [one, "two:4222"], tls-first: true}
rate: 1.5
name:
source: ""
`)
	s, err := config.LoadServe(nil, nil, file)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := s.KEX.ClientSecret()
	if secret != "from-file" || err != nil || s.KEX.ClientID != "from-file" || s.KEX.RequestTimeout.Seconds() != 10 {
		t.Errorf("kex = %q, %v, %+v", secret, err, s.KEX)
	}
	if !slices.Equal(s.KEX.Scopes, []string{"one", "two"}) {
		t.Errorf("Scopes = %q, want the list's", s.KEX.Scopes)
	}
	if got, want := s.NATS.Servers.String(), "nats://one,nats://two:4222"; got != want || !s.NATS.TLSFirst {
		t.Errorf("Servers = %s, first %v, want %s, true", got, s.NATS.TLSFirst, want)
	}
	if s.Relay.Rate != 1.5 || s.Relay.Name != "default" || s.Relay.Source != "urn:kexrelay:default" {
		t.Errorf("an empty value is not the default: %+v", s.Relay)
	}
}

func TestAFileWithNothingInItSetsNothing(t *testing.T) {
	for _, content := range []string{"# only a comment\n", "---\n", "{}", "kex:\n", "nats: {}\n"} {
		if _, err := config.LoadServe(nil, envOf(required()), writeFile(t, "relay.yaml", content)); err != nil {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestAnEmptyFileIsAMistake(t *testing.T) {
	for _, content := range []string{"", "\n", " \n\t\n"} {
		path := writeFile(t, "relay.yaml", content)
		_, err := config.LoadServe(nil, envOf(required()), path)
		if want := `--config: "` + path + `" is an empty file`; err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", content, err, want)
		}
	}
}

func TestMistakesInTheFileNameKeyLineAndTheNearestKnownKey(t *testing.T) {
	for content, want := range map[string]string{
		"kex:\n  base_url: x\n":               "kex.base_url (relay.yaml, line 2): is not a known key; did you mean kex.base-url?",
		"kex.bse-url: x\n":                    "kex.bse-url (relay.yaml, line 1): is not a known key; did you mean kex.base-url?",
		"KEX_BASE_URL: x\n":                   "KEX_BASE_URL (relay.yaml, line 1): is not a known key; did you mean kex.base-url?",
		"KEXRELAY_RATE: 5\n":                  "KEXRELAY_RATE (relay.yaml, line 1): is not a known key; did you mean rate?",
		"kexrelay:\n  rate: 5\n":              "kexrelay (relay.yaml, line 1): is not a known key",
		"base-url: x\n":                       "base-url (relay.yaml, line 1): is not a known key; did you mean kex.base-url?",
		"tlscert: x\n":                        "tlscert (relay.yaml, line 1): is not a known key; did you mean nats.cert?",
		"concurency: 5\n":                     "concurency (relay.yaml, line 1): is not a known key; did you mean concurrency?",
		"rat: 5\n":                            "rat (relay.yaml, line 1): is not a known key; did you mean rate?",
		"banana: 5\n":                         "banana (relay.yaml, line 1): is not a known key",
		"rate: {a: 1}\n":                      "rate (relay.yaml, line 1): takes a plain value, no list, mapping or alias",
		"rate: [1]\n":                         "rate (relay.yaml, line 1): takes a plain value, no list, mapping or alias",
		"name: &a x\nsource: *a\n":            "source (relay.yaml, line 2): takes a plain value, no list, mapping or alias",
		"kex: &a {scopes: [x]}\nnats: *a\n":   "nats (relay.yaml, line 2): is a section; it takes a mapping",
		"kex: &a\n  <<: *a\n":                 "--config: line 2 of relay.yaml holds a key that is no option's; a space may be missing behind a colon",
		"kex.scopes: [[a]]\n":                 "kex.scopes (relay.yaml, line 1): takes a list of plain values",
		"kex: 5\n":                            "kex (relay.yaml, line 1): is a section; it takes a mapping",
		"rate: 1\nrate: 2\n":                  "rate (relay.yaml, line 2): is set a second time",
		"nats.user: a\nnats:\n  user: b\n":    "nats.user (relay.yaml, line 3): is set a second time",
		"config: other.yaml\n":                "config (relay.yaml, line 1): cannot be set in the file itself",
		"- rate\n":                            "--config: line 1 of relay.yaml is not a mapping of option to value; write for example `rate: 5`",
		"rate: 1\n---\nrate: 2\n":             "--config: line 2 of relay.yaml begins a second YAML document, which is not read; put everything into one",
		"? [a]\n: 1\n":                        "--config: line 1 of relay.yaml holds a key that is no option's; a space may be missing behind a colon",
		"kex: {base-url: {base-url: {x: 1}}}": "kex.base-url (relay.yaml, line 1): takes a plain value, no list, mapping or alias",
	} {
		_, err := config.LoadServe(nil, envOf(required()), writeFile(t, "relay.yaml", content))
		if err == nil || !slices.Contains(strings.Split(err.Error(), "\n"), want) {
			t.Errorf("%q:\n got %v\nwant %s", content, err, want)
		}
	}
}

func TestAFileThatCannotBeReadIsAMistakeOfConfig(t *testing.T) {
	dir := t.TempDir()
	large := writeFile(t, "large.yaml", strings.Repeat("# x\n", 1<<19))
	for path, problem := range map[string]string{
		filepath.Join(dir, "none.yaml"): "does not exist",
		dir:                             "is not a regular file",
		large:                           "larger than 1048576 bytes",
		writeFile(t, "broken.yaml", "a: 1\nb: c: d\n"):   "is not valid YAML, see line 2",
		writeFile(t, "second.yaml", "rate: 1\n---\n{{{"): "is not valid YAML",
		writeFile(t, "binary.yaml", "\x00\xff\xfe"):      "is not valid YAML",
	} {
		_, err := config.LoadServe(nil, envOf(required()), path)
		if err == nil || !strings.Contains(err.Error(), problem) || options(t, err)[0] != "config" {
			t.Errorf("%s: %v, want %q", path, err, problem)
		}
	}
}

func TestWhatTheFileBreaksDoesNotHideOtherMistakes(t *testing.T) {
	_, err := config.LoadServe(nil, envOf(required("KEXRELAY_RATE", "x", "KEX_CLIENT_ID", "")), "/nowhere/relay.yaml")
	if got, want := options(t, err), []string{"config", "rate", "kex.client-id"}; !slices.Equal(got, want) {
		t.Errorf("mistakes in %q, want %q", got, want)
	}
}

// Whatever a file holds, loading neither panics nor invents a value for what the file does not name.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		"rate: 5\n", "kex:\n  scopes: [a, b]\n", "a: &a [*a]\n", "kex: *x\n", "{{{", "? {a: b}\n: c\n", "--- 1\n--- 2\n", "!!binary x: y",
		"rate: !!float .nan", "kex: !!null x", "\xef\xbb\xbfrate: 1", "%YAML 9.9\n---\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		s, err := config.LoadServe(nil, envOf(required()), writeFile(t, "relay.yaml", content))
		if err != nil {
			mistakes(t, err)
			return
		}
		for _, setting := range s.Settings() {
			_, bare, _ := strings.Cut(setting.Key, ".")
			if bare == "" {
				bare = setting.Key
			}
			if setting.Source == config.FromFile && !strings.Contains(content, bare) && !strings.Contains(content, `\`) {
				t.Errorf("%q sets %s", content, setting.Key)
			}
		}
	})
}
