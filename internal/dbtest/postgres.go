package dbtest

import (
	"context"
	"database/sql"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// Postgres returns the URL of a new, empty database, which is dropped at the test's end.
func Postgres(t testing.TB) string {
	t.Helper()
	return Database(t, server(t, "PostgreSQL", "ENDSTATE_TEST_POSTGRES_URL"))
}

// Database makes a new database on a server, which is dropped at the test's end, with what CREATE DATABASE takes.
func Database(t testing.TB, server string, with ...string) string {
	t.Helper()
	name := "t_" + uuid.NewString()[:13]
	// Of template0, to which nobody can have added anything.
	admin(t, server, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()+" TEMPLATE template0 "+strings.Join(with, " "))
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
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // both force a checkpoint, which takes its time on a busy disk
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

// SQL returns a *sql.DB on a new PostgreSQL database, through pgx or the run's driver.
func SQL(t testing.TB) *sql.DB {
	t.Helper()
	return SQLOn(t, Postgres(t))
}

// SQLOn returns a *sql.DB on the PostgreSQL database at url, through pgx or the run's driver.
func SQLOn(t testing.TB, url string) *sql.DB {
	t.Helper()
	db, err := OpenPostgres(url)
	return closed(t, db, err)
}

// closed closes the database at the test's end.
func closed(t testing.TB, db *sql.DB, err error) *sql.DB {
	t.Helper()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}
