package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// source is a file to read, or standard input.
type source struct {
	path  string
	base  string
	size  int64
	stdin bool
}

// collection is what was found under the arguments, in their order, and what could not be.
type collection struct {
	sources  []source
	failures []failure
	skipped  []skipped
}

// skipped is how many entries of a directory were left out, and of which sort.
type skipped struct {
	dir                  string
	hidden, other, inner int
}

// skip reports whether an entry is left out, and counts it.
func (s *skipped) skip(entry fs.DirEntry, recursive bool) bool {
	switch {
	case strings.HasPrefix(entry.Name(), "."):
		s.hidden++
	case entry.IsDir() && !recursive:
		s.inner++
	case !entry.IsDir() && !entry.Type().IsRegular():
		s.other++
	default:
		return false
	}
	return true
}

// String is for people.
func (s *skipped) String() string {
	var parts []string
	for _, part := range []struct {
		n         int
		one, many string
	}{
		{s.hidden, "hidden one", "hidden ones"},
		{s.inner, "subdirectory (--recursive takes its files)", "subdirectories (--recursive takes their files)"},
		{s.other, "that is no regular file", "that are no regular files"},
	} {
		if part.n > 0 {
			parts = append(parts, count(part.n, part.one, part.many))
		}
	}
	return strings.Join(parts, ", ")
}

// failure is something that was to be published and could not be.
type failure struct {
	name string
	err  error
}

// collect finds the files that the arguments name. Nothing is read yet.
func collect(args []string, recursive bool) *collection {
	c := &collection{}
	for _, arg := range args {
		if arg == "-" {
			c.sources = append(c.sources, source{path: "-", stdin: true})
			continue
		}
		info, err := os.Stat(arg)
		switch {
		case err != nil:
			c.fail(arg, plainError(err))
		case info.IsDir():
			c.directory(arg, recursive)
		default:
			c.file(arg, info)
		}
	}
	return c
}

func (c *collection) fail(path string, err error) {
	c.failures = append(c.failures, failure{name: path, err: err})
}

func (c *collection) file(path string, info fs.FileInfo) {
	switch {
	case !info.Mode().IsRegular():
		c.fail(path, errors.New("it is no regular file; read it as standard input (-)"))
	case info.Size() == 0:
		c.fail(path, errors.New("it is empty"))
	default:
		c.sources = append(c.sources, source{path: path, base: filepath.Base(path), size: info.Size()})
	}
}

// directory takes a directory's files, sorted by name. Hidden ones (.DS_Store) and what is no regular file are left
// out: nobody named them.
func (c *collection) directory(dir string, recursive bool) {
	before := len(c.sources) + len(c.failures)
	left := skipped{dir: dir}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			c.fail(path, plainError(err))
			return nil // It is reported, and the others go on.
		}
		if path == dir {
			return nil
		}
		if left.skip(entry, recursive) {
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if entry.IsDir() {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			c.fail(path, plainError(err))
			return nil
		}
		c.file(path, info)
		return nil
	})
	if err != nil {
		c.fail(dir, plainError(err))
		return
	}
	if left.hidden+left.other+left.inner > 0 {
		c.skipped = append(c.skipped, left)
	}
	if len(c.sources)+len(c.failures) == before {
		hint := ""
		if !recursive {
			hint = " (--recursive looks into subdirectories)"
		}
		c.fail(dir, errors.New("the directory has no files"+hint))
	}
}
