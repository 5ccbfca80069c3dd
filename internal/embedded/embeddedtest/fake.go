package embeddedtest

import (
	"context"
	"net"
	"sync"
)

// Greeting is how a nats-server begins a connection.
const Greeting = `INFO {"server_id":"FAKE","server_name":"fake","version":"2.14.0","proto":1,"host":"127.0.0.1","port":4222,` +
	`"headers":true,"max_payload":1048576,"jetstream":true}` + "\r\n"

// RunFake listens like a nats-server until the test ends, and lets handle do with each connection as it likes; when
// handle returns, the connection is closed. It gives the URL.
func RunFake(tb TB, handle func(net.Conn)) string {
	tb.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listening: %v", err)
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
	)
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			wg.Go(func() {
				defer func() { _ = conn.Close() }() // Whoever is at the other end is gone.
				handle(conn)
			})
		}
	})
	tb.Cleanup(func() {
		_ = l.Close() // Nobody is to come any more.
		mu.Lock()
		for _, conn := range conns {
			_ = conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return "nats://" + l.Addr().String()
}
