package lock_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/lock"
	"github.com/endstate-go/endstate/lock/locktest"
)

func TestLocal(t *testing.T) {
	l := lock.NewLocal()
	locktest.Run(t, locktest.Harness{New: func(testing.TB) lock.Locker { return l }})
}

// quick is a configuration whose leases are short.
func quick() *lock.RedisConfig {
	return &lock.RedisConfig{TTL: time.Second, Logger: discard()}
}

// redisLock is a lock that is closed at the test's end.
func redisLock(t testing.TB, client redis.UniversalClient, cfg *lock.RedisConfig) *lock.Redis {
	t.Helper()
	l, err := lock.NewRedis(client, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

func TestRedis(t *testing.T) {
	url := dbtest.RedisURL(t)
	for name, noWakeUp := range map[string]bool{"waking": false, "polling": true} {
		t.Run(name, func(t *testing.T) {
			locktest.Run(t, locktest.Harness{
				New: func(t testing.TB) lock.Locker {
					cfg := quick()
					cfg.NoWakeUp = noWakeUp
					return redisLock(t, dbtest.RedisOn(t, url), cfg)
				},
				Lose: func(t testing.TB, key string) {
					n, err := dbtest.RedisOn(t, url).Del(t.Context(), "endstate:lock:"+key).Result()
					require.NoError(t, err)
					require.EqualValues(t, 1, n, "there was a lock to lose")
				},
			})
			require.Zero(t, dbtest.RedisOn(t, url).DBSize(t.Context()).Val(), "no key is left behind")
		})
	}
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
