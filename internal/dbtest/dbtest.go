// Package dbtest gives tests real databases. Servers come from the environment (make test starts them); where there is
// none, a test is skipped and says what it lacks, and under ENDSTATE_TEST_REQUIRE=1 it fails.
package dbtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/endstate-go/endstate/internal/testserver"
)

// missing skips the test, or fails it where servers are required.
func missing(t testing.TB, what, env string) {
	t.Helper()
	message := fmt.Sprintf("needs %s: run make test, or set %s", what, env)
	if os.Getenv("ENDSTATE_TEST_REQUIRE") == "1" {
		t.Fatal(message)
	}
	t.Skip(message)
}

// Postgres returns the URL of a new, empty database, which is dropped at the test's end.
func Postgres(t testing.TB) string {
	t.Helper()
	server := os.Getenv("ENDSTATE_TEST_POSTGRES_URL")
	if server == "" {
		missing(t, "PostgreSQL", "ENDSTATE_TEST_POSTGRES_URL")
	}
	return Database(t, server)
}

// Database makes a new database on a server, which is dropped at the test's end.
func Database(t testing.TB, server string) string {
	t.Helper()
	name := "t_" + uuid.NewString()[:13]
	admin(t, server, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
	t.Cleanup(func() {
		admin(t, server, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)")
	})
	u, err := url.Parse(server)
	require.NoError(t, err)
	u.Path = "/" + name
	return u.String()
}

func admin(t testing.TB, server, statement string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, server)
	require.NoError(t, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement)
	require.NoError(t, err)
}

// Pool returns a pool on a new database. The functions may change its configuration.
func Pool(t testing.TB, configure ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	return PoolOn(t, Postgres(t), configure...)
}

// PoolOn returns a pool on the database at url.
func PoolOn(t testing.TB, url string, configure ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	cfg.MaxConns = 16
	for _, f := range configure {
		f(cfg)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// SQL returns a *sql.DB, through pgx, on a new PostgreSQL database.
func SQL(t testing.TB) *sql.DB {
	t.Helper()
	return open(t, "pgx", Postgres(t))
}

// SQLOn returns a *sql.DB, through pgx, on the PostgreSQL database at url.
func SQLOn(t testing.TB, url string) *sql.DB {
	t.Helper()
	return open(t, "pgx", url)
}

// SQLite returns a new SQLite database in WAL mode.
func SQLite(t testing.TB) *sql.DB {
	t.Helper()
	return SQLiteOn(t, SQLiteDSN(filepath.Join(t.TempDir(), "test.db"), "wal"))
}

// SQLiteDSN is the data source name of a SQLite file with a journal mode ("wal", "delete").
func SQLiteDSN(path, journal string) string {
	return "file:" + path + "?_pragma=busy_timeout(10000)&_pragma=journal_mode(" + journal + ")"
}

// SQLiteOn opens a SQLite database.
func SQLiteOn(t testing.TB, dsn string) *sql.DB {
	t.Helper()
	return open(t, "sqlite", dsn)
}

func open(t testing.TB, driver, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// RedisURL returns the URL of the shared Redis.
func RedisURL(t testing.TB) string {
	t.Helper()
	server := os.Getenv("ENDSTATE_TEST_REDIS_URL")
	if server == "" {
		missing(t, "Redis", "ENDSTATE_TEST_REDIS_URL")
	}
	return server
}

// Redis returns a client of the shared Redis. Other tests use it too, so use keys that only this test has, such as those
// with t.Name() in them.
func Redis(t testing.TB) *redis.Client {
	t.Helper()
	return RedisOn(t, RedisURL(t))
}

// RedisOn returns a client of the Redis at url.
func RedisOn(t testing.TB, url string) *redis.Client {
	t.Helper()
	opts, err := redis.ParseURL(url)
	require.NoError(t, err)
	client := redis.NewClient(opts)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

// StartPostgres starts a server of the test's own, for tests that stop or kill it. Settings are such as "lock_timeout=1s".
func StartPostgres(t testing.TB, settings ...string) *testserver.Postgres {
	t.Helper()
	p, err := testserver.StartPostgres(settings...)
	started(t, "PostgreSQL's server", "ENDSTATE_TEST_POSTGRES_BIN", err)
	t.Cleanup(p.Close)
	return p
}

// StartRedis starts a server of the test's own, for tests that stop or kill it.
func StartRedis(t testing.TB, args ...string) *testserver.Redis {
	t.Helper()
	r, err := testserver.StartRedis(args...)
	started(t, "redis-server", "ENDSTATE_TEST_REDIS_BIN", err)
	t.Cleanup(r.Close)
	return r
}

// StartPgBouncer starts a PgBouncer in transaction mode in front of the database at url.
func StartPgBouncer(t testing.TB, url string, settings ...string) *testserver.PgBouncer {
	t.Helper()
	b, err := testserver.StartPgBouncer(url, settings...)
	started(t, "pgbouncer", "ENDSTATE_TEST_PGBOUNCER_BIN", err)
	t.Cleanup(b.Close)
	return b
}

func started(t testing.TB, what, env string, err error) {
	t.Helper()
	if errors.Is(err, testserver.ErrMissing) {
		missing(t, what, env)
	}
	require.NoError(t, err)
}
