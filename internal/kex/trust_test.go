package kex

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"kexrelay/internal/embedded/embeddedtest"
)

// tlsServer answers with a certificate of the authority that is chosen at each handshake.
func tlsServer(t *testing.T, names ...string) (srv *httptest.Server, choose func(*embeddedtest.Authority)) {
	t.Helper()
	var mu sync.Mutex
	var current tls.Certificate
	srv = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close") // So each request shakes hands anew.
		w.WriteHeader(http.StatusOK)
	}))
	srv.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		mu.Lock()
		defer mu.Unlock()
		return &tls.Config{Certificates: []tls.Certificate{current}, MinVersion: tls.VersionTLS12}, nil
	}}
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	name := "api"
	if len(names) > 0 {
		name = names[0]
	}
	choose = func(ca *embeddedtest.Authority) {
		certPEM, keyPEM := ca.Issue(t, name, time.Hour)
		pair, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		current = pair
	}
	t.Cleanup(srv.Close)
	return srv, choose
}

func TestARenewedAuthorityIsTrustedWithoutARestart(t *testing.T) {
	srv, choose := tlsServer(t)
	before, after := embeddedtest.NewAuthority(t, "before"), embeddedtest.NewAuthority(t, "after")
	choose(before)
	srv.StartTLS()
	file := filepath.Join(t.TempDir(), "ca.pem")
	embeddedtest.WriteFile(t, file, before.PEM)
	c := newTestClient(t, srv.URL, func(c *Config) { c.CAFile = file })
	send := func() error {
		_, err := c.Send(t.Context(), commentsRequest("x"))
		return err
	}
	if err := send(); err != nil {
		t.Fatal(err)
	}
	choose(after)
	if err := send(); err == nil {
		t.Fatal("an authority was trusted that is not in the file")
	}
	looked := func() { // As if the time between two looks had passed.
		r, ok := c.transport.(*renewed)
		if !ok {
			t.Fatalf("transport is %T", c.transport)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.looked = time.Time{}
	}
	embeddedtest.WriteFile(t, file, []byte("half a certifi"))
	looked()
	choose(before)
	if err := send(); err != nil {
		t.Errorf("a file that is being written took the trust away: %v", err)
	}
	choose(after)
	embeddedtest.WriteFile(t, file, after.PEM)
	looked()
	if err := send(); err != nil {
		t.Errorf("the new authority is not trusted: %v", err)
	}
	choose(before)
	if err := send(); err == nil {
		t.Error("the old authority is still trusted")
	}
}

// connectProxy is a proxy that knows one name, which nobody's resolver knows, and counts what was asked of it.
func connectProxy(t *testing.T, name, upstream string) (url string, asked func() []string) {
	t.Helper()
	var mu sync.Mutex
	var requests []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		requests = append(requests, r.Method+" "+r.Host)
		mu.Unlock()
		if r.Method != http.MethodConnect || r.Host != name+":443" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		to, err := net.Dial("tcp", upstream)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusOK)
		from, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			_ = to.Close()
			return
		}
		go func() {
			_, _ = io.Copy(to, buffered)
			_ = to.Close()
		}()
		_, _ = io.Copy(from, to)
		_ = from.Close()
	}))
	t.Cleanup(proxy.Close)
	return proxy.URL, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), requests...)
	}
}

// The process that TestTheProxyOfTheEnvironmentIsUsed runs: net/http reads the environment once in a process.
const proxiedBy = "KEX_TEST_PROXIED_CA"

func TestTheProxyOfTheEnvironmentIsUsed(t *testing.T) {
	const name = "api.kex.invalid"
	if file := os.Getenv(proxiedBy); file != "" {
		c := newTestClient(t, "https://"+name, func(c *Config) { c.CAFile = file })
		_, err := c.Send(t.Context(), commentsRequest("x"))
		if err != nil {
			t.Fatalf("Send: %v", err)
		}
		return
	}
	srv, choose := tlsServer(t, name)
	ca := embeddedtest.NewAuthority(t, "a private one")
	choose(ca)
	srv.StartTLS()
	file := filepath.Join(t.TempDir(), "ca.pem")
	embeddedtest.WriteFile(t, file, ca.PEM)
	url, asked := connectProxy(t, name, srv.Listener.Addr().String())
	run := func(environ ...string) (string, error) {
		command := exec.Command(os.Args[0], "-test.run=^TestTheProxyOfTheEnvironmentIsUsed$", "-test.v")
		command.Env = append([]string{proxiedBy + "=" + file, "TMPDIR=" + t.TempDir(), "GOCOVERDIR=" + t.TempDir()}, environ...)
		output, err := command.CombinedOutput()
		return string(output), err
	}
	if output, err := run("HTTPS_PROXY="+url, "NO_PROXY=example.org"); err != nil {
		t.Errorf("through the proxy: %v\n%s", err, output)
	}
	through := asked()
	if len(through) == 0 {
		t.Error("the proxy was not asked")
	}
	for _, request := range through {
		if request != "CONNECT "+name+":443" {
			t.Errorf("the proxy was asked %s", request)
		}
	}
	output, err := run("HTTPS_PROXY="+url, "NO_PROXY="+name)
	if err == nil || !strings.Contains(output, name) {
		t.Errorf("past the proxy there is no way, and yet: %v\n%s", err, output)
	}
	if len(asked()) != len(through) {
		t.Error("the proxy was asked in spite of NO_PROXY")
	}
	embeddedtest.WriteFile(t, file, embeddedtest.NewAuthority(t, "another").PEM)
	if output, err := run("HTTPS_PROXY=" + url); err == nil || !strings.Contains(output, "unknown authority") {
		t.Errorf("another authority was trusted: %v\n%s", err, output)
	}
}
