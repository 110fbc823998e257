package finalize_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
)

// F6: two callbacks that lock two rows in opposite order. The database breaks one of them off, and it runs again.
func TestADeadlockOfTwoCallbacks(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.exec("CREATE TABLE accounts (id int PRIMARY KEY, n int)")
		w.exec("INSERT INTO accounts VALUES (0, 0), (1, 0)")
		w.open("b0", "b1")
		var arrived, calls sync.WaitGroup
		ended := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
		arrived.Add(2)
		var runs atomic.Int64
		errs := make([]error, 2)
		for i := range 2 {
			calls.Go(func() {
				defer close(ended[i])
				id, again := []string{"b0", "b1"}[i], false
				first := sync.OnceFunc(func() { arrived.Done(); arrived.Wait() })
				var r finalize.Receipt
				r, errs[i] = w.do(t.Context(), guard.Text(id), "threshold", func(ctx context.Context, tx endstate.Tx) (finalize.Outcome, error) {
					runs.Add(1)
					if again {
						<-ended[1-i] // else it might meet the other one again
					}
					again = true
					for n, account := range []int{i, 1 - i} {
						if _, err := tx.Exec(ctx, "UPDATE accounts SET n = n + 1 WHERE id = $1", account); err != nil {
							return finalize.Outcome{}, err
						}
						if n == 0 {
							first()
						}
					}
					return completed(), nil
				})
				if errs[i] == nil && !r.Won {
					errs[i] = errors.New("it lost")
				}
			})
		}
		calls.Wait()
		require.NoError(t, errors.Join(errs...))
		require.EqualValues(t, 3, runs.Load(), "the fault fired")
		require.Equal(t, 1, w.trace.retries())
		require.Equal(t, 2, w.count("SELECT min(n) FROM accounts"))
		w.requireFinal("b0", "COMPLETE_STABLE", "batch.completed")
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
	}, on("pgx", "sql"), param("deadlock_timeout", "50ms"))
}

// F6: a bulk that the database breaks off is settled all the same.
func TestABulkThatTheDatabaseBreaksOff(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"40001", "40P01"} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, w *world) {
				keys := ids(30)
				w.open(keys...)
				w.exec("CREATE SEQUENCE struck")
				w.meddle("BEFORE INSERT", "endstate_outbox", "IF nextval('struck') IN (3, 20) THEN RAISE EXCEPTION 'broken off' USING ERRCODE = '"+code+"'; END IF;", "")
				results, err := w.many(t.Context(), "sweep", items(keys, completed()))
				require.NoError(t, err)
				require.Greater(t, w.count("SELECT last_value FROM struck"), 31, "the fault fired")
				for i, id := range keys {
					require.True(t, results[i].Receipt.Won, id)
					w.requireFinal(id, "COMPLETE_STABLE", "batch.completed")
				}
			}, on("pgx", "sql"))
		})
	}
}
