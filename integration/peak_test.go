package integration

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
)

// peakBytes is the most resident memory a process has had so far.
func peakBytes(tb testing.TB, pid int) int64 {
	tb.Helper()
	peak, err := readPeak(pid)
	if err != nil {
		tb.Fatal(err)
	}
	return peak
}

func readPeak(pid int) (int64, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("the kernel does not tell peak memory")
}
