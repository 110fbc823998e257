package webhook

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

// A receiver with a private authority, which wants a certificate of its senders.
func TestTLS(t *testing.T) {
	authority := dbtest.NewAuthority(t)
	var received atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { received.Add(1) }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes
	server.TLS = authority.Server()
	server.StartTLS()
	t.Cleanup(server.Close)
	publish := func(t *testing.T, cfg *Config) []error {
		p, err := New(server.URL, cfg)
		require.NoError(t, err)
		t.Cleanup(p.Close)
		return p.Publish(t.Context(), []outbox.Event{event()})
	}
	with := func(c *tls.Config) []*Config {
		return []*Config{{TLS: c}, {Client: &http.Client{Transport: &http.Transport{TLSClientConfig: c}}}}
	}
	for name, c := range authority.Strangers() {
		t.Run("refuses a client "+name, func(t *testing.T) {
			for _, cfg := range with(c) {
				errs := publish(t, cfg)
				require.Len(t, errs, 1)
				require.NotErrorIs(t, errs[0], outbox.ErrPermanent, "whoever fixes the certificate fixes it")
			}
		})
	}
	require.Error(t, publish(t, nil)[0], "the system's authorities don't have ours")
	require.Zero(t, received.Load())
	for _, cfg := range with(authority.Client()) {
		require.Empty(t, publish(t, cfg))
	}
	require.EqualValues(t, 2, received.Load())
}
