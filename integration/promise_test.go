package integration

import (
	"testing"
	"time"
)

// promised holds the relay to a time. Each try makes the moment anew and gives how long it took. One that is in time is
// enough: the promise is the relay's, not that of a machine which is busy with something else for a while. A relay that
// is too slow is so each time.
func promised(t *testing.T, what string, limit time.Duration, try func() time.Duration) {
	t.Helper()
	const tries = 4
	best := time.Duration(-1)
	for range tries {
		took := try()
		t.Logf("%s: %v", what, took)
		if took <= limit {
			return
		}
		if best < 0 || took < best {
			best = took
		}
	}
	t.Errorf("%s: %v at best of %d tries, want within %v", what, best, tries, limit)
}

// memoryLimit is what a relay may take that must not take more than so many bytes. The race detector needs up to ten
// times what a program needs.
func memoryLimit(bytes int64) int64 {
	if raceDetector {
		return 10 * bytes
	}
	return bytes
}
