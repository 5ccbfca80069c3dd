//go:build !unix

package embedded

import (
	"errors"
	"os"
	"path/filepath"
)

// lockDir takes the directory for this process. Where no lock dies with the process, a file that is open cannot be
// removed (Windows), which does the same: a leftover of a crash can, the one of a running process cannot.
func lockDir(dir string) (release func() error, err error) {
	name := filepath.Join(dir, lockName)
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(ErrStoreTaken, err)
	}
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600) //nolint:gosec // G304: the directory is the operator's choice.
	if err != nil {
		return nil, err
	}
	return file.Close, nil
}
