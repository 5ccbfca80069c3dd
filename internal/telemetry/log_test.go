package telemetry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"kexrelay/internal/telemetry"
)

// secret is what config's secrets are to slog.
type secret struct{}

func (secret) LogValue() slog.Value { return slog.StringValue("<redacted>") }

func (secret) String() string { return "c4nary" }

func logLine(o telemetry.LogOptions) string {
	var out bytes.Buffer
	logger := telemetry.NewLogger(&out, o)
	logger.Debug("hidden")
	logger.Info(
		"sent", slog.Int("status", 201), slog.Duration("duration", 1500*time.Millisecond),
		slog.Time("since", time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.FixedZone("x", 3600))),
		slog.Any("error", errors.New("broken")), slog.Any("secret", secret{}),
	)
	return out.String()
}

func TestTheFormatFollowsTheTerminalUnlessItIsChosen(t *testing.T) {
	for name, tc := range map[string]struct {
		options      telemetry.LogOptions
		json, colour bool
	}{
		"auto elsewhere":               {telemetry.LogOptions{Format: telemetry.FormatAuto}, true, false},
		"auto on a terminal":           {telemetry.LogOptions{Format: telemetry.FormatAuto, Terminal: true}, false, true},
		"auto without colour":          {telemetry.LogOptions{Format: telemetry.FormatAuto, Terminal: true, NoColor: true}, false, false},
		"nothing chosen":               {telemetry.LogOptions{}, true, false},
		"text elsewhere":               {telemetry.LogOptions{Format: telemetry.FormatText}, false, false},
		"text on a terminal":           {telemetry.LogOptions{Format: telemetry.FormatText, Terminal: true}, false, true},
		"text, terminal, no colour":    {telemetry.LogOptions{Format: telemetry.FormatText, Terminal: true, NoColor: true}, false, false},
		"json on a terminal":           {telemetry.LogOptions{Format: telemetry.FormatJSON, Terminal: true}, true, false},
		"json elsewhere":               {telemetry.LogOptions{Format: telemetry.FormatJSON}, true, false},
		"a format that does not exist": {telemetry.LogOptions{Format: "xml"}, true, false},
	} {
		line := logLine(tc.options)
		if got := json.Valid([]byte(line)); got != tc.json {
			t.Errorf("%s: JSON is %v, want %v: %q", name, got, tc.json, line)
		}
		if got := strings.Contains(line, "\x1b["); got != tc.colour {
			t.Errorf("%s: colour is %v, want %v: %q", name, got, tc.colour, line)
		}
		if strings.Count(line, "\n") != 1 || strings.Contains(line, "hidden") || strings.Contains(line, "c4nary") {
			t.Errorf("%s: want one line at info without the secret: %q", name, line)
		}
	}
}

func TestJSONLinesHaveUTCTimesAndDurationsWithUnits(t *testing.T) {
	var line struct {
		Time, Level, Msg, Duration, Since, Error, Secret string
		Status                                           int
	}
	text := logLine(telemetry.LogOptions{Format: telemetry.FormatJSON})
	if err := json.Unmarshal([]byte(text), &line); err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`).MatchString(line.Time) {
		t.Errorf("time = %q, want RFC 3339 in UTC", line.Time)
	}
	if at, err := time.Parse(time.RFC3339, line.Time); err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("time = %q, want now", line.Time)
	}
	if line.Duration != "1.5s" || line.Since != "2026-01-02T02:04:05.006Z" || line.Error != "broken" ||
		line.Secret != "<redacted>" || line.Msg != "sent" || line.Level != "INFO" || line.Status != 201 {
		t.Errorf("line = %s", text)
	}
}

func TestTextOutsideATerminalHasTheDateInUTC(t *testing.T) {
	line := logLine(telemetry.LogOptions{Format: telemetry.FormatText})
	if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INF sent status=201 duration=1.5s `).MatchString(line) {
		t.Errorf("line = %q", line)
	}
	if !strings.Contains(line, " since=2026-01-02T02:04:05.006Z ") {
		t.Errorf("line = %q, want since in UTC", line)
	}
	terminal := logLine(telemetry.LogOptions{Format: telemetry.FormatText, Terminal: true, NoColor: true})
	if !regexp.MustCompile(`^\d\d:\d\d:\d\d\.\d{3} INF sent `).MatchString(terminal) {
		t.Errorf("line on a terminal = %q", terminal)
	}
}

