package outbox_test

import (
	"context"
	"sync"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// atOnce runs f n times at once, and returns the errors.
func atOnce(n int, f func(i int) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// retried is try, again for as long as SQLite is busy, which it is only ever for a limited time's wait.
func (db *database) retried(f func(ctx context.Context, tx endstate.Tx) error) error {
	for {
		err := db.try(f)
		if !db.sqlite || !sqltx.Conflicted(err) {
			return err
		}
	}
}
