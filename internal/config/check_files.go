package config

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// Types of PEM blocks.
const (
	pemCertificate  = "CERTIFICATE"
	pemEncryptedKey = "ENCRYPTED PRIVATE KEY"
	pemAnyKey       = "PRIVATE KEY" // The end of all of them: EC, RSA, or none.
)

// checkReadable wants a file that can be read and has something in it.
func (l *loader) checkReadable(key, path string) {
	l.checkFile(key, path, func([]byte) error { return nil })
}

// checkCertificates wants a file of PEM certificates.
func (l *loader) checkCertificates(key, path string) { l.checkFile(key, path, certificatesProblem) }

// checkKey wants a file with a private key in PEM form.
func (l *loader) checkKey(key, path string) { l.checkFile(key, path, keyProblem) }

// checkFile wants a file whose content has no problem, which is told as the rest of a sentence without a word of it.
func (l *loader) checkFile(key, path string, problem func(data []byte) error) {
	if path == "" || !l.right(key) {
		return
	}
	data, err := readBounded(path, maxFile)
	if err == nil && len(bytes.TrimSpace(data)) == 0 {
		err = errEmpty
	}
	if err == nil {
		err = problem(data)
	}
	if err != nil {
		l.failValue(key, err.Error())
	}
}

var errEmpty = errors.New("is an empty file")

// certificatesProblem refuses what crypto/tls would leave out in silence as well: half a certificate at the end of a file
// that was not written in full, one in the midst of others that cannot be read.
func certificatesProblem(data []byte) error {
	begun := bytes.Count(data, []byte("-----BEGIN "+pemCertificate+"-----"))
	whole := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != pemCertificate {
			continue // A key beside its certificate.
		}
		whole++
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("is a file whose certificate number %d is malformed", whole)
		}
	}
	switch {
	case begun == 0:
		return errors.New("is a file without a PEM certificate")
	case whole < begun:
		return errors.New("is a file with a PEM certificate that is cut off or malformed")
	}
	return nil
}

func keyProblem(data []byte) error {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case block.Type == pemEncryptedKey, strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return errors.New("is an encrypted key, which nobody could give a passphrase for; protect a plain one by its file's mode")
		case strings.HasSuffix(block.Type, pemAnyKey):
			if !isKey(block.Bytes) {
				return errors.New("is a file with a malformed private key")
			}
			return nil
		}
	}
	return errors.New("is a file without a private key in PEM form")
}

// isKey reports whether crypto/tls would take it.
func isKey(der []byte) bool {
	if _, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return true
	}
	if _, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return true
	}
	_, err := x509.ParseECPrivateKey(der)
	return err == nil
}
