package config_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"kexrelay/internal/config"
)

func loaded(t *testing.T) config.Serve {
	t.Helper()
	file := writeFile(t, "relay.yaml", "concurrency: 8\n")
	s, err := config.LoadServe(flags(t, "--name", "prod"), envOf(required(
		"KEX_CLIENT_SECRET", canary, "NATS_URL", "nats://u:"+canary+"@one:4222,two",
	)), file)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPrintShowsEveryOptionWithItsSource(t *testing.T) {
	var out bytes.Buffer
	if err := loaded(t).Print(&out, config.FormatTable); err != nil {
		t.Fatal(err)
	}
	var rows [][]string
	for line := range strings.Lines(out.String()) {
		rows = append(rows, strings.Fields(line))
	}
	all := config.Options(config.ServeOptions)
	if len(rows) != len(all)+1 {
		t.Fatalf("%d lines, want a heading and %d options:\n%s", len(rows), len(all), out.String())
	}
	want := map[string]string{
		"name": "prod flag", "concurrency": "8 file", "rate": "0 default", "kex.client-secret": "<redacted> env",
		"nats.url": "nats://<redacted>@one:4222,nats://two env", "source": "urn:kexrelay:prod default",
		"nats.context": "- default", "nats.password": "- default",
	}
	for i, o := range all {
		row := rows[i+1]
		if row[0] != o.Key {
			t.Errorf("line %d is %q, want %s", i+1, row, o.Key)
		}
		if w, ok := want[o.Key]; ok && strings.Join(row[1:], " ") != w {
			t.Errorf("%s is %q, want %q", o.Key, row[1:], w)
		}
	}
	if strings.Contains(out.String(), canary) {
		t.Errorf("the table shows a secret:\n%s", out.String())
	}
}

func TestPrintAsJSONIsOneObjectPerLine(t *testing.T) {
	var out bytes.Buffer
	if err := loaded(t).Print(&out, config.FormatJSON); err != nil {
		t.Fatal(err)
	}
	got := map[string]config.Setting{}
	for line := range strings.Lines(out.String()) {
		var s config.Setting
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		got[s.Key] = s
	}
	if want := (config.Setting{Key: "name", Value: "prod", Source: config.FromFlag, Env: "KEXRELAY_NAME"}); got["name"] != want {
		t.Errorf("name = %+v, want %+v", got["name"], want)
	}
	if want := len(config.Options(config.ServeOptions)); len(got) != want {
		t.Errorf("%d options, want %d", len(got), want)
	}
	if strings.Contains(out.String(), canary) || !strings.Contains(out.String(), "<redacted>") {
		t.Errorf("secrets are not redacted:\n%s", out.String())
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestPrintTellsWhatItCannotDo(t *testing.T) {
	if err := loaded(t).Print(io.Discard, "xml"); err == nil || !strings.Contains(err.Error(), `"xml"`) {
		t.Errorf("error = %v, want one about xml", err)
	}
	for _, format := range []string{config.FormatTable, config.FormatJSON} {
		if err := loaded(t).Print(brokenWriter{}, format); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("error as %s = %v, want the writer's", format, err)
		}
	}
}

func TestTheLogLineHasEveryValueWithItsSource(t *testing.T) {
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("starting", slog.Any("config", loaded(t)))
	var line struct {
		Config map[string]string `json:"config"`
	}
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"name": "prod (flag)", "concurrency": "8 (file)", "kex_request_timeout": "30s (default)",
		"kex_client_secret": "<redacted> (env)", "nats_url": "nats://<redacted>@one:4222,nats://two (env)",
	} {
		if got := line.Config[key]; got != want {
			t.Errorf("%s = %q, want %q", key, got, want)
		}
	}
	if _, ok := line.Config["nats_context"]; ok {
		t.Error("an option nobody set is in the log line")
	}
}

func TestMarkdownHasEveryOptionWithAllItsNames(t *testing.T) {
	rows := map[string][]string{}
	for line := range strings.Lines(config.Markdown()) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.ReplaceAll(strings.TrimSpace(line), `\|`, "\x00"), "|")
		for i := range cells {
			cells[i] = strings.Trim(strings.TrimSpace(strings.ReplaceAll(cells[i], "\x00", "|")), "`")
		}
		rows[cells[1]] = cells
	}
	all := config.Options(config.ServeOptions)
	if len(rows) != len(all) {
		t.Errorf("%d rows, want %d", len(rows), len(all))
	}
	for _, o := range all {
		row := rows[o.Env]
		if len(row) != 7 {
			t.Errorf("%s: row %q, want five cells", o.Env, row)
			continue
		}
		flag, _, _ := strings.Cut(row[2], " ")
		if flag != "--"+o.Flag || row[4] != o.Default || row[5] != o.Help && row[5] != strings.Trim(o.Help, "`") {
			t.Errorf("%s: row %q does not fit %+v", o.Env, row, o)
		}
		if row[3] != o.Key && o.Key != "config" {
			t.Errorf("%s: key %q, want %q", o.Env, row[3], o.Key)
		}
	}
}

func TestHelpNamesEveryFlagItsDefaultAndItsEnvironmentVariable(t *testing.T) {
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	config.RegisterFlags(fs, config.ServeOptions)
	usage := fs.FlagUsages()
	lines := strings.Split(strings.TrimSpace(usage), "\n")
	all := config.Options(config.ServeOptions)
	if len(lines) != len(all) {
		t.Errorf("%d lines of help, want %d:\n%s", len(lines), len(all), usage)
	}
	for _, o := range all {
		value := " " + strings.ToLower(o.Value)
		if o.Value == "bool" {
			value = " "
		}
		if !strings.Contains(usage, "--"+o.Flag+value) || !strings.Contains(usage, "["+o.Env+"]") {
			t.Errorf("help lacks --%s%s or %s:\n%s", o.Flag, value, o.Env, usage)
		}
		if f := fs.Lookup(o.Flag); f.DefValue != o.Default {
			t.Errorf("--%s has the default %q, want %q", o.Flag, f.DefValue, o.Default)
		}
		if o.Help == "" || strings.HasSuffix(o.Help, ".") {
			t.Errorf("%s: help %q is empty or ends with a full stop", o.Key, o.Help)
		}
	}
}
