package kex

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	defaultRequestTimeout = 30 * time.Second
	defaultConcurrency    = 64
	defaultTracePrefix    = "kxr"
	defaultUserAgent      = "kexrelay"

	// impersonationScope has to be asked for whenever a subject is named.
	impersonationScope = "impersonieren"
)

// Config is what a [Client] needs to know. Zero values of RequestTimeout, Concurrency, TracePrefix and UserAgent
// mean their defaults; everything else has to be given or is off.
type Config struct {
	// BaseURL is {base} of the API, such as https://www.europace2.de/kreditsmart/kex. KEX_BASE_URL.
	BaseURL string
	// TokenURL is the OAuth 2.0 token endpoint. KEX_TOKEN_URL.
	TokenURL string
	// ClientID is sent by HTTP Basic together with the secret. KEX_CLIENT_ID.
	ClientID string
	// ClientSecret gives the secret; it is called again for each token call (at most once a second while the
	// endpoint rejects the last one), so a changed secret needs no restart. It must be safe for use by several
	// goroutines. Its error ends up in TokenState and must not hold the secret.
	ClientSecret func() (string, error)
	// Scopes are asked for with each token; none means all that the client is registered for. KEX_SCOPES.
	Scopes []string
	// ImpersonateSubject and ImpersonateActor are partner IDs; with a subject the scope "impersonieren" is added.
	ImpersonateSubject, ImpersonateActor string
	// RequestTimeout bounds one request up to its status line, token calls too. Default 30 s.
	RequestTimeout time.Duration
	// CAFile is a PEM file of certificates that are trusted in addition to the system's, read again when it has changed.
	// KEX_CA_FILE.
	CAFile string
	// Concurrency is how many requests may be under way at once: the connection pool is at least as large.
	// Default 64.
	Concurrency int
	// InsecureHTTP allows plain HTTP to hosts other than loopback.
	InsecureHTTP bool
	// TracePrefix begins the X-TraceId of token calls and pings made without a trace ID. Default "kxr".
	TracePrefix string
	// UserAgent is sent with every request. Default "kexrelay".
	UserAgent string
	// OnToken, if set, is told how each token call ended: TokenOK or the reason of the failure, and how long it
	// took. It must return quickly.
	OnToken func(outcome string, took time.Duration)
}

// TokenOK is the outcome OnToken is told for a token call that gave a token. Otherwise it is told the
// fault.Reason: unauthorized or outage.
const TokenOK = "ok"

// endpoints are the validated addresses.
type endpoints struct {
	base, token *url.URL
	roots       *x509.CertPool // nil: the system's, or the embedded ones where there are none.
}

// withDefaults fills what was left out.
func (c Config) withDefaults() Config {
	if c.RequestTimeout == 0 {
		c.RequestTimeout = defaultRequestTimeout
	}
	if c.Concurrency == 0 {
		c.Concurrency = defaultConcurrency
	}
	if c.TracePrefix == "" {
		c.TracePrefix = defaultTracePrefix
	}
	if c.UserAgent == "" {
		c.UserAgent = defaultUserAgent
	}
	c.Scopes = slices.Clone(c.Scopes)
	if c.ImpersonateSubject != "" && len(c.Scopes) > 0 && !slices.Contains(c.Scopes, impersonationScope) {
		c.Scopes = append(c.Scopes, impersonationScope)
	}
	return c
}

// validate checks everything and reports all problems at once, each with its option's name.
func (c Config) validate() (endpoints, error) {
	var e endpoints
	var problems []error
	note := func(option, format string, args ...any) {
		problems = append(problems, fmt.Errorf(option+": "+format, args...))
	}
	check := func(option string, err error) {
		if err != nil {
			note(option, "%w", err)
		}
	}

	var err error
	e.base, err = c.parseURL(c.BaseURL)
	if err == nil && e.base.RawQuery != "" {
		err = errors.New("has a query, which a base URL cannot have")
	}
	check("KEX_BASE_URL", err)
	e.token, err = c.parseURL(c.TokenURL)
	check("KEX_TOKEN_URL", err)
	check("HTTPS_PROXY", proxyProblem(e.base, e.token))

	if c.ClientID == "" {
		note("KEX_CLIENT_ID", "is missing")
	}
	if c.ClientSecret == nil {
		note("KEX_CLIENT_SECRET", "is missing (or KEX_CLIENT_SECRET_FILE)")
	}
	for _, s := range c.Scopes {
		if !isScope(s) {
			note("KEX_SCOPES", "%q is not a scope", s)
		}
	}
	if c.ImpersonateSubject != "" && len(c.Scopes) == 0 {
		note("KEX_SCOPES", "must name the scopes when KEX_IMPERSONATE_SUBJECT is set")
	}
	if c.RequestTimeout < 0 {
		note("KEX_REQUEST_TIMEOUT", "%s is negative", c.RequestTimeout)
	}
	if c.Concurrency < 0 {
		note("KEXRELAY_CONCURRENCY", "%d is negative", c.Concurrency)
	}
	if len(c.TracePrefix) > 64 || !isPrintable(c.TracePrefix) {
		note("KEXRELAY_TRACE_PREFIX", "must be at most 64 printable ASCII characters")
	}
	if !isPrintable(strings.ReplaceAll(c.UserAgent, " ", "")) {
		note("user agent", "must be printable ASCII")
	}
	e.roots, err = trust(c.CAFile)
	check("KEX_CA_FILE", err)
	return e, errors.Join(problems...)
}

// parseURL accepts absolute HTTP URLs without credentials or fragment, and plain HTTP only where it is allowed.
// Its errors never repeat the URL: somebody may have put a password into it.
func (c Config) parseURL(raw string) (*url.URL, error) {
	if raw == "" {
		return nil, errors.New("is missing")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("is not a URL")
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http", u.Hostname() == "":
		return nil, errors.New("is not an absolute https:// URL")
	case u.User != nil:
		return nil, errors.New("has a user name or password in it; the client goes into KEX_CLIENT_ID and KEX_CLIENT_SECRET")
	case u.Fragment != "":
		return nil, errors.New("has a #fragment")
	case u.Scheme == "http" && !c.InsecureHTTP && !isLoopback(u.Hostname()):
		return nil, errors.New("is plain HTTP to another machine, which would send the token unencrypted; use https:// or give --insecure-http")
	}
	return u, nil
}

// proxyProblem looks early at what the environment says about proxies: a malformed one would otherwise fail each
// request, with an error text that repeats the proxy's password.
func proxyProblem(urls ...*url.URL) error {
	for _, u := range urls {
		if u == nil {
			continue
		}
		if _, err := http.ProxyFromEnvironment(&http.Request{URL: u}); err != nil {
			return errors.New("is not a usable proxy address")
		}
	}
	return nil
}

// trust gives the roots to verify servers with: nil for the default, or that plus the certificates of a file.
func trust(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil //nolint:nilnil // crypto/tls means the default roots by nil.
	}
	pem, err := os.ReadFile(file) //nolint:gosec // the operator names the file.
	if err != nil {
		return nil, fmt.Errorf("reading certificates: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", file)
	}
	return roots, nil
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().IsLoopback()
	}
	return net.ParseIP(host).IsLoopback()
}

// isScope follows RFC 6749: printable ASCII without space, quote and backslash.
func isScope(s string) bool {
	return s != "" && isPrintable(s) && !strings.ContainsAny(s, `"\`)
}

// isPrintable reports whether s holds only the visible characters of ASCII, no space.
func isPrintable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
