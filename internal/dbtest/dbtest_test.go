package dbtest_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
)

func TestEachTestHasADatabaseOfItsOwn(t *testing.T) {
	ctx := context.Background()
	a, b := dbtest.Pool(t), dbtest.Pool(t)
	_, err := a.Exec(ctx, "CREATE TABLE x (n int)")
	require.NoError(t, err)
	var there bool
	require.NoError(t, b.QueryRow(ctx, "SELECT to_regclass('x') IS NOT NULL").Scan(&there))
	require.False(t, there)
}

func TestPostgresSurvivesAnImmediateStop(t *testing.T) {
	ctx := context.Background()
	server := dbtest.StartPostgres(t)
	pool := dbtest.PoolOn(t, server.URL())
	_, err := pool.Exec(ctx, "CREATE TABLE x AS SELECT 1 AS n")
	require.NoError(t, err)
	var durable string
	require.NoError(t, pool.QueryRow(ctx, "SELECT current_setting('fsync') || current_setting('synchronous_commit')").Scan(&durable))
	require.Equal(t, "onon", durable)

	server.Stop(true)
	_, err = pool.Exec(ctx, "SELECT 1")
	require.Error(t, err)
	require.NoError(t, server.Start())
	pool.Reset()
	var n int
	require.NoError(t, pool.QueryRow(ctx, "SELECT n FROM x").Scan(&n))
	require.Equal(t, 1, n)
}

func TestPgBouncerPoolsTransactions(t *testing.T) {
	bouncer := dbtest.StartPgBouncer(t, dbtest.Postgres(t))
	pool := dbtest.PoolOn(t, bouncer.URL(), func(c *pgxpool.Config) {
		c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	})
	var n int
	require.NoError(t, pool.QueryRow(context.Background(), "SELECT $1::int + 1", 41).Scan(&n))
	require.Equal(t, 42, n)
}

func TestRedisStartsEmptyAfterAKill(t *testing.T) {
	ctx := context.Background()
	server := dbtest.StartRedis(t)
	client := dbtest.RedisOn(t, server.URL())
	require.NoError(t, client.Set(ctx, "a", "b", 0).Err())
	server.Kill()
	require.Error(t, client.Get(ctx, "a").Err())
	require.NoError(t, server.Start())
	n, err := client.DBSize(ctx).Result()
	require.NoError(t, err)
	require.Zero(t, n)
}
