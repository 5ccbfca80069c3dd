package integration

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// linkPatience bounds a change of a link: toxiproxy can lock up when a connection dies in the middle of one.
const linkPatience = 5 * time.Second

// link is one party's way to one server: a proxy of its own, which can be cut, slowed down or made deaf. Its address
// stays the same.
type link struct {
	t        *testing.T
	name     string
	addr     string
	upstream string

	mu    sync.Mutex
	proxy *toxiproxy.Proxy
}

var quietProxies = sync.OnceFunc(func() { zerolog.SetGlobalLevel(zerolog.Disabled) })

// newLink opens a way to an upstream address. It is closed when the test ends.
func newLink(t *testing.T, name, upstream string) *link {
	t.Helper()
	quietProxies()
	l := &link{t: t, name: name, addr: fmt.Sprintf("127.0.0.1:%d", freePort(t)), upstream: upstream}
	l.replace()
	t.Cleanup(func() { l.bounded(func() { l.proxy.Stop() }) })
	return l
}

// bounded runs a change of the proxy and reports whether it came to an end.
func (l *link) bounded(change func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		change()
	}()
	select {
	case <-done:
		return true
	case <-time.After(linkPatience):
		return false
	}
}

// replace puts a new proxy without any trouble in the place of the one before.
func (l *link) replace() {
	if old := l.proxy; old != nil {
		l.bounded(old.Stop)
	}
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	l.proxy = toxiproxy.NewProxy(server, l.name, l.addr, l.upstream)
	l.start()
}

// start listens again. A port that was free for a while may take a moment to be had again.
func (l *link) start() {
	var err error
	for end := time.Now().Add(linkPatience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = l.proxy.Start(); err == nil {
			return
		}
	}
	l.t.Errorf("opening link %s again: %v", l.name, err)
}

// refuse ends all connections and refuses new ones.
func (l *link) refuse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bounded(l.proxy.Stop)
}

// swallow loses all bytes from now on without ending a connection; new ones are accepted and lead nowhere.
func (l *link) swallow() {
	l.toxic(`{"type":"timeout","stream":"upstream","attributes":{"timeout":0}}`)
	l.toxic(`{"type":"timeout","stream":"downstream","attributes":{"timeout":0}}`)
}

// deafen loses the answers only: what is sent gets through.
func (l *link) deafen() {
	l.toxic(`{"type":"timeout","stream":"downstream","attributes":{"timeout":0}}`)
}

// slow delays each piece of data in both directions and bounds what gets through, in kB/s.
func (l *link) slow(delay time.Duration, rate int) {
	for _, stream := range []string{"upstream", "downstream"} {
		l.toxic(fmt.Sprintf(`{"type":"latency","stream":%q,"attributes":{"latency":%d,"jitter":%d}}`,
			stream, delay.Milliseconds(), delay.Milliseconds()/4))
		l.toxic(fmt.Sprintf(`{"type":"bandwidth","stream":%q,"attributes":{"rate":%d}}`, stream, rate))
	}
}

// reset resets each connection on which something is sent.
func (l *link) reset() {
	l.toxic(`{"type":"reset_peer","stream":"upstream","attributes":{"timeout":0}}`)
}

func (l *link) toxic(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	proxy := l.proxy
	if !l.bounded(func() {
		if _, err := proxy.Toxics.AddToxicJson(strings.NewReader(text)); err != nil {
			l.t.Errorf("troubling link %s: %v", l.name, err)
		}
	}) {
		l.replace() // A cut, then: also a trouble.
	}
}

// mend makes the link whole again. Connections whose bytes were lost end, others live on.
func (l *link) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	proxy := l.proxy
	if !proxy.Enabled {
		l.start()
	}
	if !l.bounded(func() { proxy.Toxics.ResetToxics(l.t.Context()) }) {
		l.replace()
	}
}
