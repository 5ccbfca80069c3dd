package config

import (
	"net"
	"net/netip"
	"os"
	"strings"
)

// checkEmbedded looks at the settings of the server in this process: one that is elsewhere as well, or one that is open
// to everybody, is a mistake.
func (l *loader) checkEmbedded() {
	e := l.serve.Embedded
	if !e.Enabled {
		for _, key := range []string{keyEmbeddedDir, keyEmbeddedConfig} {
			if l.has(key) && l.right(keyEmbedded) {
				l.fail(key, "is of no use without "+envName(keyEmbedded))
			}
		}
		return
	}
	if !l.has(keyEmbeddedDir) {
		l.fail(keyEmbeddedDir, "is required with "+envName(keyEmbedded)+": the directory updates are kept in")
	} else if info, err := os.Stat(e.Dir); err == nil && !info.IsDir() {
		l.failValue(keyEmbeddedDir, "is not a directory")
	}
	for _, key := range []string{keyServers, keyContext, keyJSDomain, keyJSAPIPrefix} {
		if l.has(key) {
			l.fail(key, "is set together with "+l.given[keyEmbedded].name+", whose server is in this process; keep one of them")
		}
	}
	l.checkReadable(keyEmbeddedConfig, e.ConfigFile)
	if !l.right(keyEmbeddedAddr) {
		return
	}
	if !l.has(keyEmbeddedConfig) && !e.OnLoopback() {
		l.failValue(keyEmbeddedAddr, "is open to everybody who reaches it: nats-server asks nobody for a password until "+
			envName(keyEmbeddedConfig)+" names users")
	}
	if servers, err := ServersOf(e.URL()); err == nil && l.right(keyServers) {
		l.serve.NATS.Servers = servers
		l.derive(keyServers, e.URL())
	}
}

// OnLoopback reports whether only this machine reaches the server.
func (e Embedded) OnLoopback() bool {
	host, _, err := net.SplitHostPort(e.Addr)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// URL is how this machine reaches the server.
func (e Embedded) URL() string {
	host, port, err := net.SplitHostPort(e.Addr)
	if ip, parseErr := netip.ParseAddr(host); err != nil || host == "" || parseErr == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "nats://" + net.JoinHostPort(host, port)
}
