package lock_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/lock"
)

func TestRedisConfigErrorsNameTheField(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{})
	defer rdb.Close()
	for want, cfg := range map[string]lock.RedisConfig{
		"TTL is -1s, which is less than a millisecond":                 {TTL: -time.Second},
		"TTL is 10µs, which is less than a millisecond":                {TTL: 10 * time.Microsecond},
		"TTL is 1.0005s; Redis counts whole milliseconds":              {TTL: time.Second + 500*time.Microsecond},
		"TTL is 999ms; it must be at least four times Timeout (250ms)": {TTL: 999 * time.Millisecond},
		"TTL is 10s; it must be at least four times Timeout (3s)":      {Timeout: 3 * time.Second},
		"Timeout is -1ns": {Timeout: -1},
		"MinPoll is 1s, which is more than MaxPoll (500ms)": {MinPoll: time.Second},
		"MaxPoll is -1s":       {MaxPoll: -time.Second},
		"Pause is -1s":         {Pause: -time.Second},
		"Failures is negative": {Failures: -1},
		"Prefix is 201 bytes long, the limit is 200": {Prefix: strings.Repeat("p", 201)},
	} {
		_, err := lock.NewRedis(rdb, &cfg)
		require.ErrorIs(t, err, lock.ErrConfig)
		require.ErrorContains(t, err, want)
	}
	_, err := lock.NewRedis(nil, nil)
	require.ErrorContains(t, err, "client is nil")
	var none *redis.ClusterClient
	_, err = lock.NewRedis(none, nil)
	require.ErrorContains(t, err, "client is nil")
	l, err := lock.NewRedis(rdb, nil)
	require.NoError(t, err)
	require.NoError(t, l.Close())
	require.ErrorIs(t, l.Do(t.Context(), "k", never(t)), lock.ErrUnavailable, "it is closed")
}

func TestPostgresConfigErrorsNameTheField(t *testing.T) {
	pool := func(t *testing.T, conns string) *pgxpool.Pool {
		p, err := pgxpool.New(t.Context(), "postgres://127.0.0.1:1/x?pool_max_conns="+conns)
		require.NoError(t, err)
		t.Cleanup(p.Close)
		return p
	}
	ten := pool(t, "10")
	for want, cfg := range map[string]lock.PostgresConfig{
		"MaxConns is -1; it must be from 1 to 9":            {MaxConns: -1},
		"MaxConns is 10; it must be from 1 to 9":            {MaxConns: 10},
		"Timeout is -1s":                                    {Timeout: -time.Second},
		"Check is 1µs, which is less than a millisecond":    {Check: time.Microsecond},
		"MinPoll is 1s, which is more than MaxPoll (500ms)": {MinPoll: time.Second},
	} {
		_, err := lock.NewPostgres(ten, &cfg)
		require.ErrorIs(t, err, lock.ErrConfig)
		require.ErrorContains(t, err, want)
	}
	_, err := lock.NewPostgres(pool(t, "1"), nil)
	require.ErrorContains(t, err, "the pool has one connection")
	_, err = lock.NewPostgres(nil, nil)
	require.ErrorContains(t, err, "pool is nil")
}
