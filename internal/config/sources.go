package config

import (
	"strings"

	"github.com/spf13/pflag"
)

// Env looks up an environment variable, as os.LookupEnv does.
type Env func(name string) (string, bool)

// EnvOf is the lookup in a list like os.Environ's. Of a name that comes twice the first counts, as it does for
// the operating system's own lookup.
func EnvOf(environ []string) Env {
	values := make(map[string]string, len(environ))
	for _, entry := range environ {
		name, value, ok := strings.Cut(entry, "=")
		if _, seen := values[name]; ok && !seen {
			values[name] = value
		}
	}
	return func(name string) (string, bool) {
		value, ok := values[name]
		return value, ok
	}
}

// Source says where a value came from.
type Source string

// The sources, strongest first.
const (
	FromFlag    Source = "flag"
	FromEnv     Source = "env"
	FromFile    Source = "file"
	FromDefault Source = "default"
)

// given is one option's text as the strongest source gave it, and the name it had there.
type given struct {
	text   string
	source Source
	name   string
}

// RegisterFlags puts the flags of the chosen options into fs. Their values are read by the Load functions, which
// also judge them: so every mistake is told at once.
func RegisterFlags(fs *pflag.FlagSet, set OptionSet) {
	for _, o := range Options(set) {
		value := &flagValue{text: o.Default, kind: strings.ToLower(o.Value), secret: o.Secret}
		// pflag takes what stands in backquotes for the value's name.
		usage := strings.ReplaceAll(o.Help, "`", "") + " [" + o.Env + "]"
		f := fs.VarPF(value, o.Flag, o.Short, usage)
		if o.Value == "bool" {
			f.NoOptDefVal = "true"
		}
	}
}

// flagValue keeps a flag's text unjudged.
type flagValue struct {
	text   string
	kind   string
	secret bool
}

// Set is pflag's; it accepts everything.
func (v *flagValue) Set(text string) error {
	v.text = text
	return nil
}

// String is pflag's, for help and messages: it does not show a secret.
func (v *flagValue) String() string {
	if v.secret && v.text != "" {
		return redacted
	}
	return v.text
}

// Type is pflag's, for help.
func (v *flagValue) Type() string { return v.kind }

// lookup finds the option's text in the strongest source that has one.
func (o Option) lookup(fs *pflag.FlagSet, env Env, file map[string]given) given {
	if fs != nil {
		if f := fs.Lookup(o.Flag); f != nil && f.Changed {
			if v, ok := f.Value.(*flagValue); ok {
				return given{text: o.trim(v.text), source: FromFlag, name: "--" + o.Flag}
			}
		}
	}
	if env != nil {
		if text, _ := env(o.Env); o.trim(text) != "" {
			return given{text: o.trim(text), source: FromEnv, name: o.Env}
		}
	}
	if g, ok := file[o.Key]; ok && o.trim(g.text) != "" {
		g.text = o.trim(g.text)
		return g
	}
	return given{text: o.Default, source: FromDefault, name: o.names()}
}

// trim takes away what slips in at the edges: line ends behind a secret (it may begin or end with spaces), any
// space around all else.
func (o Option) trim(text string) string {
	if o.Secret {
		return trimSecret(text)
	}
	return strings.TrimSpace(text)
}

// trimSecret drops line ends behind a secret; one of nothing but white space is none.
func trimSecret(text string) string {
	if strings.TrimSpace(text) == "" {
		return ""
	}
	return strings.TrimRight(text, "\r\n")
}
