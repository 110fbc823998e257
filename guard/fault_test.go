package guard_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// An error is never taken for "no row": neither for an open aggregate nor for a missing one.
func TestErrorsAreNoAnswers(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		s := db.status(t, "batches", "b1")
		ref := batch(guard.Text("b1"))
		nowhere := guard.Ledger{Table: "nowhere"}
		elsewhere := guard.Status{Table: "nowhere", Key: "id", Column: "status", Terminal: terminal}
		requireError := func(err error) {
			t.Helper()
			require.Error(t, err)
			require.NotErrorIs(t, err, guard.ErrNotFound)
			require.NotErrorIs(t, err, guard.ErrNotOpen)
		}
		for _, g := range []guard.Guard{nowhere, elsewhere, guard.All(s, nowhere)} {
			_, err := db.claim(t, g, ref)
			requireError(err)
			require.True(t, sqltx.Incomplete(err), "%v", err)
			db.failing(t, func(ctx context.Context, tx endstate.Tx) {
				_, err := g.Settle(ctx, tx, ref, transition("COMPLETE_STABLE"))
				requireError(err)
			})
			db.failing(t, func(ctx context.Context, tx endstate.Tx) {
				_, err := g.(guard.Reader).Read(ctx, tx, ref)
				requireError(err)
			})
		}
		db.migrate(t, guard.Ledger{})
		for _, g := range []guard.Guard{s, guard.Ledger{}, guard.All(s, guard.Ledger{})} {
			ask := func(ctx context.Context, tx endstate.Tx) {
				t.Helper()
				_, err := g.Claim(ctx, tx, ref)
				requireError(err)
				_, err = g.Settle(ctx, tx, ref, transition("COMPLETE_STABLE"))
				requireError(err)
				_, err = g.(guard.Reader).Read(ctx, tx, ref)
				requireError(err)
			}
			// A transaction that has ended, one that is aborted, and a context that is over.
			db.failing(t, func(ctx context.Context, tx endstate.Tx) {
				require.NoError(t, tx.Rollback(ctx))
				ask(ctx, tx)
			})
			if !db.sqlite {
				db.failing(t, func(ctx context.Context, tx endstate.Tx) {
					_, err := tx.Exec(ctx, "SELECT 1 / 0")
					require.Error(t, err)
					_, err = g.Claim(ctx, tx, ref)
					require.Equal(t, sqltx.FailedTransaction, sqltx.State(err), "%v", err)
					ask(ctx, tx)
				})
			}
			db.failing(t, func(ctx context.Context, tx endstate.Tx) {
				ctx, cancel := context.WithCancel(ctx)
				cancel()
				ask(ctx, tx)
			})
		}
		require.Equal(t, "PENDING", one[string](t, db, "SELECT status FROM batches"))
	})
}

// failing runs f in a transaction that is rolled back.
func (db *database) failing(t testing.TB, f func(ctx context.Context, tx endstate.Tx)) {
	t.Helper()
	ctx := context.Background()
	tx, err := db.begin(ctx)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(ctx) }()
	f(ctx, tx)
}
