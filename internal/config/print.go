package config

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
)

// Setting is one option's value as people may see it.
type Setting struct {
	// Key is the option's key.
	Key string `json:"key"`
	// Value is what was given or is the default, <redacted> for a secret, empty if there is none.
	Value string `json:"value"`
	// Source says where the value came from.
	Source Source `json:"source"`
	// Env is the option's name in the environment.
	Env string `json:"env"`
}

// The formats of Print, as -o names them.
const (
	FormatTable = "table"
	FormatJSON  = "json"
)

// setting is what may be seen of an option.
func (l *loader) setting(o Option) Setting {
	g := l.given[o.Key]
	shown := g.text
	switch {
	case o.Secret && shown != "":
		shown = redacted
	case l.wrong[o.Key]:
		shown = o.showable(shown) // It may be a secret in the wrong place.
	case o.Key == "nats.url":
		shown = l.serve.NATS.Servers.String()
	}
	return Setting{Key: o.Key, Value: shown, Source: g.source, Env: o.Env}
}

// Settings are all options with their values and sources, redacted, in the order of the option table.
func (s Serve) Settings() []Setting { return append([]Setting(nil), s.settings...) }

// Print writes all options with their values and sources, redacted: a table for people (FormatTable, also for
// ""), one JSON object per line for programs (FormatJSON).
func (s Serve) Print(w io.Writer, format string) error {
	switch format {
	case FormatJSON:
		encoder := json.NewEncoder(w)
		encoder.SetEscapeHTML(false) // <redacted> is to stay readable.
		for _, setting := range s.settings {
			if err := encoder.Encode(setting); err != nil {
				return fmt.Errorf("printing the configuration: %w", err)
			}
		}
		return nil
	case FormatTable, "":
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "OPTION\tVALUE\tSOURCE")
		for _, setting := range s.settings {
			value := setting.Value
			if value == "" {
				value = "-"
			}
			fmt.Fprintf(table, "%s\t%s\t%s\n", setting.Key, value, setting.Source)
		}
		if err := table.Flush(); err != nil {
			return fmt.Errorf("printing the configuration: %w", err)
		}
		return nil
	}
	return fmt.Errorf("the format is %q, but only %s and %s are possible", format, FormatTable, FormatJSON)
}

// LogValue is the configuration for one log line at start: each option that has a value as
// "<value> (<source>)", secrets redacted.
func (s Serve) LogValue() slog.Value {
	names := strings.NewReplacer(".", "_", "-", "_")
	var attrs []slog.Attr
	for _, setting := range s.settings {
		if setting.Value != "" {
			attrs = append(attrs, slog.String(names.Replace(setting.Key), setting.Value+" ("+string(setting.Source)+")"))
		}
	}
	return slog.GroupValue(attrs...)
}

// String is the configuration in one line, redacted: a Serve that slips into a text shows no secret.
func (s Serve) String() string {
	var parts []string
	for _, setting := range s.settings {
		if setting.Value != "" {
			parts = append(parts, setting.Key+"="+setting.Value)
		}
	}
	return strings.Join(parts, " ")
}
