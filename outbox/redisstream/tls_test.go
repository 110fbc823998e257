package redisstream

import (
	"context"
	"crypto/tls"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/testserver"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/inbox/inboxredis"
)

// secureRedis starts a server that speaks TLS on a port of its own, and wants a certificate of its clients.
func secureRedis(t *testing.T, authority *dbtest.Authority) string {
	t.Helper()
	ca, certificate, key := authority.Files()
	port, claim, err := testserver.ClaimPort()
	require.NoError(t, err)
	t.Cleanup(func() { _ = claim.Close() })
	dbtest.StartRedis(t, "--tls-port", strconv.Itoa(port), "--tls-ca-cert-file", ca, "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "yes")
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

// The publisher, the consumer and the inbox speak TLS through the client that they are given.
func TestTLS(t *testing.T) {
	t.Parallel()
	authority := dbtest.NewAuthority(t)
	addr := secureRedis(t, authority)
	dial := func(t *testing.T, c *tls.Config) redis.UniversalClient {
		client := redis.NewClient(&redis.Options{Addr: addr, TLSConfig: c, ContextTimeoutEnabled: true, ReadTimeout: 5 * time.Second, MaxRetries: -1})
		t.Cleanup(func() { require.NoError(t, client.Close()) })
		return client
	}
	claims := func(client redis.UniversalClient) inbox.Handler {
		store, err := inboxredis.New(client, "")
		require.NoError(t, err)
		claims, err := inbox.NewClaims(store, &inbox.ClaimsConfig{Consumer: "results", Wait: -1})
		require.NoError(t, err)
		return inbox.Handle(claims, func(context.Context, outbox.Event) error { return nil })
	}
	for name, c := range authority.Strangers() {
		t.Run("refuses a client "+name, func(t *testing.T) {
			client := dial(t, c)
			p, err := New(client, nil)
			require.NoError(t, err)
			errs := p.Publish(t.Context(), events(1))
			require.Len(t, errs, 1)
			require.NotErrorIs(t, errs[0], outbox.ErrPermanent, "whoever fixes the certificate fixes it")
			_, err = claims(client)(t.Context(), events(1)[0])
			require.ErrorIs(t, err, inbox.ErrUnavailable)
		})
	}
	client := dial(t, authority.Client())
	require.Zero(t, client.DBSize(t.Context()).Val())
	batch := events(3)
	publish(t, client, batch)
	running(t, member(t, client, claims(client)))
	eventually(t, "all is handled", func() bool {
		return len(client.Keys(t.Context(), inboxredis.DefaultPrefix+":*").Val()) == len(batch) && pending(client) == 0
	})
}
