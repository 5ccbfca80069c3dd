// Package expiry reads from certificates and credentials until when they are valid, so that somebody can be told before
// they stop working.
package expiry

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// maxFile bounds what is read of a file.
const maxFile = 1 << 20

// Validity is from when and until when something is valid; a zero Until is for ever.
type Validity struct{ From, Until time.Time }

// Of reads how long what a file holds is valid: PEM certificates (the first of them to expire counts) or NATS credentials.
// It is read anew at each call; the error never repeats what is in the file.
func Of(path string) (Validity, error) {
	info, err := os.Stat(path)
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxFile) {
		err = errors.New("it is no file of a sensible size")
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path) //nolint:gosec // The operator names the file.
	}
	if err != nil {
		return Validity{}, fmt.Errorf("reading %s: %w", path, err)
	}
	valid, err := read(data)
	if err != nil {
		return Validity{}, fmt.Errorf("reading %s: %w", path, err)
	}
	return valid, nil
}

func read(data []byte) (Validity, error) {
	if token, ok := between(data, "-----BEGIN NATS USER JWT-----", "------END NATS USER JWT------"); ok {
		return ofToken(token)
	}
	return ofCertificates(data)
}

// ofCertificates is when the first of them expires.
func ofCertificates(data []byte) (first Validity, err error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return Validity{}, errors.New("a certificate in it is malformed")
		}
		if first.Until.IsZero() || certificate.NotAfter.Before(first.Until) {
			first = Validity{From: certificate.NotBefore, Until: certificate.NotAfter}
		}
	}
	if first.Until.IsZero() {
		return first, errors.New("there are neither PEM certificates nor NATS credentials in it")
	}
	return first, nil
}

// ofToken reads the claims iat and exp, which RFC 7519 has in seconds.
func ofToken(token string) (Validity, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return Validity{}, errors.New("its token is malformed")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Issued  int64 `json:"iat"`
		Expires int64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(payload, &claims) != nil {
		return Validity{}, errors.New("its token is malformed")
	}
	if claims.Expires == 0 {
		return Validity{}, nil
	}
	return Validity{From: time.Unix(claims.Issued, 0), Until: time.Unix(claims.Expires, 0)}, nil
}

func between(data []byte, begin, end string) (string, bool) {
	_, rest, ok := bytes.Cut(data, []byte(begin))
	if !ok {
		return "", false
	}
	inner, _, ok := bytes.Cut(rest, []byte(end))
	return strings.TrimSpace(string(inner)), ok
}
