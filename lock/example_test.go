package lock_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/redis/go-redis/v9"

	"github.com/endstate-go/endstate/lock"
)

// The main use: expensive work runs once at a time for a key, and stops when its lease is lost.
func ExampleLocal_Do() {
	var locks lock.Locker = lock.NewLocal() // or lock.NewRedis, lock.NewPostgres
	err := locks.Do(context.Background(), "report/42", func(ctx context.Context) error {
		token, _ := lock.Token(ctx)
		fmt.Println("rendering, fencing token", token)
		return ctx.Err() // which ends with the cause lock.ErrLost
	})
	fmt.Println(err)
	// Output:
	// rendering, fencing token 1
	// <nil>
}

// Try doesn't wait, and says who holds the lock.
func ExampleLocal_Try() {
	locks := lock.NewLocal()
	ctx := lock.WithHolder(context.Background(), "nightly sweep")
	_ = locks.Do(ctx, "report/42", func(ctx context.Context) error {
		err := locks.Try(ctx, "report/42", func(context.Context) error { return nil })
		var held *lock.HeldError
		fmt.Println(errors.As(err, &held), held.Holder)
		return nil
	})
	// Output: true nightly sweep
}

// A lock that several processes share.
func ExampleNewRedis() {
	_ = func(ctx context.Context) error {
		client := redis.NewClient(&redis.Options{Addr: "localhost:6379", ContextTimeoutEnabled: true})
		defer client.Close()
		locks, err := lock.NewRedis(client, nil)
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
