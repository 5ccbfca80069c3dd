package main

import (
	"context"
	"log/slog"
	"net"
	"time"
)

// readyAtLatest is when a service manager is told that the process is ready although no update is fetched yet: while NATS
// is away, which may be for hours, whoever started the service and what is ordered after it must not wait.
const readyAtLatest = 5 * time.Second

// serviceManager is who started the process and wants to know how it is (systemd with Type=notify, sd_notify(3)).
type serviceManager struct {
	socket string // Where it listens; nobody does if it is empty.
	logger *slog.Logger
}

// newServiceManager finds it in the environment.
func newServiceManager(env *environment, logger *slog.Logger) serviceManager {
	socket, _ := env.lookup("NOTIFY_SOCKET")
	return serviceManager{socket: socket, logger: logger}
}

// watch tells of the stop, and that the process is ready unless what it returns is stopped in time.
func (m serviceManager) watch(ctx context.Context) (late *time.Timer) {
	late = time.AfterFunc(readyAtLatest, func() { m.ready("not serving yet: the log and /readyz say why") })
	context.AfterFunc(ctx, func() {
		late.Stop()
		m.tell("STOPPING=1\nSTATUS=settling what is being sent")
	})
	return late
}

// ready says that the process does what it is for. Saying it again only changes the status.
func (m serviceManager) ready(status string) { m.tell("READY=1\nSTATUS=" + status) }

// tell sends one message. That nobody takes it is no reason not to send updates.
func (m serviceManager) tell(message string) {
	if m.socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte(message))
		_ = conn.Close()
	}
	if err != nil {
		m.logger.Warn("the service manager could not be told how the process is", slog.Any("error", err))
	}
}
