package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/endstate-go/endstate/internal/testserver"
	"github.com/endstate-go/endstate/lock/lockredis"
)

// locks are the cases of a Redis lock that nobody else wants. The returned function stops its Redis.
func (b *bencher) locks() ([]bcase, func(), error) {
	server, err := testserver.StartRedis()
	if err != nil {
		return nil, nil, err
	}
	options, err := redis.ParseURL(server.URL())
	if err != nil {
		server.Close()
		return nil, nil, err
	}
	options.PoolSize = connections
	client := redis.NewClient(options)
	ours, err := lockredis.New(client, &lockredis.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		server.Close()
		return nil, nil, err
	}
	free := load{workers: connections, rows: 1_000_000_000}
	way := func(do func(ctx context.Context, key string) error) way {
		var next atomic.Int64
		return func(ctx context.Context) (sample, error) {
			return b.loop(ctx, free, &next, func(ctx context.Context, n int64) error { return do(ctx, fmt.Sprintf("batch/i:%d", n)) })
		}
	}
	return []bcase{{name: "lock-vs-redislock", peer: "bare redislock, obtain and release", must: 0.98,
			ours: way(func(ctx context.Context, key string) error {
				return ours.Do(ctx, key, func(context.Context) error { return nil })
			}),
			theirs: way(bareRedislock(client)),
		}}, func() {
			_ = errors.Join(ours.Close(), client.Close())
			server.Close()
		}, nil
}
