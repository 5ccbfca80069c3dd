package queue

import (
	"net"
	"sync"

	"github.com/nats-io/nats.go"
)

// dialler dials for nats.go and remembers the connection, so that it can be ended. The zero value is ready.
type dialler struct {
	// by dials if it is not nil, as by way of a SOCKS proxy.
	by  nats.CustomDialer
	own net.Dialer

	mu   sync.Mutex
	last net.Conn
}

// use makes the client dial by d. It is the last option: others may bring a dialler of their own.
func (d *dialler) use(o *nats.Options) error {
	d.by, d.own.Timeout = o.CustomDialer, o.Timeout
	o.CustomDialer = d
	return nil
}

// Dial dials as nats.go would.
func (d *dialler) Dial(network, address string) (net.Conn, error) {
	dial := d.own.Dial
	if d.by != nil {
		dial = d.by.Dial
	}
	conn, err := dial(network, address)
	if err == nil {
		d.mu.Lock()
		d.last = conn
		d.mu.Unlock()
	}
	return conn, err
}

// SkipTLSHandshake is the other dialler's answer.
func (d *dialler) SkipTLSHandshake() bool {
	by, ok := d.by.(interface{ SkipTLSHandshake() bool })
	return ok && by.SkipTLSHandshake()
}

// hangUp ends the connection dialled last; the client hears of it as of any lost connection.
func (d *dialler) hangUp() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last != nil {
		_ = d.last.Close() // It is over in any case.
	}
}
