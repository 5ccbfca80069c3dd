package kex

import (
	"net/http"
	"os"
	"sync"
	"time"
)

// trustEvery is how often a request looks whether the file with the certificates has changed.
const trustEvery = time.Second

// renewed is a transport that trusts what a file says now: when it has changed, new requests go through a new pool of
// connections, and those under way end on theirs. A file that cannot be read, or holds no certificate, changes nothing:
// it may be half written, and what was trusted a moment ago is not worse for it.
type renewed struct {
	file  string
	conns int

	mu     sync.Mutex
	pool   *http.Transport
	state  fileState
	looked time.Time
}

// fileState tells two states of a file apart without reading it.
type fileState struct {
	changed time.Time
	size    int64
	inode   os.FileInfo
}

// newRenewed makes one whose file was read before the state was taken: a change in between is found again.
func newRenewed(file string, state fileState, pool *http.Transport, conns int) *renewed {
	return &renewed{file: file, conns: conns, pool: pool, state: state, looked: time.Now()}
}

// stateOf is the zero state for a file that is not there.
func stateOf(file string) fileState {
	info, err := os.Stat(file)
	if err != nil {
		return fileState{}
	}
	return fileState{changed: info.ModTime(), size: info.Size(), inode: info}
}

func (s fileState) same(other fileState) bool {
	return s.changed.Equal(other.changed) && s.size == other.size &&
		(s.inode == nil) == (other.inode == nil) && (s.inode == nil || os.SameFile(s.inode, other.inode))
}

// RoundTrip sends the request through the current pool.
func (r *renewed) RoundTrip(req *http.Request) (*http.Response, error) {
	return r.current().RoundTrip(req)
}

// CloseIdleConnections closes those of the current pool; an older pool has none.
func (r *renewed) CloseIdleConnections() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pool.CloseIdleConnections()
}

func (r *renewed) current() *http.Transport {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if now.Sub(r.looked) < trustEvery {
		return r.pool
	}
	r.looked = now
	state := stateOf(r.file)
	if state.same(r.state) {
		return r.pool
	}
	roots, err := trust(r.file)
	if err != nil {
		return r.pool
	}
	old := r.pool
	r.pool, r.state = newTransport(roots, r.conns), state
	old.CloseIdleConnections() // Also those that become idle from now on.
	return r.pool
}
