package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Bounds of files.
const (
	maxFile   = 1 << 20  // A configuration file or a set of certificates is a few KiB.
	maxSecret = 64 << 10 // A file that is larger is no secret.
)

// plainKey is a key an error may repeat: a value that slipped into its place looks different.
var plainKey = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{0,47}$`)

var yamlLine = regexp.MustCompile(`line [0-9]+`)

// fileReader collects what a configuration file gives, and what is wrong with it.
type fileReader struct {
	path    string
	options []Option
	values  map[string]given
	errs    []error
}

// readConfigFile gives the texts in the file by key; "" is no file. Values are not judged here.
func readConfigFile(path string, options []Option) (map[string]given, []error) {
	r := &fileReader{path: path, options: options, values: map[string]given{}}
	if path == "" {
		return r.values, nil
	}
	data, err := readBounded(path, maxFile)
	if err != nil {
		r.failFile(0, strconv.Quote(path)+" "+err.Error())
		return r.values, r.errs
	}
	if len(bytes.TrimSpace(data)) == 0 { // One of comments alone is right, and sets nothing.
		r.failFile(0, strconv.Quote(path)+" "+errEmpty.Error())
		return r.values, r.errs
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF): // Nothing but comments.
		return r.values, nil
	case err != nil:
		r.failYAML(err)
		return r.values, r.errs
	}
	r.mapping("", document.Content[0])
	if err := decoder.Decode(&second); err == nil {
		r.failFile(second.Line, "begins a second YAML document, which is not read; put everything into one")
	} else if !errors.Is(err, io.EOF) {
		r.failYAML(err)
	}
	return r.values, r.errs
}

// mapping takes a mapping's entries: sections may be nested (kex: {base-url: …}) or written out (kex.base-url: …).
func (r *fileReader) mapping(prefix string, node *yaml.Node) {
	if isNull(node) {
		return
	}
	if node.Kind != yaml.MappingNode {
		r.failFile(node.Line, "is not a mapping of option to value; write for example `rate: 5`")
		return
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		r.entry(prefix, node.Content[i], node.Content[i+1])
	}
}

func (r *fileReader) entry(prefix string, name, value *yaml.Node) {
	if name.Kind != yaml.ScalarNode || !plainKey.MatchString(name.Value) {
		r.failFile(name.Line, "holds a key that is no option's; a space may be missing behind a colon")
		return
	}
	key := prefix + name.Value
	at := slices.IndexFunc(r.options, func(o Option) bool { return o.Key == key && key != keyConfig })
	isSection := slices.ContainsFunc(r.options, func(o Option) bool { return strings.HasPrefix(o.Key, key+".") })
	switch {
	case at >= 0:
		r.value(r.options[at], name.Line, value)
	case isSection && (value.Kind == yaml.MappingNode || isNull(value)):
		r.mapping(key+".", value)
	case isSection:
		r.fail(key, name.Line, "is a section; it takes a mapping")
	case key == keyConfig:
		r.fail(key, name.Line, "cannot be set in the file itself")
	default:
		problem := "is not a known key"
		if near := nearest(key, r.options); near != "" {
			problem += "; did you mean " + near + "?"
		}
		r.fail(key, name.Line, problem)
	}
}

// value takes one option's text: a scalar, or a list where the option has a separator.
func (r *fileReader) value(o Option, line int, node *yaml.Node) {
	if isNull(node) {
		return
	}
	text := node.Value
	switch {
	case node.Kind == yaml.SequenceNode && o.separator != "":
		var items []string
		for _, item := range node.Content {
			if item.Kind != yaml.ScalarNode {
				r.fail(o.Key, line, "takes a list of plain values")
				return
			}
			items = append(items, item.Value)
		}
		text = strings.Join(items, o.separator)
	case node.Kind != yaml.ScalarNode:
		r.fail(o.Key, line, "takes a plain value, no list, mapping or alias")
		return
	}
	if _, twice := r.values[o.Key]; twice {
		r.fail(o.Key, line, "is set a second time")
		return
	}
	r.values[o.Key] = given{text: text, source: FromFile, name: r.name(o.Key, line)}
}

// isNull reports an empty value: it sets nothing.
func isNull(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" }

// name is a key as the file's reader finds it again.
func (r *fileReader) name(key string, line int) string {
	return key + " (" + filepath.Base(r.path) + ", line " + strconv.Itoa(line) + ")"
}

func (r *fileReader) fail(key string, line int, problem string) {
	r.errs = append(r.errs, &OptionError{Option: key, Name: r.name(key, line), Problem: problem})
}

// failFile notes a mistake that is no known option's. Line 0 is the file as a whole.
func (r *fileReader) failFile(line int, problem string) {
	if line > 0 {
		problem = "line " + strconv.Itoa(line) + " of " + filepath.Base(r.path) + " " + problem
	}
	r.errs = append(r.errs, &OptionError{Option: keyConfig, Name: "--config", Problem: problem})
}

// failYAML tells where the file is no YAML, and nothing else: the parser's texts may quote the file, and so a
// secret (`client-secret: *x` is "unknown anchor 'x'").
func (r *fileReader) failYAML(err error) {
	problem := strconv.Quote(r.path) + " is not valid YAML"
	if line := yamlLine.FindString(err.Error()); line != "" {
		problem += ", see " + line
	}
	r.failFile(0, problem)
}

// readBounded reads a whole regular file. Its errors are the rest of a sentence and do not repeat the path: it
// may be a secret in the wrong place.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fileProblem(err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("is a file larger than %d bytes", limit)
	}
	return data, nil
}

// openRegular opens a file that is one: a directory has no content and a pipe could be read only once, but these
// files are read again.
func openRegular(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fileProblem(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	f, err := os.Open(path) //nolint:gosec // The operator names the file.
	if err != nil {
		return nil, fileProblem(err)
	}
	return f, nil
}

// fileProblem is a file error without the file's name.
func fileProblem(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("is a file that does not exist")
	case errors.Is(err, fs.ErrPermission):
		return errors.New("is a file this user may not read")
	}
	if inner, ok := errors.AsType[*fs.PathError](err); ok {
		err = inner.Err
	}
	return fmt.Errorf("is a file that cannot be read: %w", err)
}

// readSecret reads a secret out of its file, without the line end behind it.
func readSecret(path string) (string, error) {
	data, err := readBounded(path, maxSecret)
	if err != nil {
		return "", err
	}
	secret := trimSecret(string(data))
	switch {
	case secret == "":
		return "", errEmpty
	case strings.HasPrefix(secret, "\ufeff"):
		return "", errors.New("is a file that begins with a byte order mark, as some editors write it; save it without")
	case !utf8.ValidString(secret):
		return "", errors.New("is a file whose content is no UTF-8")
	}
	if _, err := parseSecret(secret); err != nil {
		return "", fmt.Errorf("is a file whose content %w", err)
	}
	return secret, nil
}
