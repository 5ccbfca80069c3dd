package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"kexrelay/internal/simulator"
)

// Under a disk that takes no more a document is not published, and said so in seconds; the same command publishes it when
// there is room. The server gets an error for each write beyond so many bytes of a file, as with a full disk.
func TestADocumentIsNotPublishedOntoAFullDisk(t *testing.T) {
	t.Parallel()
	s := newSystem(t, simulator.Script{})
	restart := func(program string, args ...string) {
		t.Helper()
		s.nats.kill()
		s.nats = startProcess(t, "nats-server", nil, program, args...)
		s.awaitServer()
	}
	restart("/bin/sh", "-c", fmt.Sprintf("ulimit -f 2048; exec %q --config %q", programs.natsServer, s.natsConf))
	large, content := s.aFile("Grundbuch.pdf", 20<<20)
	publish := func() (string, int) {
		t.Helper()
		_, errs, code := runProgram(t, s.natsEnv(), nil, programs.kexrelay, "publish", "document", "--vorgang", "123456", large)
		return errs, code
	}
	if errs, code := publish(); code != 1 || !strings.Contains(errs, "its disk may be full") || !strings.Contains(errs, "nothing was published") {
		t.Errorf("onto a full disk: exit code %d\n%s", code, errs)
	}
	restart(programs.natsServer, "--config", s.natsConf)
	if errs, code := publish(); code != 0 {
		t.Fatalf("with room: exit code %d\n%s", code, errs)
	}
	s.serve()
	s.drained(time.Minute)
	bookings := s.api.Ledger()
	if len(bookings) != 1 {
		t.Fatalf("%d bookings, want one", len(bookings))
	}
	wantDocument(t, bookings[0].Body, "Grundbuch.pdf", content)
}
