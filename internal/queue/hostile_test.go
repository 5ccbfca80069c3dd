package queue

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kexrelay/internal/embedded/embeddedtest"
)

// floods writes the same again and again until the other side has gone.
func floods(w io.Writer, text string) {
	chunk := []byte(text)
	for {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// What answers at the address of NATS and is no nats-server, or one that refuses, costs a command its timeout at most and
// little memory, and the error names the address and what to do.
func TestAServerThatIsNoneIsGivenUp(t *testing.T) {
	const timeout = 500 * time.Millisecond
	mebibyte := strings.Repeat("a", 1<<20)
	refusing := func(words string) func(net.Conn) {
		return func(conn net.Conn) {
			_, _ = io.WriteString(conn, embeddedtest.Greeting)
			_, _ = conn.Read(make([]byte, 1<<10))
			_, _ = io.WriteString(conn, words)
		}
	}
	for name, tc := range map[string]struct {
		handle func(net.Conn)
		says   string
	}{
		"closes at once":       {func(net.Conn) {}, "connecting to NATS at"},
		"says nothing":         {func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }, "timeout"},
		"greets byte by byte":  {func(conn net.Conn) { slowly(conn, embeddedtest.Greeting) }, "timeout"},
		"is a web server":      {func(conn net.Conn) { _, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n") }, "no NATS server"},
		"floods without lines": {func(conn net.Conn) { floods(conn, mebibyte) }, "no NATS server"},
		"greets without end": {func(conn net.Conn) {
			_, _ = io.WriteString(conn, `INFO {"server_id":"`)
			floods(conn, mebibyte)
		}, "no NATS server"},
		"greets with no JSON":       {func(conn net.Conn) { _, _ = io.WriteString(conn, "INFO {\r\n") }, "connecting to NATS at"},
		"refuses the credentials":   {refusing("-ERR 'Authorization Violation'\r\n"), "refuses the credentials"},
		"refuses all":               {refusing("-ERR 'maximum connections exceeded'\r\n"), "maximum connections exceeded"},
		"answers nothing more":      {func(conn net.Conn) { refusing("")(conn); _, _ = io.Copy(io.Discard, conn) }, "timeout"},
		"answers with other things": {refusing("MSG a 1 5\r\nhello\r\n"), "connecting to NATS at"},
	} {
		t.Run(name, func(t *testing.T) {
			url := embeddedtest.RunFake(t, tc.handle)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			begin := time.Now()
			conn, err := Connect(t.Context(), ConnectOptions{URL: url, Timeout: timeout}, Hooks{})
			took := time.Since(begin)
			runtime.ReadMemStats(&after)
			if err == nil {
				conn.NATS().Close()
				t.Fatal("it is connected")
			}
			if !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), url) {
				t.Errorf("got %q, want it to say %q and %s", err, tc.says, url)
			}
			if took > 10*timeout { // Nobody else's load makes a second out of a timeout for ever.
				t.Errorf("took %s with a timeout of %s", took, timeout)
			}
			t.Logf("took %s, %d KiB allocated", took.Round(time.Millisecond), (after.TotalAlloc-before.TotalAlloc)>>10)
			// The greeting is copied with each 32 KiB that come, up to 1 MiB of it.
			if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
				t.Errorf("%d bytes were allocated", n)
			}
		})
	}
}

func slowly(conn net.Conn, text string) {
	for i := range text {
		time.Sleep(20 * time.Millisecond)
		if _, err := io.WriteString(conn, text[i:i+1]); err != nil {
			return
		}
	}
}

// A server that takes every connection and drops it at once is tried again at a pace, for as long as it takes, and not
// told of with each try.
func TestAServerThatFlapsIsTriedAtAPace(t *testing.T) {
	t.Parallel()
	for name, handle := range map[string]func(net.Conn){
		"drops before the greeting": func(net.Conn) {},
		"drops after the greeting":  func(conn net.Conn) { _, _ = io.WriteString(conn, embeddedtest.Greeting) },
		"drops when it is connected": func(conn net.Conn) {
			_, _ = io.WriteString(conn, embeddedtest.Greeting)
			r := bufio.NewReader(conn)
			for {
				line, err := r.ReadString('\n')
				if err != nil || strings.HasPrefix(line, "PING") {
					break
				}
			}
			_, _ = io.WriteString(conn, "PONG\r\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const window = 3 * time.Second
			var conns atomic.Int32
			url := embeddedtest.RunFake(t, func(conn net.Conn) {
				conns.Add(1)
				handle(conn)
			})
			lines := &logWriter{tb: t}
			conn := connect(t, ConnectOptions{URL: url, RetryOnFailedConnect: true}, Hooks{Logger: slog.New(slog.NewTextHandler(lines, nil))})
			time.Sleep(window)
			tries := int(conns.Load())
			if most := int(window/reconnectWait) + 2; tries < 3 || tries > most {
				t.Errorf("%d connections in %s, want 3 to %d", tries, window, most)
			}
			if conn.NATS().IsClosed() {
				t.Error("the connection is closed for good")
			}
			lines.mu.Lock()
			defer lines.mu.Unlock()
			if n := len(lines.lines); n > 2*tries+1 { // It was there, it is gone: that is told.
				t.Errorf("%d lines for %d connections", n, tries)
			}
			lines.tb = nil
		})
	}
}