func TestTheLevelCanChange(t *testing.T) {
	var out bytes.Buffer
	var level slog.LevelVar
	level.Set(slog.LevelError)
	for _, o := range []telemetry.LogOptions{
		{Level: &level, Format: telemetry.FormatJSON}, {Level: &level, Format: telemetry.FormatText},
	} {
		out.Reset()
		logger := telemetry.NewLogger(&out, o)
		level.Set(slog.LevelError)
		logger.Warn("quiet")
		level.Set(slog.LevelDebug)
		logger.Debug("loud")
		if got := out.String(); strings.Contains(got, "quiet") || !strings.Contains(got, "loud") {
			t.Errorf("log as %s = %q, want loud alone", o.Format, got)
		}
	}
}

// A publisher's text must neither begin a line of its own nor steer the terminal, nor hide what follows it.
func TestForeignTextStaysOneHarmlessLine(t *testing.T) {
	foreign := "a\nINF fake\x1b[2Jb\rc\x7f\u009b\xffend"
	for _, o := range []telemetry.LogOptions{
		{Format: telemetry.FormatJSON},
		{Format: telemetry.FormatText},
		{Format: telemetry.FormatText, Terminal: true},
		{Format: telemetry.FormatText, Terminal: true, NoColor: true},
	} {
		for how, log := range map[string]func(*slog.Logger){
			"attribute": func(l *slog.Logger) { l.Info("got", slog.String("trace_id", foreign)) },
			"error":     func(l *slog.Logger) { l.Info("got", slog.Any("error", errors.New(foreign))) },
			"struct":    func(l *slog.Logger) { l.Info("got", slog.Any("value", struct{ S string }{foreign})) },
			"bytes":     func(l *slog.Logger) { l.Info("got", slog.Any("bytes", []byte(foreign))) },
			"with":      func(l *slog.Logger) { l.With(slog.String("trace_id", foreign)).Info("got") },
			"group":     func(l *slog.Logger) { l.Info("got", slog.Group("g", slog.String("msg", foreign))) },
			"message":   func(l *slog.Logger) { slog.NewLogLogger(l.Handler(), slog.LevelWarn).Print(foreign) },
		} {
			var out bytes.Buffer
			log(telemetry.NewLogger(&out, o))
			got := out.String()
			steers := strings.Contains(got, "\x1b[2J") || strings.ContainsAny(got, "\r")
			if o.Format == telemetry.FormatText { // JSON keeps what it may; its readers are programs.
				steers = steers || strings.ContainsAny(got, "\x7f\u009b")
			}
			if strings.Count(got, "\n") != 1 || steers {
				t.Errorf("%s as %+v steers the terminal: %q", how, o, got)
			}
			if !strings.Contains(got, "end") && how != "bytes" {
				t.Errorf("%s as %+v lost its end: %q", how, o, got)
			}
		}
	}
}

func TestAnErrorThatIsNilDoesNotEndTheProcess(t *testing.T) {
	var out bytes.Buffer
	var none *nilError
	for _, o := range []telemetry.LogOptions{{Format: telemetry.FormatText}, {Format: telemetry.FormatJSON}} {
		out.Reset()
		telemetry.NewLogger(&out, o).Info("got", slog.Any("error", none))
		if !strings.Contains(out.String(), "got") {
			t.Errorf("line as %s = %q", o.Format, out.String())
		}
	}
}

type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }
