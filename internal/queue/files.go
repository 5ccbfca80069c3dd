package queue

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"

	"github.com/nats-io/jsm.go/natscontext"
)

// checkFiles finds what is wrong with the certificates of a connection before the client does, which reads them at each
// connect and would take a mistake for a server that does not answer. Those that options name were checked with all
// other options; a context's come here first.
func checkFiles(settings *natscontext.Context) error {
	if ca := settings.CA(); isFile(ca) {
		if _, err := readCertificates(ca); err != nil {
			return about("--tlsca", ca, err)
		}
	}
	cert, key := settings.Certificate(), settings.Key()
	switch {
	case cert == "" && key != "":
		return fmt.Errorf("--tlskey: %s is given without its certificate (--tlscert)", key)
	case cert != "" && key == "":
		return fmt.Errorf("--tlscert: %s is given without its key (--tlskey)", cert)
	case isFile(cert) && isFile(key):
		if err := checkPair(cert, key); err != nil {
			return err
		}
	}
	if proxy := settings.SocksProxy(); proxy != "" {
		if u, err := url.Parse(proxy); err != nil || u.Host == "" {
			return errors.New("the context's socks_proxy is no URL, it should look like socks5://host:1080") // It may hold a password.
		}
	}
	return nil
}

func checkPair(cert, key string) error {
	certData, err := readCertificates(cert)
	if err != nil {
		return about("--tlscert", cert, err)
	}
	keyData, err := readFile(key)
	if err != nil {
		return about("--tlskey", key, err)
	}
	if _, err := tls.X509KeyPair(certData, keyData); err != nil {
		return about("--tlskey", key, fmt.Errorf("is of no use for the certificate in %s: %w", cert, err))
	}
	return nil
}

// readCertificates gives what is in a file if there is at least one certificate, and all of them are well formed.
func readCertificates(path string) ([]byte, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	found := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		found++
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, fmt.Errorf("holds a certificate (number %d) that is malformed", found)
		}
	}
	switch begun := bytes.Count(data, []byte("-----BEGIN CERTIFICATE-----")); {
	case begun == 0:
		return nil, errors.New("holds no PEM certificate")
	case found < begun: // crypto/tls would take the others, and leave this one out in silence.
		return nil, errors.New("holds a PEM certificate that is cut off or malformed")
	}
	return data, nil
}
