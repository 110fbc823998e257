package lock_test

import (
	"context"
	"errors"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/lock"
)

func postgresLock(t testing.TB, pool *pgxpool.Pool, cfg lock.PostgresConfig) *lock.Postgres {
	t.Helper()
	cfg.Logger = discard()
	l, err := lock.NewPostgres(pool, &cfg)
	require.NoError(t, err)
	return l
}

// Waiters must not take the connections that the holders' work needs.
func TestPostgresLeavesConnectionsToTheWork(t *testing.T) {
	pool := dbtest.Pool(t, func(c *pgxpool.Config) { c.MaxConns = 4 })
	l := postgresLock(t, pool, lock.PostgresConfig{})
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			key := string(rune('a' + i%8)) // more keys than connections, and waiters for each
			err := l.Do(t.Context(), key, func(ctx context.Context) error {
				return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
					_, err := tx.Exec(ctx, "SELECT 1")
					return err
				})
			})
			if err != nil {
				t.Errorf("Do: %v", err)
			}
		})
	}
	all.Wait()
	require.Zero(t, pool.Stat().AcquiredConns())
	var held int
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())").Scan(&held))
	require.Zero(t, held, "every lock was given back")
}

// F22: a session's lock through PgBouncer.
func TestPostgresRefusesPoolers(t *testing.T) {
	bouncer := dbtest.StartPgBouncer(t, dbtest.Postgres(t))
	pool := dbtest.PoolOn(t, bouncer.URL(), func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec })
	l := postgresLock(t, pool, lock.PostgresConfig{})
	for range 3 {
		err := l.Do(t.Context(), "k", never(t))
		require.ErrorIs(t, err, lock.ErrUnavailable)
		require.ErrorContains(t, err, "PgBouncer")
	}
	var held int
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())").Scan(&held))
	require.Zero(t, held, "no lock is left with a connection that serves others")
}

func TestPostgresExecModes(t *testing.T) {
	dsn := dbtest.Postgres(t)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		l := postgresLock(t, dbtest.PoolOn(t, dsn, func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = mode }), lock.PostgresConfig{})
		n := 0
		require.NoError(t, l.Do(t.Context(), "k", ran(&n)), mode.String())
		require.Equal(t, 1, n)
	}
}

func TestPostgresAway(t *testing.T) {
	t.Parallel()
	server := dbtest.StartPostgres(t)
	pool := dbtest.PoolOn(t, server.URL())
	l := postgresLock(t, pool, lock.PostgresConfig{Check: 100 * time.Millisecond})

	err := l.Do(t.Context(), "k", func(ctx context.Context) error {
		server.Kill()
		requireLost(t, ctx)
		return nil
	})
	require.ErrorIs(t, err, lock.ErrLost)
	require.ErrorIs(t, l.Do(t.Context(), "k", never(t)), lock.ErrUnavailable)
	require.NoError(t, server.Start())
	n := 0
	eventually(t, func() bool { _ = l.Do(t.Context(), "k", ran(&n)); return n > 0 }, "it works once the server is there")
}

// F49: a server that goes silent is noticed by the next check.
func TestPostgresSilentWhileHeld(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(dbtest.Postgres(t))
	require.NoError(t, err)
	p := dbtest.NewProxy(t, u.Host)
	u.Host = p.Addr()
	pool := dbtest.PoolOn(t, u.String())
	l := postgresLock(t, pool, lock.PostgresConfig{Check: 100 * time.Millisecond})
	err = l.Do(t.Context(), "k", func(ctx context.Context) error {
		p.NoReplies.Store(true)
		requireLost(t, ctx)
		require.Positive(t, p.LostReplies.Load(), "the fault fired")
		return nil
	})
	require.ErrorIs(t, err, lock.ErrLost)
	p.NoReplies.Store(false)
	p.Cut()
}

// What the function does can't take the lock from the lease's session; an operator can, and the holder is told.
func TestPostgresTakenAway(t *testing.T) {
	pool := dbtest.Pool(t)
	l := postgresLock(t, pool, lock.PostgresConfig{})
	err := l.Do(t.Context(), "k", func(ctx context.Context) error {
		_, err := pool.Exec(ctx, "SELECT pg_advisory_unlock_all()") // of another session
		return err
	})
	require.NoError(t, err)
	failed := errors.New("failed")
	err = l.Do(t.Context(), "k", func(ctx context.Context) error {
		_, err := pool.Exec(context.WithoutCancel(ctx), "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")
		require.NoError(t, err)
		requireLost(t, ctx)
		return failed
	})
	require.ErrorIs(t, err, lock.ErrLost)
	require.ErrorIs(t, err, failed)
}
