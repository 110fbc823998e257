package natsjs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// authority is a private certificate authority.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	made := a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	var err error
	a.cert, err = x509.ParseCertificate(made.Certificate[0])
	require.NoError(t, err)
	a.key = made.PrivateKey.(*ecdsa.PrivateKey)
	a.pool.AddCert(a.cert)
	return a
}

// sign makes a certificate: by the authority, or by itself for the authority.
func (a *authority) sign(template *x509.Certificate) tls.Certificate {
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
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	require.NoError(a.t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// certificates returns one for 127.0.0.1, for either side of a connection.
func (a *authority) certificates() []tls.Certificate {
	return []tls.Certificate{a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "endstate"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})}
}

// Publisher and Consumer speak TLS through the connection that they are given, to a server with a private authority that wants
// a certificate of its clients.
func TestTLS(t *testing.T) {
	ours, other := newAuthority(t), newAuthority(t)
	b := startBroker(t, jetstream.StreamConfig{}, func(b *broker) {
		b.opts.TLS, b.opts.TLSVerify, b.opts.TLSTimeout = true, true, 5
		b.opts.TLSConfig = &tls.Config{Certificates: ours.certificates(), ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ours.pool}
		b.secure = &tls.Config{Certificates: ours.certificates(), RootCAs: ours.pool}
	})
	batch := events(3)
	b.publish(batch)
	var s sink
	consumer := b.durable(jetstream.ConsumerConfig{})
	b.running(consumer, s.handle)
	eventually(t, "all is handled", b.idle(consumer))
	require.EqualValues(t, len(batch), s.total.Load())

	for name, c := range map[string]*tls.Config{
		"that doesn't know the authority":         {Certificates: ours.certificates()},
		"that knows another authority":            {Certificates: ours.certificates(), RootCAs: other.pool},
		"without a certificate":                   {RootCAs: ours.pool},
		"with a certificate of another authority": {Certificates: other.certificates(), RootCAs: ours.pool},
		"that expects a server of another name":   {Certificates: ours.certificates(), RootCAs: ours.pool, ServerName: "elsewhere.example.com"},
	} {
		t.Run("refuses a client "+name, func(t *testing.T) {
			conn, err := nats.Connect(b.server.ClientURL(), nats.Secure(c), nats.MaxReconnects(-1))
			if err == nil {
				conn.Close()
			}
			require.Error(t, err)
		})
	}
}
