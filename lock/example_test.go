package lock_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/endstate-go/endstate/lock"
)

// The main use: expensive work runs once at a time for a key, and stops when its lease is lost.
func ExampleLocal_Do() {
	var locks lock.Locker = lock.NewLocal() // or lock.NewPostgres, lockredis.New
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
