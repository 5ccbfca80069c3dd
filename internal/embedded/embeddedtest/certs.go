package embeddedtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// serial numbers certificates: one authority must not sign two with the same.
var serial atomic.Int64

// Authority is a certificate authority of a test.
type Authority struct {
	// PEM is its certificate.
	PEM []byte

	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewAuthority makes one that is valid for a day.
func NewAuthority(t TB, name string) *Authority {
	t.Helper()
	template := certificate(name, 24*time.Hour)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	a := &Authority{certificate: template}
	var der []byte
	der, a.key = sign(t, template, nil)
	a.PEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

// Issue signs a certificate for this machine, or for a client of that name, that is valid for so long.
func (a *Authority) Issue(t TB, name string, valid time.Duration) (certPEM, keyPEM []byte) {
	t.Helper()
	template := certificate(name, valid)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	template.DNSNames, template.IPAddresses = []string{"localhost", name}, []net.IP{net.IPv4(127, 0, 0, 1)}
	der, key := sign(t, template, a)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatalf("encoding a key: %v", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// IssueFiles is Issue into the files name.crt and name.key of dir.
func (a *Authority) IssueFiles(t TB, dir, name string, valid time.Duration) {
	t.Helper()
	certPEM, keyPEM := a.Issue(t, name, valid)
	// The key first: whoever reads the pair between the two finds one that does not fit, and tries again.
	WriteFile(t, filepath.Join(dir, name+".key"), keyPEM)
	WriteFile(t, filepath.Join(dir, name+".crt"), certPEM)
}

// WriteFile replaces a file whole, as a process may be reading it.
func WriteFile(t TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		t.Fatalf("writing %s: %v", path, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatalf("writing %s: %v", path, err)
	}
}

func certificate(name string, valid time.Duration) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial.Add(1)), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(valid),
	}
}

// sign makes a key and signs its certificate, without an authority by itself.
func sign(t TB, template *x509.Certificate, by *Authority) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("making a key: %v", err)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.certificate, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatalf("signing a certificate: %v", err)
	}
	return der, key
}
