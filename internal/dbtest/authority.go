package dbtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Authority is a private certificate authority.
type Authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes one.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t}
	der, key := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	var err error
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	a.key = key
	return a
}

// sign makes a key and a certificate for it, by the authority if it has a certificate, else by itself.
func (a *Authority) sign(template *x509.Certificate) (der []byte, key *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(a.t, err)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, by := template, key
	if a.cert != nil {
		parent, by = a.cert, a.key
	}
	der, err = x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	require.NoError(a.t, err)
	return der, key
}

// Certificate returns one for 127.0.0.1 and localhost, for either side of a connection.
func (a *Authority) Certificate() tls.Certificate {
	a.t.Helper()
	der, key := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "endstate"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Pool holds the authority's certificate.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Server is the configuration of a server that wants a certificate of its clients.
func (a *Authority) Server() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.Certificate()}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.Pool()}
}

// Client is the configuration of a client that has a certificate.
func (a *Authority) Client() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.Certificate()}, RootCAs: a.Pool()}
}

// Strangers are the configurations of clients that a server of the authority's, or the client itself, must refuse, by what is
// wrong with them.
func (a *Authority) Strangers() map[string]*tls.Config {
	other := NewAuthority(a.t)
	return map[string]*tls.Config{
		"that doesn't know the authority":         {Certificates: []tls.Certificate{a.Certificate()}},
		"that knows another authority":            {Certificates: []tls.Certificate{a.Certificate()}, RootCAs: other.Pool()},
		"without a certificate":                   {RootCAs: a.Pool()},
		"with a certificate of another authority": {Certificates: []tls.Certificate{other.Certificate()}, RootCAs: a.Pool()},
		"that expects a server of another name":   {Certificates: []tls.Certificate{a.Certificate()}, RootCAs: a.Pool(), ServerName: "elsewhere.example.com"},
	}
}

// Files writes the authority's certificate, and a certificate of its with the key, as PEM.
func (a *Authority) Files() (authority, certificate, key string) {
	a.t.Helper()
	dir := a.t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(a.t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	own := a.Certificate()
	private, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	require.NoError(a.t, err)
	return write("ca.pem", "CERTIFICATE", a.cert.Raw), write("cert.pem", "CERTIFICATE", own.Certificate[0]), write("key.pem", "PRIVATE KEY", private)
}
