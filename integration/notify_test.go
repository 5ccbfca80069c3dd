package integration

import (
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// serviceManager listens as systemd does to a unit with Type=notify.
type serviceManager struct {
	t    *testing.T
	conn *net.UnixConn
	path string
}

func newServiceManager(t *testing.T) *serviceManager {
	t.Helper()
	m := &serviceManager{t: t, path: filepath.Join(t.TempDir(), "notify")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	m.conn = conn
	return m
}

// hears gives the next message.
func (m *serviceManager) hears() string {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(busy * 20 * time.Second)); err != nil {
		m.t.Fatal(err)
	}
	message := make([]byte, 1024)
	n, err := m.conn.Read(message)
	if err != nil {
		m.t.Fatalf("the service manager hears nothing: %v", err)
	}
	return string(message[:n])
}

func (m *serviceManager) wants(text string) {
	m.t.Helper()
	if said := m.hears(); !strings.Contains(said, text) {
		m.t.Fatalf("the service manager hears %q, want %q in it", said, text)
	}
}

func serviceEnv(m *serviceManager) []string {
	return []string{
		"NOTIFY_SOCKET=" + m.path, "KEX_CLIENT_ID=id", "KEX_CLIENT_SECRET=secret", "KEXRELAY_HTTP_ADDR=127.0.0.1:0",
		"KEX_BASE_URL=http://127.0.0.1:1", "KEX_TOKEN_URL=http://127.0.0.1:1",
	}
}

// What follows `systemctl start` in a script, as `kexrelay resume` after a backup, finds NATS and the streams there.
func TestAServiceIsReadyWhenItsCommandsWork(t *testing.T) {
	t.Parallel()
	m := newServiceManager(t)
	addr := "127.0.0.1:" + strconv.Itoa(freePort(t))
	p := startProcess(t, "kexrelay", serviceEnv(m), programs.kexrelay,
		"serve", "--embedded", "--embedded-dir", t.TempDir(), "--embedded-addr", addr)
	m.wants("READY=1\nSTATUS=serving")
	if out, errs, code := runProgram(t, []string{"NATS_URL=nats://" + addr}, nil, programs.kexrelay, "resume"); code != 0 {
		t.Errorf("resume at once: exit code %d\n%s%s", code, out, errs)
	}
	if code := p.terminate(t, 40*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	m.wants("STOPPING=1")
}

// A NATS that is away for hours keeps nobody waiting who starts the service.
func TestAServiceWithoutNATSIsReadyToo(t *testing.T) {
	t.Parallel()
	m := newServiceManager(t)
	p := startProcess(t, "kexrelay", serviceEnv(m), programs.kexrelay, "serve", "--server", "nats://127.0.0.1:"+strconv.Itoa(freePort(t)))
	m.wants("READY=1\nSTATUS=not serving yet")
	if code := p.terminate(t, 40*time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	m.wants("STOPPING=1")
}

// Who looks at the streams after a restore needs no relay.
func TestAServiceOfStreamsAloneIsReady(t *testing.T) {
	t.Parallel()
	m := newServiceManager(t)
	addr := "127.0.0.1:" + strconv.Itoa(freePort(t))
	startProcess(t, "kexrelay", serviceEnv(m), programs.kexrelay,
		"serve", "--streams-only", "--embedded", "--embedded-dir", t.TempDir(), "--embedded-addr", addr)
	m.wants("READY=1\nSTATUS=NATS alone")
}
