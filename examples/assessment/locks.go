package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/lock"
	"github.com/endstate-go/endstate/lock/lockredis"
)

// openLock opens the lock that the options name; for none it is nil.
func openLock(ctx context.Context, o options) (l finalize.Locker, closeLock func(), err error) {
	quiet := slog.New(slog.DiscardHandler)
	switch o.lock {
	case "redis":
		opts, err := redis.ParseURL(o.redis)
		if err != nil {
			return nil, nil, errors.New("-redis can't be parsed as a redis:// URL") // the error itself would show the password
		}
		client := redis.NewClient(opts)
		if err := client.Ping(ctx).Err(); err != nil {
			return nil, nil, errors.Join(err, client.Close())
		}
		// A service keeps the default Timeout, so that a hanging Redis can't stall it. This one counts scorings, and would
		// rather wait on a busy machine than do one more without the lock.
		locks, err := lockredis.New(client, &lockredis.Config{Timeout: 2 * time.Second, Logger: quiet})
		if err != nil {
			return nil, nil, errors.Join(err, client.Close())
		}
		return locks, func() { _, _ = locks.Close(), client.Close() }, nil
	case "postgres":
		cfg, err := pgxpool.ParseConfig(o.db)
		if err != nil {
			return nil, nil, errors.New("-db can't be parsed as a URL")
		}
		cfg.MaxConns = int32(max(2, 16/o.processes))
		pool, err := pgxpool.NewWithConfig(ctx, cfg)
		if err != nil {
			return nil, nil, err
		}
		// The service works on another pool, so that leases may keep all but one of this one's connections.
		locks, err := lock.NewPostgres(pool, &lock.PostgresConfig{MaxConns: int(cfg.MaxConns) - 1, Logger: quiet})
		if err != nil {
			pool.Close()
			return nil, nil, err
		}
		return locks, pool.Close, nil
	case "local":
		return lock.NewLocal(), func() {}, nil
	}
	return nil, func() {}, nil
}
