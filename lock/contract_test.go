package lock_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/lock"
	"github.com/endstate-go/endstate/lock/locktest"
)

func TestLocal(t *testing.T) {
	l := lock.NewLocal()
	locktest.Run(t, locktest.Harness{New: func(testing.TB) lock.Locker { return l }})
}

func TestLocalForgetsKeys(t *testing.T) {
	l := lock.NewLocal()
	for i := range 100 {
		require.NoError(t, l.Do(t.Context(), fmt.Sprint("key-", i), func(context.Context) error { return nil }))
	}
	require.Zero(t, l.Keys())
}

func TestPostgres(t *testing.T) {
	url := dbtest.Postgres(t)
	admin := dbtest.PoolOn(t, url)
	locktest.Run(t, locktest.Harness{
		New: func(t testing.TB) lock.Locker {
			l, err := lock.NewPostgres(dbtest.PoolOn(t, url), &lock.PostgresConfig{Logger: discard()})
			require.NoError(t, err)
			return l
		},
		Lose: func(t testing.TB, key string) {
			n, err := admin.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
			require.NoError(t, err)
			require.EqualValues(t, 1, n.RowsAffected(), "there was a lease to lose")
		},
		Anonymous: true,
	})
}