// injector stands between a client and a server, knows what the client has subscribed to, and says what the server never
// said.
type injector struct {
	mu   sync.Mutex // Held while something is written to the client.
	conn net.Conn
	sids map[string]string // Subject by subscription.
}

func (i *injector) serve(tb testing.TB, conn net.Conn, target string) {
	tb.Helper()
	server, err := net.Dial("tcp", target)
	if err != nil {
		tb.Errorf("dialling the server: %v", err)
		return
	}
	defer func() { _ = server.Close() }()
	i.mu.Lock()
	i.conn = conn
	i.mu.Unlock()
	go func() {
		defer func() { _ = server.Close() }()
		r := bufio.NewReader(io.TeeReader(conn, server))
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if words := strings.Fields(line); len(words) > 2 && words[0] == "SUB" {
				i.mu.Lock()
				i.sids[words[len(words)-1]] = words[1]
				i.mu.Unlock()
			}
		}
	}()
	r := bufio.NewReader(server)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return
		}
		if words := strings.Fields(string(line)); words[0] == "MSG" || words[0] == "HMSG" {
			var size int
			if _, err := fmt.Sscan(words[len(words)-1], &size); err != nil {
				tb.Errorf("reading %q: %v", line, err)
				return
			}
			body := make([]byte, size+len("\r\n"))
			if _, err := io.ReadFull(r, body); err != nil {
				return
			}
			line = append(line, body...)
		}
		i.mu.Lock()
		_, err = conn.Write(line)
		i.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// flood writes n messages of a size to each subscription, and to one that there is not.
func (i *injector) flood(tb testing.TB, n, size int) {
	tb.Helper()
	body := bytes.Repeat([]byte("a"), size)
	for range n {
		i.mu.Lock()
		all := map[string]string{"999999": "nobody.asked.for.this"}
		for sid, subject := range i.sids {
			all[sid] = strings.NewReplacer("*", "x", ">", "x").Replace(subject)
		}
		for sid, subject := range all {
			if _, err := fmt.Fprintf(i.conn, "MSG %s %s %d\r\n%s\r\n", subject, sid, size, body); err != nil {
				tb.Errorf("flooding: %v", err)
			}
		}
		i.mu.Unlock()
	}
}

// Messages that nobody asked for, in the inboxes of a relay and beside them, keep no update from it, and pile up nowhere.
func TestMessagesNobodyAskedForHarmNothing(t *testing.T) {
	server := embeddedtest.Run(t)
	setUp(t, connect(t, ConnectOptions{URL: server.URL()}, Hooks{}))
	i := &injector{sids: map[string]string{}}
	url := embeddedtest.RunFake(t, func(conn net.Conn) { i.serve(t, conn, strings.TrimPrefix(server.URL(), "nats://")) })
	conn := connect(t, ConnectOptions{URL: url}, Hooks{})
	q := open(t, conn, Config{})
	r := start(t, q)
	fill(t, conn, 10, 5)
	r.await(10)

	var peak atomic.Uint64
	stop, stopped := make(chan struct{}), make(chan struct{})
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	go func() {
		defer close(stopped)
		for {
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			peak.Store(max(peak.Load(), now.HeapAlloc))
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	const messages, size = 2000, 64 << 10 // 125 MiB to each of several.
	i.flood(t, messages, size)
	fillFrom(t, conn, 10, 100, 5)
	got := r.await(110)
	ackAll(t, got)
	eventually(t, "the stream is empty", func() bool { return stored(t, conn) == 0 })
	close(stop)
	<-stopped
	r.stop()
	grown := int64(peak.Load()) - int64(before.HeapAlloc)
	t.Logf("the heap grew by %d MiB at most", grown>>20)
	if grown > 128<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	if n := conn.Stats().Reconnects; n != 0 {
		t.Errorf("%d reconnects", n)
	}
}
