package embeddedtest

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"
)

// FreePort is a loopback port that nobody listens on and that is given to nobody else before the test ends, also not
// by another package's tests: whoever has the socket of its name has the port. It lies below those that the system
// gives to outgoing connections: else one of these could take it while its server is away, or connect to itself.
func FreePort(t TB) int {
	t.Helper()
	const first, count, names = 12000, 20000, "@kexrelay-test-port-"
	var config net.ListenConfig
	var dialer net.Dialer
	for {
		number := first + rand.IntN(count) //nolint:gosec // G404: a free port is no secret.
		port := strconv.Itoa(number)
		name, err := config.Listen(context.Background(), "unix", names+port)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			t.Fatalf("reserving port %s: %v", port, err)
		}
		// Asked, not tried: a listener would be copied into every process that is started in this moment, and the port
		// taken until that runs its program.
		conn, err := dialer.DialContext(context.Background(), "tcp", "127.0.0.1:"+port)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			_ = name.Close() // Nobody asked it anything.
			if err != nil {
				t.Fatalf("trying port %s: %v", port, err)
			}
			_ = conn.Close() // Nothing was said.
			continue
		}
		t.Cleanup(func() { _ = name.Close() })
		return number
	}
}
