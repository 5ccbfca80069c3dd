//go:build !linux

package journal

import "time"

// bootClock is a clock that only goes forward.
func bootClock() func() time.Duration { return monotonicClock() }
