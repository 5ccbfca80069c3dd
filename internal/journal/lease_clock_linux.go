package journal

import (
	"time"

	"golang.org/x/sys/unix"
)

// bootClock is a clock that only goes forward and that also counts the time a suspended machine sleeps; Go's own
// monotonic clock stands still then, and a lease that somebody else took meanwhile would look as fresh as before.
func bootClock() func() time.Duration {
	var probe unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &probe) != nil {
		return monotonicClock()
	}
	return func() time.Duration {
		var now unix.Timespec
		if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
			return 1<<63 - 1 // Cannot be: it worked before. No lease is held at the end of time.
		}
		return time.Duration(now.Nano())
	}
}
