package dbtest

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/testserver"
)

// StartPostgres starts a server of the test's own, for tests that stop or kill it. Settings are such as "lock_timeout=1s".
func StartPostgres(t testing.TB, settings ...string) *testserver.Postgres {
	t.Helper()
	p, err := testserver.StartPostgres(settings...)
	started(t, "PostgreSQL's server", "ENDSTATE_TEST_POSTGRES_BIN", err)
	closeAtEnd(t, p)
	return p
}

// StartStandby starts a hot standby of a server.
func StartStandby(t testing.TB, primary *testserver.Postgres) *testserver.Postgres {
	t.Helper()
	p, err := primary.StartStandby()
	require.NoError(t, err)
	closeAtEnd(t, p)
	return p
}

// StartRedis starts a server of the test's own, for tests that stop, kill or hold it. Args are such as "--maxmemory", "10mb".
func StartRedis(t testing.TB, args ...string) *testserver.Redis {
	t.Helper()
	r, err := testserver.StartRedis(args...)
	started(t, "redis-server", "ENDSTATE_TEST_REDIS_BIN", err)
	closeAtEnd(t, r)
	return r
}

// StartPgBouncer starts a PgBouncer in transaction mode in front of the database at url. Settings are such as
// "default_pool_size=2".
func StartPgBouncer(t testing.TB, url string, settings ...string) *testserver.PgBouncer {
	t.Helper()
	b, err := testserver.StartPgBouncer(url, settings...)
	started(t, "pgbouncer", "ENDSTATE_TEST_PGBOUNCER_BIN", err)
	closeAtEnd(t, b)
	return b
}

// StartRabbitMQ starts a broker of the test's own.
func StartRabbitMQ(t testing.TB) *testserver.RabbitMQ {
	t.Helper()
	r, err := testserver.StartRabbitMQ()
	started(t, "rabbitmq-server", "ENDSTATE_TEST_RABBITMQ_BIN", err)
	closeAtEnd(t, r)
	return r
}

func started(t testing.TB, what, env string, err error) {
	t.Helper()
	if errors.Is(err, testserver.ErrMissing) {
		missing(t, what, env)
	}
	require.NoError(t, err)
}

// closeAtEnd closes the server at the test's end, and shows what it logged if the test failed.
func closeAtEnd(t testing.TB, server interface {
	Log() string
	Close()
}) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the last that %T logged:\n%s", server, server.Log())
		}
		server.Close()
	})
}
