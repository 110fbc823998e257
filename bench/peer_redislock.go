package main

import (
	"context"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"
)

// bareRedislock is bsm/redislock by itself. It leaves out renewal, the news of a loss, waiting, the fencing token and waking
// those who wait, the holder's name, and what to do when an answer is lost.
func bareRedislock(client *redis.Client) func(ctx context.Context, key string) error {
	locks := redislock.New(client)
	return func(ctx context.Context, key string) error {
		l, err := locks.Obtain(ctx, key, 10*time.Second, nil)
		if err != nil {
			return err
		}
		return l.Release(ctx)
	}
}
