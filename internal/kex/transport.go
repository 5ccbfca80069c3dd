package kex

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	// A FROM scratch image has no CA bundle; where the system has none, these are used.
	_ "golang.org/x/crypto/x509roots/fallback"
)

const (
	dialTimeout = 10 * time.Second
	tlsTimeout  = 10 * time.Second
	// idleTimeout is shorter than what servers and load balancers commonly keep (60 s and more): a connection that
	// we drop first cannot be closed by the server at the very moment a POST goes out on it.
	idleTimeout = 30 * time.Second
	// An HTTP/2 connection that stopped answering takes all its requests with it, so it is asked early.
	pingAfter   = 10 * time.Second
	pingTimeout = 10 * time.Second
	// maxHeaderBytes bounds an answer's header.
	maxHeaderBytes = 256 << 10
	// spareConns are for pings beside the requests.
	spareConns = 2
)

// refusedByProxy says in plain words why there is no way to the API; net/http would only say "Forbidden".
func refusedByProxy(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	return &cause{
		text: fmt.Sprintf("the proxy refused the connection with status %d (HTTPS_PROXY, NO_PROXY)", answer.StatusCode),
		err:  errProxy,
	}
}

var errProxy = errors.New("proxy refused CONNECT")

// newTransport makes a connection pool of conns connections per host. It never decompresses: an answer's size on
// the wire is its size here.
func newTransport(roots *x509.CertPool, conns int) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		OnProxyConnectResponse: refusedByProxy,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &countedConn{Conn: conn}, nil
		},
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    tlsTimeout,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		MaxIdleConnsPerHost:    conns,
		MaxConnsPerHost:        conns,
		IdleConnTimeout:        idleTimeout,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeaderBytes,
	}
}
