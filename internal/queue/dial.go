package queue

import (
	"bytes"
	"errors"
	"net"
	"sync"

	"github.com/nats-io/nats.go"
)

// maxGreeting bounds the first line a server says, which in an ordinary cluster has a few KiB. The client itself reads
// it however long it is, and copies it again with each part that comes.
const maxGreeting = 1 << 20

// errGreeting is what is read from something that is no nats-server.
var errGreeting = errors.New("what answers there says no word of NATS in its first MiB")

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
		conn = &greeted{Conn: conn}
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

// greeted is a connection that ends if its first line does not. With TLS before the greeting it bounds the handshake
// alone: who gets past that is a server of ours.
type greeted struct {
	net.Conn

	// read is how much came so far, -1 after the first line.
	read int
}

// Read reads as the connection does; it is called by one goroutine at a time.
func (g *greeted) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if g.read < 0 {
		return n, err
	}
	if bytes.IndexByte(p[:n], '\n') >= 0 {
		g.read = -1
		return n, err
	}
	if g.read += n; g.read > maxGreeting {
		return 0, errGreeting
	}
	return n, err
}
