package dbtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// Redis returns a client of an empty logical database that no other test has. Channels and scripts are the server's, not
// the database's, so other tests' may be seen.
func Redis(t testing.TB) *redis.Client {
	t.Helper()
	return RedisOn(t, RedisURL(t))
}

// RedisURL returns the URL of an empty logical database that no other test has, and that is emptied at the test's end.
func RedisURL(t testing.TB) string {
	t.Helper()
	shared := server(t, "Redis", "ENDSTATE_TEST_REDIS_URL")
	u, err := url.Parse(shared)
	require.NoError(t, err)
	u.Path = "/" + strconv.Itoa(claimLogicalDatabase(t, RedisOn(t, shared)))
	return u.String()
}

// RedisOn returns a client of the Redis at url.
func RedisOn(t testing.TB, url string) *redis.Client {
	t.Helper()
	opts, err := redis.ParseURL(url)
	require.NoError(t, err)
	client := redis.NewClient(opts)
	t.Cleanup(func() {
		if err := client.Close(); !errors.Is(err, redis.ErrClosed) { // the test may have closed it
			require.NoError(t, err)
		}
	})
	return client
}

// claimLogicalDatabase finds a logical database that is empty and that no other test, of this or another process, has. The
// claims are kept in the client's own database, which is given to none.
func claimLogicalDatabase(t testing.TB, client *redis.Client) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	count := 16 // Redis's default, where it may not be asked
	if settings, err := client.ConfigGet(ctx, "databases").Result(); err == nil {
		count, err = strconv.Atoi(settings["databases"])
		require.NoError(t, err)
	}
	for ctx.Err() == nil {
		for n := range count {
			if n != client.Options().DB && claimed(t, ctx, client, n) {
				return n
			}
		}
		time.Sleep(50 * time.Millisecond) // all are in use: other tests give them back
	}
	t.Fatalf("all of Redis's %d logical databases stay in use: they hold keys, or other tests have them", count)
	return 0
}

func claimed(t testing.TB, ctx context.Context, client *redis.Client, n int) bool {
	t.Helper()
	key := fmt.Sprintf("endstate-test:database:%d", n)
	// A claim outlives a killed test for an hour, which is longer than a test may take.
	if ok, err := client.SetNX(ctx, key, t.Name(), time.Hour).Result(); !ok {
		require.NoError(t, err)
		return false
	}
	opts := *client.Options()
	opts.DB = n
	database := redis.NewClient(&opts)
	release := func(empty bool) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if empty {
			require.NoError(t, database.FlushDB(ctx).Err())
		}
		require.NoError(t, database.Close())
		require.NoError(t, client.Del(ctx, key).Err())
	}
	keys, err := database.DBSize(ctx).Result()
	if err != nil || keys > 0 { // keys of somebody else: not ours to touch
		release(false)
		require.NoError(t, err)
		return false
	}
	t.Cleanup(func() { release(true) })
	return true
}
