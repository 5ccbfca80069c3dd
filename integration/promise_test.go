package integration

import (
	"testing"
	"time"
)

// promised holds the relay to a time. Each try makes the moment anew and gives how long it took. One that is late counts as
// the machine's, which may be busy with something else for a while, only if both of two more are in time: a relay that is
// late one time in two does not get through.
func promised(t *testing.T, what string, limit time.Duration, try func() time.Duration) {
	t.Helper()
	var took []time.Duration
	for n := range 3 {
		took = append(took, try())
		t.Logf("%s: %v", what, took[n])
		switch late := took[n] > limit; {
		case late && n > 0:
			t.Errorf("%s: %v, want within %v, and after one that is late twice", what, took, limit)
			return
		case !late && n == 0:
			return
		}
	}
}

// memoryLimit is what a relay may take that must not take more than so many bytes. The race detector needs up to ten
// times what a program needs.
func memoryLimit(bytes int64) int64 {
	if raceDetector {
		return 10 * bytes
	}
	return bytes
}
