package embeddedtest_test

import (
	"net"
	"os/exec"
	"strconv"
	"sync"
	"testing"

	"kexrelay/internal/embedded/embeddedtest"
)

// A process that is started in the moment a port is looked for has a copy of everything open until it runs its program. The
// port must not be taken by that.
func TestAFreePortIsFreeWhileProcessesAreStarted(t *testing.T) {
	var starting sync.WaitGroup
	defer starting.Wait()
	done := make(chan struct{})
	defer close(done)
	for range 4 {
		starting.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					_ = exec.CommandContext(t.Context(), "true").Run() // That it is started is what counts.
				}
			}
		})
	}
	for range 2000 {
		port := embeddedtest.FreePort(t)
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			t.Fatal(err)
		}
		_ = listener.Close() // Nobody came.
	}
}
