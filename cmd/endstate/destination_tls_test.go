package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

// authority is a private one, with what it gave to a server and to a client.
type authority struct {
	pool          *x509.CertPool
	server        tls.Certificate
	ca, cert, key string // files
}

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	issuer := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, issuer, issuer, key.Public(), key)
	require.NoError(t, err)
	a := authority{pool: x509.NewCertPool(), ca: filepath.Join(dir, "ca.pem"), cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem")}
	write := func(path, kind string, der []byte) {
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	write(a.ca, "CERTIFICATE", der)
	issued, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	a.pool.AddCert(issued)
	leaf := func(usage x509.ExtKeyUsage) ([]byte, *ecdsa.PrivateKey) {
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"}, NotBefore: issuer.NotBefore, NotAfter: issuer.NotAfter,
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{usage}, KeyUsage: x509.KeyUsageDigitalSignature}, issuer, own.Public(), key)
		require.NoError(t, err)
		return der, own
	}
	serverDER, serverKey := leaf(x509.ExtKeyUsageServerAuth)
	a.server = tls.Certificate{Certificate: [][]byte{serverDER}, PrivateKey: serverKey}
	clientDER, clientKey := leaf(x509.ExtKeyUsageClientAuth)
	write(a.cert, "CERTIFICATE", clientDER)
	encoded, err := x509.MarshalECPrivateKey(clientKey)
	require.NoError(t, err)
	write(a.key, "EC PRIVATE KEY", encoded)
	return a
}

// Each destination takes a private authority and asks for a certificate of it; others' are refused.
func TestRelayWithPrivateCertificates(t *testing.T) {
	t.Parallel()
	ours, others := newAuthority(t, "ours"), newAuthority(t, "others")
	serving := &tls.Config{Certificates: []tls.Certificate{ours.server}, ClientCAs: ours.pool, ClientAuth: tls.RequireAndVerifyClientCert}

	hook := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	hook.TLS, hook.Config.ErrorLog = serving.Clone(), slog.NewLogLogger(slog.DiscardHandler, 0)
	hook.StartTLS()
	t.Cleanup(hook.Close)

	natsServer, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, TLSConfig: serving.Clone(), TLSVerify: true, TLS: true, TLSTimeout: 30, NoLog: true, NoSigs: true})
	require.NoError(t, err)
	natsServer.Start()
	t.Cleanup(func() { natsServer.Shutdown(); natsServer.WaitForShutdown() })
	require.True(t, natsServer.ReadyForConnections(30*time.Second))

	redisAddr := tlsInFrontOf(t, dbtest.StartRedis(t).Addr(), serving)

	for name, to := range map[string]string{"webhook": hook.URL, "nats": "tls://" + natsServer.Addr().String(), "redis": "rediss://" + redisAddr} {
		for whose, files := range map[string]tlsFiles{
			"ours": {ours.ca, ours.cert, ours.key}, "another authority": {others.ca, ours.cert, ours.key}, "the system's": {"", ours.cert, ours.key},
			"no certificate": {ours.ca, "", ""}, "another's certificate": {ours.ca, others.cert, others.key},
		} {
			t.Run(name+"/"+whose, func(t *testing.T) {
				d := &destination{to: to, source: "test", concurrency: 1, prefix: "events", files: files}
				o, err := d.open(slog.New(slog.DiscardHandler))
				require.NoError(t, err)
				defer o.close()
				reached := func() error {
					ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
					defer cancel()
					if name == "webhook" {
						e := event("7", "paid")
						e.ID = uuid.New()
						return errors.Join(o.Publish(ctx, []outbox.Event{e})...)
					}
					return o.answers(ctx)
				}
				if whose == "ours" {
					require.Eventually(t, func() bool { return reached() == nil }, time.Minute, 10*time.Millisecond)
					return
				}
				var last error
				require.Eventually(t, func() bool {
					if last = reached(); last == nil {
						return true
					}
					return strings.Contains(last.Error(), "tls") || strings.Contains(last.Error(), "certificate")
				}, long, 10*time.Millisecond, "the reason is told")
				require.Error(t, last)
			})
		}
	}
}

// tlsInFrontOf is the address of a listener that speaks TLS and hands on to a server that doesn't.
func tlsInFrontOf(t *testing.T, addr string, cfg *tls.Config) string {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	require.NoError(t, err)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer in.Close()
				out, err := net.Dial("tcp", addr)
				if err != nil {
					return
				}
				running.Go(func() { _, _ = io.Copy(out, in); _ = out.Close() })
				_, _ = io.Copy(in, out)
			})
		}
	})
	t.Cleanup(func() { _ = listener.Close(); running.Wait() })
	return listener.Addr().String()
}

func TestRelayRefusesFilesThatAreNoCertificates(t *testing.T) {
	t.Parallel()
	ours, others := newAuthority(t, "ours"), newAuthority(t, "others")
	for says, args := range map[string][]string{
		"--to-ca: open ":                          {"--to", "rediss://localhost", "--to-ca", ours.ca + "x"},
		"--to-ca: there is no":                    {"--to", "rediss://localhost", "--to-ca", ours.key},
		"--to-cert, --to-key: ":                   {"--to", "tls://localhost", "--to-cert", ours.cert, "--to-key", others.key},
		"--to-key needs --to-cert":                {"--to", "tls://localhost", "--to-key", ours.key},
		"which redis:// has not: write rediss://": {"--to", "redis://localhost", "--to-ca", ours.ca},
		"which http:// has not: write https://":   {"--to", "http://localhost", "--to-ca", ours.ca},
	} {
		r := cli(t, "sqlite:/nowhere/x.db", append([]string{"relay"}, args...)...)
		require.Equal(t, 2, r.status)
		require.Contains(t, r.stderr, says)
	}
}
