package config

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
)

// scopeImpersonate is the scope that lets a client act for another partner.
const scopeImpersonate = "impersonieren"

// check looks at what no option can be judged by alone: relations, files, what follows from others. An option that
// is wrong by itself is left out: one mistake is told once.
func (l *loader) check(set OptionSet) {
	if set&KEXOptions != 0 {
		l.checkClient()
		l.checkSecret()
		l.checkPlainHTTP(keyBaseURL, l.serve.KEX.BaseURL)
		l.checkPlainHTTP(keyTokenURL, l.serve.KEX.TokenURL)
		l.checkCertificates(keyCAFile, l.serve.KEX.CAFile)
	}
	if set&RelayOptions != 0 {
		l.checkTimes()
		if !l.has(keySource) {
			l.serve.Relay.Source = "urn:kexrelay:" + l.serve.Relay.Name
			l.derive(keySource, l.serve.Relay.Source)
		}
	}
	if set&EmbeddedOptions != 0 {
		l.checkEmbedded()
	}
	if set&ConnectionOptions != 0 {
		l.checkConnection(set)
	}
}

func (l *loader) checkClient() {
	k := &l.serve.KEX
	if !l.has(keyClientID) {
		l.fail(keyClientID, "is required: the ID of the API client")
	}
	switch subject, actor := l.has(keySubject), l.has(keyActor); {
	case subject && !actor:
		l.fail(keyActor, "is required with "+envName(keySubject))
	case actor && !subject:
		l.fail(keySubject, "is required with "+envName(keyActor))
	case subject && l.right(keyScopes) && !slices.Contains(k.Scopes, scopeImpersonate):
		k.Scopes = append(k.Scopes, scopeImpersonate)
		l.derive(keyScopes, strings.Join(k.Scopes, " "))
	}
}

// checkSecret wants exactly one secret, and one that can be read now. It is read again at each token fetch.
func (l *loader) checkSecret() {
	value, file := l.has(keyClientSecret), l.has(keyClientSecretFile)
	switch {
	case value && file:
		l.fail(keyClientSecret, "is set together with "+l.given[keyClientSecretFile].name+"; keep one of them")
	case !value && !file:
		l.fail(keyClientSecret, "is required, or "+envName(keyClientSecretFile))
	case file && l.right(keyClientSecretFile):
		if _, err := readSecret(l.serve.KEX.ClientSecretFile); err != nil {
			l.failValue(keyClientSecretFile, err.Error())
		}
	}
}

// checkPlainHTTP refuses to send secrets, tokens and content in the clear beyond this machine.
func (l *loader) checkPlainHTTP(key, url string) {
	if !l.right(key) || l.serve.KEX.InsecureHTTP || !strings.HasPrefix(url, "http://") || isLoopback(url) {
		return
	}
	l.failValue(key, "is plain HTTP beyond loopback; use https, or --insecure-http if nothing in it is real")
}

func (l *loader) checkTimes() {
	r, request := l.serve.Relay, l.serve.KEX.RequestTimeout
	if l.right(keyShutdownTimeout, keyRequestTimeout) && r.ShutdownTimeout <= request {
		l.failValue(keyShutdownTimeout, fmt.Sprintf(
			"is not longer than %s (%s): a stop could cut off a request", envName(keyRequestTimeout), request))
	}
	if l.right(keyRetryInitial, keyRetryMaxInterval) && r.RetryMaxInterval < r.RetryInitial {
		l.failValue(keyRetryMaxInterval, fmt.Sprintf("is less than %s (%s)", envName(keyRetryInitial), r.RetryInitial))
	}
	if l.right(keyRetryInitial, keyRetryBudget) && r.RetryBudget < r.RetryInitial {
		l.failValue(keyRetryBudget, fmt.Sprintf("is less than %s (%s)", envName(keyRetryInitial), r.RetryInitial))
	}
}

// checkConnection looks at the NATS settings. What a context may complete (a key for the certificate, a user for
// the password) is wanted only where no context can: serve without a named one.
func (l *loader) checkConnection(set OptionSet) {
	n := l.serve.NATS
	if l.has(keyJSDomain) && l.has(keyJSAPIPrefix) {
		l.fail(keyJSDomain, "is set together with "+l.given[keyJSAPIPrefix].name+"; keep one of them")
	}
	l.checkReadable(keyCreds, n.Creds)
	l.checkReadable(keyNKey, n.NKey)
	l.checkKey(keyTLSKey, n.TLSKey)
	l.checkCertificates(keyTLSCert, n.TLSCert)
	l.checkCertificates(keyTLSCA, n.TLSCA)
	if n.TLSCert != "" && n.TLSKey != "" && l.right(keyTLSCert, keyTLSKey) {
		if _, err := tls.LoadX509KeyPair(n.TLSCert, n.TLSKey); err != nil {
			l.failValue(keyTLSCert, "is a certificate "+l.given[keyTLSKey].name+" does not fit")
		}
	}
	if set&KEXOptions == 0 || n.Context != "" {
		return
	}
	if l.has(keyTLSCert) != l.has(keyTLSKey) {
		missing, present := keyTLSKey, keyTLSCert
		if l.has(keyTLSKey) {
			missing, present = present, missing
		}
		l.fail(missing, "is required with "+l.options[present].Env)
	}
	if l.has(keyPassword) && !l.has(keyUser) {
		l.fail(keyUser, "is required with "+l.options[keyPassword].Env)
	}
}
