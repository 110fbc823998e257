package lockredis_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/lock"
	"github.com/endstate-go/endstate/lock/lockredis"
)

func TestConfigErrorsNameTheField(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{})
	defer rdb.Close()
	for want, cfg := range map[string]lockredis.Config{
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
		_, err := lockredis.New(rdb, &cfg)
		require.ErrorIs(t, err, lock.ErrConfig)
		require.ErrorContains(t, err, want)
	}
	_, err := lockredis.New(nil, nil)
	require.ErrorContains(t, err, "client is nil")
	var none *redis.ClusterClient
	_, err = lockredis.New(none, nil)
	require.ErrorContains(t, err, "client is nil")
	l, err := lockredis.New(rdb, nil)
	require.NoError(t, err)
	require.NoError(t, l.Close())
	require.ErrorIs(t, l.Do(t.Context(), "k", never(t)), lock.ErrUnavailable, "it is closed")
}
