package lockredis_test

import (
	"context"
	"errors"
	"log"

	"github.com/redis/go-redis/v9"

	"github.com/endstate-go/endstate/lock"
	"github.com/endstate-go/endstate/lock/lockredis"
)

// A lock that several processes share.
func ExampleNew() {
	_ = func(ctx context.Context) error {
		client := redis.NewClient(&redis.Options{Addr: "localhost:6379", ContextTimeoutEnabled: true})
		defer client.Close()
		locks, err := lockredis.New(client, nil)
		if err != nil {
			return err
		}
		defer locks.Close()
		err = locks.Do(ctx, "report/42", func(ctx context.Context) error { return nil })
		switch {
		case errors.Is(err, lock.ErrUnavailable), errors.Is(err, lock.ErrAmbiguous):
			log.Print("Redis is away; the work did not run")
		case errors.Is(err, lock.ErrLost):
			log.Print("the work ran, and somebody else may have done it at the same time")
		}
		return err
	}
}
