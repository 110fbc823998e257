package lockredis_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/lock"
	"github.com/endstate-go/endstate/lock/lockredis"
	"github.com/endstate-go/endstate/lock/locktest"
)

// quick is a configuration whose leases are short, but not for a busy machine.
func quick() *lockredis.Config {
	return &lockredis.Config{TTL: 4 * time.Second, Timeout: time.Second, Logger: discard()}
}

// redisLock is a lock that is closed at the test's end.
func newLock(t testing.TB, client redis.UniversalClient, cfg *lockredis.Config) *lockredis.Lock {
	t.Helper()
	l, err := lockredis.New(client, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

func TestContract(t *testing.T) {
	url := dbtest.RedisURL(t)
	for name, noWakeUp := range map[string]bool{"waking": false, "polling": true} {
		t.Run(name, func(t *testing.T) {
			locktest.Run(t, locktest.Harness{
				New: func(t testing.TB) lock.Locker {
					cfg := quick()
					cfg.NoWakeUp = noWakeUp
					return newLock(t, dbtest.RedisOn(t, url), cfg)
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
