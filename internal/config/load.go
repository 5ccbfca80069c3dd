package config

import (
	"errors"

	"github.com/spf13/pflag"
)

// loader is one load under way: the texts, what was made of them, and every mistake so far.
type loader struct {
	options map[string]Option
	given   map[string]given
	wrong   map[string]bool
	serve   Serve
	errs    []error
}

// load takes the chosen options from all sources, parses them and checks them against each other.
func load(fs *pflag.FlagSet, env Env, file string, set OptionSet, checks ...Check) (Serve, error) {
	serve, err := loadAll(fs, env, file, set, checks...)
	if err != nil {
		return Serve{}, err
	}
	return serve, nil
}

// loadAll is load that also beside an error gives what there is to print of the options.
func loadAll(fs *pflag.FlagSet, env Env, file string, set OptionSet, checks ...Check) (Serve, error) {
	table := Options(set)
	fromFile, errs := readConfigFile(file, table)
	l := &loader{options: map[string]Option{}, given: map[string]given{}, wrong: map[string]bool{}, errs: errs}
	for _, o := range table {
		l.options[o.Key] = o
		l.take(o, o.lookup(fs, env, fromFile))
	}
	l.check(set)
	for _, check := range checks {
		check(l)
	}
	for _, o := range table {
		l.serve.settings = append(l.serve.settings, l.setting(o))
	}
	return l.serve, errors.Join(l.errs...)
}

// take parses one option's text into its field. An empty text leaves the field empty: that is no mistake for an
// option without a default, and how a flag switches off what environment or file set.
func (l *loader) take(o Option, g given) {
	l.given[o.Key] = g
	if g.text == "" && o.Default == "" {
		return
	}
	if err := o.store(&l.serve, g.text); err != nil {
		l.wrong[o.Key] = true
		l.errs = append(l.errs, &OptionError{
			Option: o.Key, Name: g.name, Value: o.showable(g.text), Problem: err.Error(),
		})
	}
}

// has reports whether the option has a value, right or wrong.
func (l *loader) has(key string) bool { return l.given[key].text != "" }

// right reports whether all the options were parsed, so that comparing them says something.
func (l *loader) right(keys ...string) bool {
	for _, key := range keys {
		if l.wrong[key] {
			return false
		}
	}
	return true
}

// fail notes a mistake of an option under the name it was given by.
func (l *loader) fail(key, problem string) {
	l.wrong[key] = true
	l.errs = append(l.errs, &OptionError{Option: key, Name: l.given[key].name, Problem: problem})
}

// failValue is fail with the value, where it may be shown.
func (l *loader) failValue(key, problem string) {
	l.wrong[key] = true
	g := l.given[key]
	l.errs = append(l.errs, &OptionError{
		Option: key, Name: g.name, Value: l.options[key].showable(g.text), Problem: problem,
	})
}

// derive notes a value that was worked out from others. An option that was given keeps its source.
func (l *loader) derive(key, text string) {
	g := l.given[key]
	g.text = text
	l.given[key] = g
}
