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
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			c.fail(path, plainError(err))
			return nil // It is reported, and the others go on.
		}
		if path == dir {
			return nil
		}
		hidden := strings.HasPrefix(entry.Name(), ".")
		if entry.IsDir() {
			if hidden || !recursive {
				return filepath.SkipDir
			}
			return nil
		}
		if hidden || !entry.Type().IsRegular() {
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
	if len(c.sources)+len(c.failures) == before {
		hint := ""
		if !recursive {
			hint = " (--recursive looks into subdirectories)"
		}
		c.fail(dir, errors.New("the directory has no files"+hint))
	}
}
