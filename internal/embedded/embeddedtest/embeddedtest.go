// Package embeddedtest gives a test a nats-server of its own: on a free loopback port, with its files in the
// test's directory, gone when the test ends.
package embeddedtest

import "kexrelay/internal/embedded"

// TB is what Run needs of a *testing.T, *testing.B or *testing.F.
type TB interface {
	Helper()
	TempDir() string
	Cleanup(f func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Run starts a server that lives until the test and everything registered with Cleanup after this call have
// ended. Connections opened after Run and closed by Cleanup are therefore closed before the server is.
func Run(t TB) *embedded.Server {
	t.Helper()
	return RunIn(t, t.TempDir())
}

// RunIn is Run with its files in dir, for tests that stop a server and start it again on the same files. Its port stays
// the test's, so that they may start it again there.
func RunIn(t TB, dir string) *embedded.Server {
	t.Helper()
	server, err := embedded.Start(embedded.Options{StoreDir: dir, Port: FreePort(t)})
	if err != nil {
		t.Fatalf("starting a nats-server: %v", err)
	}
	t.Cleanup(func() {
		if err := server.Shutdown(); err != nil {
			t.Errorf("stopping the nats-server: %v", err)
		}
	})
	return server
}
